"""The agent's side of driver processes: starts them, keeps deadlines, ends those that hang."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec

from agent.connectors import pipes
from agent.connectors.base import Call, Connector, DriverSetup, Finding, Outputs, Piece, Ready, Remark, Rows, RowSet
from agent.connectors.rows import outputs_of
from agent.errors import Cancelled, CommandError, DriverCrashed, OutcomeUnknown, SourceUnavailable, TimedOut
from protocol import framing
from protocol.errors import RemoteProtocolError

PIPE_BYTES: Final = 262_144  # bytes read ahead of the consumer at most, times two
OVERTIME_S: Final = 2.0  # seconds the driver has past its timeout to stop by itself; then it is asked
STOP_S: Final = 3.0  # seconds it has after it was asked; then its process is ended
OPEN_S: Final = 30.0  # seconds to start the process and connect, besides the driver's own login timeout
ASK_S: Final = 60.0  # seconds for describe, check and settle
# The enrolment token, the way to the vault's key, and proxies with their passwords.
_PRIVATE: Final = re.compile(r"^OUTHAUL_TOKEN$|^CREDENTIALS_DIRECTORY$|_proxy$", re.IGNORECASE)
if sys.platform == "win32":
    # A console of its own without a window: not the agent's, and none that opens where the agent is a service.
    _CONSOLE: Final = subprocess.CREATE_NO_WINDOW
else:
    _CONSOLE: Final = 0


def worker_command() -> list[str]:
    """Return how this program runs itself as a driver process."""
    if getattr(sys, "frozen", False):
        return [sys.executable, "worker"]
    # -P: the process runs in the folder of the operator's file, where no module may be looked for.
    return [sys.executable, "-P", "-m", "agent.connectors.worker"]


def _environment() -> dict[str, str]:
    """Return our environment without what may hold a secret that is no driver's business."""
    return {key: value for key, value in os.environ.items() if not _PRIVATE.search(key)}


class Session:
    """
    One driver process.

    Attributes:
        ended: why we ended it, in words; ``None`` while we have not.
        late: whether it was asked to stop because the time of what it does was up.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("a driver process needs both pipes")
        self.ended: str | None = None
        self.late = False
        self.timer: asyncio.TimerHandle | None = None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout

    def __repr__(self) -> str:
        return f"<Session pid {self._process.pid} {self.ended or 'alive'}>"

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs and we have not ended it."""
        return self.ended is None and self._process.returncode is None

    @classmethod
    async def start(cls, setup: DriverSetup, driver: str) -> Session:
        """Start a process and tell it what it is; it connects when it is first asked for something."""
        process = await asyncio.create_subprocess_exec(
            *worker_command(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=PIPE_BYTES,
            cwd=Path(setup.base_dir),
            # Ctrl-C on the agent's terminal must not reach drivers: the agent lets them finish, then ends them itself.
            start_new_session=True,
            creationflags=_CONSOLE,
            env=_environment(),
        )
        session = cls(process)
        session.say(
            pipes.Setup(
                driver=driver,
                name=setup.name,
                connection=setup.connection,
                operations=setup.operations,
                base_dir=setup.base_dir,
                state_dir=setup.state_dir,
                secrets=setup.secrets,
            )
        )
        return session

    def say(self, message: pipes.ToDriver, payload: bytes = b"") -> None:
        """Queue a word to the process; a process that has died does not mind."""
        self._stdin.write(framing.pack(pipes.ENCODER.encode(message), payload))

    async def hear(self) -> tuple[pipes.FromDriver, bytes]:
        """
        Return the next word of the process.

        Raises:
            DriverCrashed: the process died, or was ended by us.
        """
        try:
            lengths = framing.unpack_lengths(await self._stdout.readexactly(framing.LENGTHS.size))
            header = await self._stdout.readexactly(lengths[0])
            payload = await self._stdout.readexactly(lengths[1]) if lengths[1] else b""
            message = pipes.FROM_DRIVER.decode(header)
            if isinstance(message, pipes.Failed) and message.error == DriverCrashed.__name__:
                # It is on its way out: a command that it were given now would seem to have died with it.
                self.end(message.message)
            return message, payload
        except (RemoteProtocolError, ValueError) as exc:
            self.end(f"the driver's process said what can't be read ({exc}), and was ended")
            raise DriverCrashed(self.ended or "") from exc
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            code = await self._process.wait()
            if self.ended is not None:
                raise DriverCrashed(self.ended) from exc
            raise DriverCrashed(
                f"the driver's process died ({_how(code)}); if it said why, that stands in the agent's log"
            ) from exc

    def end(self, why: str) -> None:
        """End the process now."""
        if self.ended is None:
            self.ended = why
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def gone(self) -> None:
        """Wait until an ended process is gone, and close its pipes."""
        self._stdin.close()
        await self._process.wait()
        with contextlib.suppress(ConnectionError):
            await self._stdin.wait_closed()


def _asked_by_clock(error: CommandError, session: Session, call: Call) -> CommandError:
    """Return what a driver's ``Cancelled`` means where nobody but the clock had asked it to stop."""
    if not (session.late and isinstance(error, Cancelled)):
        return error
    text = f"it was not done within its timeout of {call.timeout_s:g} s, and was stopped"
    return TimedOut(text, source_code=error.source_code, touched=error.touched)


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


class _Answer(msgspec.Struct):
    """What a driver said to a question; ``payload`` came last."""

    findings: list[Finding] = []
    recalled: Outputs | None = None
    payload: bytes = b""


class DriverConnector(Connector):
    """
    One connection whose driver runs in processes of its own, one for each command at work.

    How many there may be at once is kept by the dispatcher's gate.
    """

    def __init__(self, setup: DriverSetup, driver: str) -> None:
        self._setup = setup
        self._driver = driver
        self._idle: list[Session] = []
        self._running: dict[str, Session] = {}
        self._starting: dict[object, str] = {}  # runs that wait for their process and are still wanted: their commands
        self._alone: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by command
        self._ending: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<DriverConnector {self._setup.name}: {len(self._running)} running, {len(self._idle)} idle>"

    async def run(self, call: Call) -> AsyncGenerator[Piece, None]:
        waiting = object()
        self._starting[waiting] = call.command_id
        try:
            async with (
                self._alone_with(call.command_id),
                contextlib.aclosing(self._run(await self._take_for(call, waiting), call)) as pieces,
            ):
                async for piece in pieces:
                    yield piece
        finally:
            self._starting.pop(waiting, None)

    async def _run(self, session: Session, call: Call) -> AsyncGenerator[Piece, None]:
        self._running[call.command_id] = session
        loop = asyncio.get_running_loop()
        # Timers and not a timeout around the loop below: the deadline also holds while our consumer is waiting.
        session.timer = loop.call_later(call.timeout_s + OVERTIME_S, self._ask_to_stop, session, "timeout", call)
        finished = session.late = False
        try:
            session.say(
                pipes.Do(
                    call.command_id,
                    call.operation,
                    call.timeout_s,
                    call.epoch,
                    call.fingerprint,
                    call.place,
                    call.begin_by,
                    call.rows_as,
                    call.content,
                    call.content_sha256,
                ),
                call.params,
            )
            async for piece in self._pieces(session, call):
                yield piece
            finished = True
        except CommandError:
            finished = session.alive
            raise
        except asyncio.CancelledError:
            # We may have been in the middle of a record: the pipe can't be read any further.
            session.end("the agent stopped it")
            raise
        finally:
            if session.timer is not None:
                session.timer.cancel()
            del self._running[call.command_id]
            if not finished and session.alive:
                await self._drain(session)
            self._give_back(session)

    def _alone_with(self, command_id: str) -> asyncio.Lock:
        """Return the lock under which a command is run, or is looked for."""
        return self._alone.setdefault(command_id, asyncio.Lock())

    async def _pieces(self, session: Session, call: Call) -> AsyncIterator[Piece]:
        while True:
            try:
                message, payload = await session.hear()
            except DriverCrashed as exc:
                raise self._told_apart(exc, session, call) from exc
            if isinstance(message, pipes.SomeRows):
                yield Rows(payload, message.count)
            elif isinstance(message, pipes.Columns):
                yield RowSet(message.columns, message.rows_as)
            elif isinstance(message, pipes.Values):
                yield Outputs(outputs_of(payload))
            elif isinstance(message, pipes.Remarked):
                yield Remark(message.message)
            elif isinstance(message, pipes.Prepared):
                yield Ready()
                session.say(pipes.GoOn())
            elif isinstance(message, pipes.Done):
                return
            elif isinstance(message, pipes.Failed):
                raise _asked_by_clock(pipes.error_of(message), session, call)

    def _told_apart(self, crash: DriverCrashed, session: Session, call: Call) -> CommandError:
        """Return what a dead process means for its command."""
        if session.ended is None:
            return crash
        if self._setup.operations[call.operation].effect == "read":
            return TimedOut(session.ended)
        return OutcomeUnknown(f"{session.ended}; it may have happened")

    def cancel(self, command_id: str) -> None:
        """Ask a running command to stop; its process is ended if it does not."""
        for waiting in [waiting for waiting, wanted in self._starting.items() if wanted == command_id]:
            del self._starting[waiting]
        session = self._running.get(command_id)
        if session is not None:
            self._ask_to_stop(session, "cancel", None)

    def _ask_to_stop(self, session: Session, why: str, call: Call | None) -> None:
        if session.timer is not None:
            session.timer.cancel()
        session.late = call is not None
        reason = (
            f"the driver did not end within the operation's timeout of {call.timeout_s:g} s, and its process was ended"
            if call is not None
            else f"the driver did not stop on {why}, and its process was ended"
        )
        session.say(pipes.Stop())
        session.timer = asyncio.get_running_loop().call_later(STOP_S, session.end, reason)

    async def _drain(self, session: Session) -> None:
        """The consumer went away in the middle: ask the driver to stop, and wait for it, but not long."""
        session.say(pipes.Stop())
        try:
            async with asyncio.timeout(STOP_S):
                while not isinstance((await session.hear())[0], pipes.Done | pipes.Failed):
                    pass
        except (TimeoutError, DriverCrashed):
            session.end("the driver did not stop when it was asked, and its process was ended")

    async def _take_for(self, call: Call, waiting: object) -> Session:
        session = await self._take()
        if self._starting.pop(waiting, None) is None:
            self._give_back(session)
            raise Cancelled("cancelled before it started", touched=False)
        return session

    async def _take(self) -> Session:
        while self._idle:
            session = self._idle.pop()
            if session.timer is not None:
                session.timer.cancel()
            if session.alive:
                return session
            self._give_back(session)
        try:
            return await Session.start(self._setup, self._driver)
        except OSError as exc:
            raise SourceUnavailable(f"the driver's process could not be started: {exc}", touched=False) from exc

    def _give_back(self, session: Session) -> None:
        if session.alive:
            self._idle.append(session)
            session.timer = asyncio.get_running_loop().call_later(
                self._setup.connection.idle, self._end, session, "unused"
            )
        else:
            self._end(session, "dead")

    def _end(self, session: Session, why: str) -> None:
        if session in self._idle:
            self._idle.remove(session)
        session.end(why)
        task = asyncio.create_task(session.gone(), name=f"end of driver process {session.pid}")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _ask(self, question: pipes.ToDriver, payload: bytes = b"", within_s: float = ASK_S) -> _Answer:
        """Put a question that is no command."""
        session = await self._take()
        session.timer = asyncio.get_running_loop().call_later(
            within_s, session.end, f"no answer within {within_s:g} s, and its process was ended"
        )
        answer = _Answer()
        try:
            session.say(question, payload)
            while True:
                message, answer.payload = await session.hear()
                if isinstance(message, pipes.Found):
                    answer.findings.append(message.finding)
                elif isinstance(message, pipes.Recalled):
                    answer.recalled = Outputs(outputs_of(answer.payload), message.rows)
                elif isinstance(message, pipes.Done):
                    return answer
                elif isinstance(message, pipes.Failed):
                    raise pipes.error_of(message)
        except asyncio.CancelledError:
            # The answer would be taken for that of the next question.
            session.end("nobody waits for its answer any more")
            raise
        finally:
            session.timer.cancel()
            self._give_back(session)

    async def find(self, call: Call) -> Outputs | None:
        async with self._alone_with(call.command_id):
            question = pipes.Find(
                call.command_id, call.operation, call.timeout_s, call.epoch, call.fingerprint, call.place
            )
            answer = await self._ask(question, call.params, OPEN_S + call.timeout_s + OVERTIME_S)
        return answer.recalled

    async def settle(self, call: Call, outputs: Mapping[str, Any]) -> None:
        await self._ask(pipes.Settle(call.command_id, call.operation, call.epoch), pipes.ENCODER.encode(outputs))

    async def describe(self, operation: str) -> dict[str, Any] | None:
        answer = (await self._ask(pipes.Describe(operation))).payload
        return msgspec.json.decode(answer, type=dict[str, Any]) if answer else None

    async def check(self, operation: str | None = None) -> list[Finding]:
        subject = f"operation {operation}" if operation else f"connection {self._setup.name}"
        try:
            findings = (await self._ask(pipes.Check(operation))).findings
        except CommandError as exc:
            crashed = isinstance(exc, DriverCrashed)
            return [
                Finding(subject, False, exc.message, code=exc.remedy or f"connection.{'crash' if crashed else 'open'}")
            ]
        return findings or [Finding(subject, True, "works")]

    async def close(self) -> None:
        for session in [*self._idle, *self._running.values()]:
            self._end(session, "the agent is stopping")
        await asyncio.gather(*self._ending, return_exceptions=True)
