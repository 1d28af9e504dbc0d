"""
What agents still tell of attempts that no longer count: kept as evidence, changing nothing.

Such an attempt is one that the agent holds from an earlier link though its command went on or ended without it, or
one that ends after the broker gave it up. Its outcome may be what a person needs to find out what happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from cloud_broker.background import store_pause
from cloud_broker.errors import StoreUnavailable
from cloud_broker.lines import Line, forget
from cloud_broker.link.conversation import Conversation
from cloud_broker.router import Router
from cloud_broker.settlement import REPEATABLE, error_of
from cloud_broker.store.base import Store
from cloud_broker.store.commands import Command, Step
from cloud_broker.tenants import Scope
from protocol.messages import Completed, Held, Resume
from protocol.states import FINAL, CommandState, Phase

MAX_OUTPUT_BYTES: Final = 65_536  # bytes of a late answer's outputs that are kept; evidence, not a result
MAX_ANSWERS: Final = 100  # late ones of one command; an agent may name any attempt it likes
TELL_S: Final = 10.0  # seconds that an agent has to tell the end of what it says has ended


class LateAnswers:
    """The part of the desk that is about attempts which no longer count."""

    def __init__(self, store: Store, router: Router, now: Callable[[], float]) -> None:
        self._store = store
        self._router = router
        self._now = now

    def ask(self, link: Conversation, line: Line, held: Sequence[Held]) -> None:
        """
        Ask for the ends of attempts that an agent holds and that no longer count; it may forget those that are known.

        Until those of open commands are told, nothing is sent on the link: the same command could be among it.
        """
        line.strays.clear()
        scope = Scope(line.tenant)
        for one in held:
            entry = self._router.entry(scope, one.id)
            if entry is None:
                line.strays[one.id] = False
            elif one.ended and one.epoch < entry.command.epoch:
                line.strays[one.id] = True
            else:
                # What came of it is known: that is why its command is back in the queue. Or nobody waits for it.
                forget(link, one.id, one.epoch)
                continue
            self._router.background.spawn(self._ask(link, line, one), f"ask what came of {one.id}")
        if self._blocked(line):
            self._router.background.spawn(self._give_up(link, line), f"wait for what {line.tenant}/{line.agent} holds")
        else:
            link.ready = True

    def _blocked(self, line: Line) -> bool:
        return any(line.strays.values())

    async def _ask(self, link: Conversation, line: Line, held: Held) -> None:
        found = await self._found(link, line, held.id)
        if found is None or line.link is not link or link.phase(held.id) is not Phase.HELD:
            return
        command, steps = found
        # A read that still runs is stopped; an effect that still runs is waited for.
        running = command is not None and not held.ended and command.effect in REPEATABLE
        if running or known(command, steps, held.epoch):
            self._done(link, line, held.id, held.epoch)
        else:
            link.say(Resume(held.id, held.epoch, offset=held.sent, credit=link.window))

    async def _give_up(self, link: Conversation, line: Line) -> None:
        await asyncio.sleep(TELL_S)
        if line.link is link and not link.ready and self._blocked(line):
            link.end("protocol", "what was said to have ended was not told")

    def told(self, link: Conversation, line: Line, message: Completed, outputs: bytes) -> None:
        """An attempt that no longer counts has ended; the agent may forget it once that is kept."""
        line.strays.setdefault(message.id, False)
        self._router.background.spawn(
            self._keep(link, line, message, outputs), f"keep what came late of {message.id}", ending=True
        )

    async def _keep(self, link: Conversation, line: Line, message: Completed, outputs: bytes) -> None:
        while (entry := self._router.entry(Scope(line.tenant), message.id)) is not None and entry.finishing:
            # One that was given up: were its end not kept before the agent forgets it, it would be sent again.
            await entry.moves.rung()
        found = await self._found(link, line, message.id)
        if found is None:
            return
        command, steps = found
        if command is not None and not known(command, steps, message.epoch) and not same(command, message):
            fits = len(outputs) <= MAX_OUTPUT_BYTES
            step = Step(
                command.id,
                self._now(),
                "late_answer",
                attempt=message.epoch,
                agent=line.agent,
                outcome=message.outcome,
                error=error_of(message),
                detail="" if fits else f"its outputs of {len(outputs)} bytes are too large to be kept here",
                outputs=outputs if outputs and fits else None,
            )
            while True:
                try:
                    await self._store.add_step(Scope(line.tenant), step)
                    break
                except StoreUnavailable:
                    await store_pause()
                    if line.link is not link:
                        # The agent holds it, and tells it again.
                        return
        self._done(link, line, message.id, message.epoch)

    def _done(self, link: Conversation, line: Line, command_id: str, epoch: int) -> None:
        if line.link is not link:
            return
        line.strays.pop(command_id, None)
        forget(link, command_id, epoch)
        if not link.ready and not self._blocked(line):
            link.ready = True
            self._router.dispatch(line)

    async def _found(
        self, link: Conversation, line: Line, command_id: str
    ) -> tuple[Command | None, Sequence[Step]] | None:
        """Return a command that it may have been sent, and its steps; ``None`` if the link is gone before that."""
        scope = Scope(line.tenant)
        while line.link is link:
            try:
                command = await self._store.command(scope, command_id)
                if command is None or not concerns(command, line):
                    return None, ()
                return command, await self._store.steps(scope, command_id)
            except StoreUnavailable:
                await store_pause()
        return None


def concerns(command: Command, line: Line) -> bool:
    """Whether an agent may have been sent a command; of those of others its word is no evidence."""
    return command.agent == line.agent or (command.group is not None and command.group == line.group)


def known(command: Command | None, steps: Sequence[Step], epoch: int) -> bool:
    """Whether what came of an attempt is known already, or is of no use to anybody."""
    if command is None:
        return True
    late = [step.attempt for step in steps if step.step == "late_answer"]
    failed = [step.attempt for step in steps if step.step == "attempt_failed"]
    if epoch in late or epoch in failed or len(late) >= MAX_ANSWERS:
        return True
    # Only an agent's own word makes these two.
    return epoch == command.epoch and command.state in (CommandState.SUCCEEDED, CommandState.REJECTED)


def same(command: Command, message: Completed) -> bool:
    """Whether an answer is the very one that ended the command."""
    code = command.error.code if command.error is not None else ""
    ended_so = command.state in FINAL and command.state == message.outcome and code == message.error_code
    return ended_so and command.epoch == message.epoch
