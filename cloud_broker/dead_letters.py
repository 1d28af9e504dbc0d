"""What needs a person: why, what is safe, and what the person then says or asks for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from msgspec.structs import replace

from cloud_broker.commands import Submission
from cloud_broker.errors import (
    CommandNotFound,
    Conflict,
    IdempotencyKeyReused,
    NotFinished,
    ResolveFirst,
    SignatureWanted,
)
from cloud_broker.store.answers import IdempotencyConflict
from cloud_broker.store.base import Store
from cloud_broker.store.commands import Command, CommandError, Resolution, Step
from cloud_broker.tenants import Scope
from cloud_broker.timeline import Attempt, Phase, attempts, phase, timeline
from protocol.states import FINAL, CommandState

Safe = Literal["replay", "resolve_first"]
Found = Literal["happened", "not_happened"]


class Path(Protocol):
    """The way that new commands take; ``Commands`` is one."""

    async def get(self, scope: Scope, command_id: str) -> Command:
        """Return a command, or raise CommandNotFound."""

    async def checked(self, scope: Scope, submission: Submission) -> Command:
        """Return what was asked for as a command, or raise why it can't be."""

    def take(self, command: Command) -> None:
        """Send a command on its way."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """
    What a person needs to know of a dead letter.

    Attributes:
        why: it died.
        phase: how far it had come then.
        safe: whether it may be replayed, or somebody must find out first whether it happened.
        advice: what to do, for people.
        approval: id of the last approval that waits for a second person, if there is one; it may have expired.
    """

    command: Command
    why: str
    phase: Phase
    attempts: Sequence[Attempt]
    safe: Safe
    advice: str
    approval: str | None = None


class DeadLetters:
    """What the HTTP API asks about what went wrong, and has done about it."""

    def __init__(self, store: Store, path: Path) -> None:
        self._store = store
        self._path = path

    async def timeline(self, scope: Scope, command_id: str) -> tuple[Command, list[Step]]:
        """Return a command and all that happened to it, oldest first. Raises ``CommandNotFound``."""
        command = await self._path.get(scope, command_id)
        return command, timeline(command, await self._store.steps(scope, command_id))

    async def letter(self, scope: Scope, command: Command) -> DeadLetter:
        """Return what a person needs to know of a dead letter."""
        return letter(command, await self._store.steps(scope, command.id))

    async def resolve(
        self, scope: Scope, command_id: str, found: Found, *, by: str, who: str = "", note: str = ""
    ) -> Command:
        """
        Keep what a person found out of a command in doubt; return it with its new state.

        The same finding again changes nothing.

        Args:
            by: id of the key that says so; ``who`` is the person.

        Raises:
            CommandNotFound: there is none.
            NotFinished: it is under way.
            Conflict: it was never in doubt, or somebody found the opposite before.
        """
        command = await self._path.get(scope, command_id)
        if command.state is CommandState.IN_DOUBT:
            happened = found == "happened"
            state = CommandState.SUCCEEDED if happened else CommandState.FAILED
            error = None if happened else CommandError("technical", "found_not_happened", _not_happened(who, note))
            await self._store.resolve(scope, command_id, state, Resolution(found, by, time.time(), who, note), error)
            # Another may have resolved it at the same moment: what is kept counts.
            command = await self._path.get(scope, command_id)
        if command.resolution is not None and command.resolution.found == found:
            return command
        raise _not_to_resolve(command)

    async def replay(
        self,
        scope: Scope,
        command_id: str,
        *,
        by: str,
        ttl_s: float | None = None,
        traceparent: str = "",
        signature: str = "",
        idempotency_key: str | None = None,
        run: str = "",
    ) -> tuple[Command, bool]:
        """
        Submit a command again that has ended without success; return the new one, and whether it is new.

        A command is replayed once: asked again, this returns the same replay.

        Args:
            by: id of the key that asks for it.
            ttl_s: as of a submission; ``None`` for as long as the original had.
            signature: a new one, where the original had one or its operation wants one by now.
            idempotency_key: that it was made for.
            run: the id of the run that this is part of.

        Raises:
            CommandNotFound: there is none.
            ResolveFirst: it is in doubt.
            SignatureWanted: the original was signed, and this is not.
            IdempotencyKeyReused: the key was used for another command.
            NotFinished: it is under way.
            Conflict: it succeeded.
            BrokerError: as of ``Commands.submit``: what it asks for is not there any more, or does not fit any more.
        """
        original = await self._path.get(scope, command_id)
        if original.replayed_by is not None:
            return await self._path.get(scope, original.replayed_by), False
        _check_replayable(original)
        if original.signature and not signature:
            raise SignatureWanted(
                f"{original.id} was signed, for once: sign it again "
                f"(outhaul replay {original.id} --sign-with KEYFILE), with a new key"
            )
        wanted = replace(_again(original, by, ttl_s, traceparent), signature=signature, idempotency_key=idempotency_key)
        again = replace(await self._path.checked(scope, wanted), replay_of=original.id)
        try:
            kept, new = await self._store.replay(scope, original.id, again, run)
        except IdempotencyConflict as exc:
            raise IdempotencyKeyReused(f"{exc}; use a new key, and sign it") from exc
        except LookupError as exc:  # its time in the store was up meanwhile
            raise CommandNotFound(f"there is no command {command_id!r}") from exc
        if new:
            self._path.take(kept)
            return kept, True
        return await self._path.get(scope, kept.id), False


def letter(command: Command, steps: Sequence[Step]) -> DeadLetter:
    """Return what a person needs to know, from a command that failed, expired or is in doubt."""
    in_doubt = command.state is CommandState.IN_DOUBT
    return DeadLetter(
        command=command,
        why=_why(command, steps),
        phase=phase(command, steps),
        attempts=attempts(command, steps),
        safe="resolve_first" if in_doubt else "replay",
        advice=_advice(command, steps),
        approval=_approval(steps),
    )


def _why(command: Command, steps: Sequence[Step]) -> str:
    why = command.error.message if command.error is not None else f"it ended as {command.state}, and no reason is known"
    failed = [step.error for step in steps if step.step == "attempt_failed" and step.error is not None]
    if command.state is CommandState.EXPIRED and failed:
        return f"{why}; the last attempt failed: {failed[-1].message}"
    return why


def _approval(steps: Sequence[Step]) -> str | None:
    waiting: dict[str, None] = {}
    for step in steps:
        if step.step.startswith("approval_"):
            approval_id = step.detail.partition(":")[0]
            if step.step == "approval_asked":
                waiting[approval_id] = None
            else:
                waiting.pop(approval_id, None)
    return next(reversed(waiting), None)


def _advice(command: Command, steps: Sequence[Step]) -> str:
    if command.state is CommandState.IN_DOUBT:
        late = [step.outcome for step in steps if step.step == "late_answer" and step.outcome]
        heard = f" A late answer of its agent says: {late[-1]}." if late else ""
        return f"Find out in the ERP whether it happened, and resolve it with what you found; then go on.{heard}"
    if command.state is CommandState.EXPIRED and command.effect == "idempotent" and command.dispatched_at is not None:
        return "It may have begun, and may run any number of times. Replay it if it is still wanted."
    if command.state is CommandState.EXPIRED:
        return "It had no effect. Replay it if it is still wanted."
    if command.resolution is not None:
        return "Somebody found that it had not happened. Replay it if it is still wanted."
    if command.effect in ("read", "idempotent"):
        return "It may run any number of times. Replay it once the cause is removed."
    return "It had no effect. Replay it once the cause is removed."


def _check_replayable(command: Command) -> None:
    if command.state not in FINAL:
        raise NotFinished(f"{command.id} is {command.state}; only a command that has ended is replayed")
    if command.state is CommandState.IN_DOUBT:
        raise ResolveFirst(
            f"{command.id} is in doubt: find out in the ERP whether it happened and resolve it "
            f"(POST /v1/commands/{command.id}/resolve, or `outhaul resolve`); if it had not happened, replay it then"
        )
    if command.state is CommandState.SUCCEEDED:
        raise Conflict(f"{command.id} succeeded; who wants it a second time submits a new command")


def _again(original: Command, by: str, ttl_s: float | None, traceparent: str) -> Submission:
    return Submission(
        operation=original.operation,
        params=original.params,
        # One that was asked of a group goes to any of it again.
        agent=None if original.group is not None else original.agent,
        group=original.group,
        ttl_s=original.expires_at - original.created_at if ttl_s is None else ttl_s,
        correlation_id=original.correlation_id,
        ordering_key=original.ordering_key,
        priority=original.priority,
        traceparent=traceparent or original.traceparent,
        key_id=by,
        # What was sealed stays so: it was sealed to this agent, and its result goes to the key that it names.
        sealed=original.sealed,
        seal_to=original.seal_to,
        rows_as=original.rows_as,
    )


def _not_happened(who: str, note: str) -> str:
    return f"{who or 'somebody'} found that it had not happened{f': {note}' if note else ''}"


def _not_to_resolve(command: Command) -> Conflict:
    if command.state not in FINAL:
        return NotFinished(f"{command.id} is {command.state}; only a command in doubt is resolved")
    if command.resolution is not None:
        said = command.resolution
        return Conflict(
            f"{command.id} was resolved before as {said.found}, by {said.who or f'the key {said.by}'}; that stands",
            found=said.found,
        )
    return Conflict(f"{command.id} is {command.state}; only a command in doubt is resolved")
