"""
The driver's process: one session to one local system, spoken to over standard input and output.

The same program is run again for it (``python -m agent.connectors.worker``, or the frozen agent with
the word ``worker``). It ends when its standard input does, so it never outlives the agent.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import BinaryIO, Final, NoReturn

import msgspec
from msgspec.structs import replace

from agent import awake, discretion
from agent.connectors import pipes
from agent.connectors.base import Call, Driver, DriverSetup, Outputs, Piece, Ready, Remark, Rows, RowSet
from agent.discretion import hushed
from agent.errors import (
    Cancelled,
    CommandError,
    DeadlinePassed,
    DriverCrashed,
    OutcomeUnknown,
    SourceUnavailable,
    TimedOut,
)
from agent.leaving import too_many
from protocol import framing, limits
from protocol.framing import Buffer

if sys.platform == "linux":
    import fcntl

ROOM_BYTES: Final = 1_048_576  # of Linux's pipe to the agent, so that a source is read while the agent has other work
PART_BYTES: Final = limits.MAX_MESSAGE_BYTES // 2  # of rows in one word to the agent


def load(name: str) -> Callable[[DriverSetup], Driver]:
    """
    Return the driver class that a line of ``CONNECTORS`` names, such as ``package.module:Class``.

    Raises:
        SourceUnavailable: a library that it needs is not on this machine.
    """
    module, _, attribute = name.partition(":")
    try:
        found: Callable[[DriverSetup], Driver] = getattr(importlib.import_module(module), attribute)
    except ImportError as exc:
        raise SourceUnavailable(
            f"{module} can't be loaded: {exc}; install the library that is missing",
            touched=False,
            remedy="connection.library",
        ) from exc
    return found


class Worker:
    """Serves one driver to the agent at the other end of the pipes."""

    def __init__(self, said: BinaryIO, say: BinaryIO) -> None:
        self._said = said
        self._say = say
        self._asked: queue.SimpleQueue[tuple[pipes.ToDriver, bytes]] = queue.SimpleQueue()
        self._driver: Driver | None = None
        self._fresh = False
        self._busy = threading.Event()
        self._stopped = False  # whether the last Do was followed by a Stop
        self._go_on = threading.Event()  # set by GoOn, and by Stop

    def serve(self) -> None:
        """Serve until the pipe ends; does not return."""
        threading.Thread(target=self._listen, name="listen to the agent", daemon=True).start()
        setup, _ = self._asked.get()
        if not isinstance(setup, pipes.Setup):
            raise TypeError(f"the first word must be Setup, not {type(setup).__name__}")
        discretion.keep_quiet_about(setup.secrets)
        driver_setup = DriverSetup(
            name=setup.name,
            connection=setup.connection,
            operations=setup.operations,
            base_dir=setup.base_dir,
            state_dir=setup.state_dir,
        )
        while True:
            asked, payload = self._asked.get()
            try:
                answer = self._serve_one(asked, payload, setup.driver, driver_setup)
            except CommandError as exc:
                self._tell(pipes.failure(exc))
            except Exception as exc:  # vendor code may raise anything: this session is over, the reason is told
                self._tell(pipes.failure(DriverCrashed(f"{type(exc).__name__} in the driver: {exc}")))
                os._exit(1)
            else:
                self._tell(pipes.Done(), answer)

    def _serve_one(
        self,
        asked: pipes.ToDriver,
        payload: bytes,
        name: str,
        setup: DriverSetup,
    ) -> bytes:
        if isinstance(asked, pipes.Stop):
            # It came after what it was meant for had ended.
            return b""
        driver = self._opened(name, setup)
        if isinstance(asked, pipes.Do):
            if asked.begin_by and awake.now() >= asked.begin_by:
                # The agent may have slept between its own look at the time and its word.
                raise DeadlinePassed("its time was up before it could start", touched=False)
            call = replace(
                _call(asked, payload),
                rows_as=asked.rows_as,
                content=asked.content,
                content_sha256=asked.content_sha256,
            )
            self._run(driver, call)
        elif isinstance(asked, pipes.Find):
            outputs = driver.find(_call(asked, payload))
            if outputs is not None:
                self._tell(pipes.Recalled(outputs.rows), pipes.ENCODER.encode(outputs.values))
        elif isinstance(asked, pipes.Settle):
            call = Call(asked.command_id, asked.operation, b"{}", 60.0, asked.epoch)
            driver.settle(call, msgspec.json.decode(payload))
        elif isinstance(asked, pipes.Describe):
            schema = driver.describe(asked.operation)
            return b"" if schema is None else pipes.ENCODER.encode(schema)
        elif isinstance(asked, pipes.Check):
            for finding in driver.check(asked.operation):
                self._tell(pipes.Found(replace(finding, detail=hushed(finding.detail), fix=hushed(finding.fix))))
        return b""

    def _opened(self, name: str, setup: DriverSetup) -> Driver:
        if self._driver is not None and not self._driver.alive():
            self._driver.close()
            self._driver = None
        if self._driver is None:
            driver = load(name)(setup)
            driver.open()
            self._driver = driver
        return self._driver

    def _run(self, driver: Driver, call: Call) -> None:
        end = time.monotonic() + call.timeout_s
        pieces = driver.run(call)
        self._busy.set()
        if self._stopped:
            # It came before there was anything to stop, such as while the driver was connecting.
            driver.cancel()
        most, rows = driver.setup.operations[call.operation].max_rows, 0
        try:
            for piece in pieces:
                if isinstance(piece, Rows):
                    rows += piece.count
                    if most is not None and rows > most:
                        _refuse(pieces, too_many(call.operation, most))
                    self._tell_rows(piece)
                elif isinstance(piece, RowSet):
                    self._tell(pipes.Columns(piece.columns, piece.rows_as))
                elif isinstance(piece, Outputs):
                    self._tell_outputs(piece)
                elif isinstance(piece, Remark):
                    self._tell(pipes.Remarked(hushed(piece.message)))
                elif isinstance(piece, Ready):
                    self._wait_for_leave(pieces, call, end)
        finally:
            self._busy.clear()

    def _wait_for_leave(self, pieces: Iterator[Piece], call: Call, end: float) -> None:
        """
        Wait until the agent has kept what came.

        Raises:
            Cancelled, TimedOut: it will not, or not in time; the work was undone.
        """
        self._go_on.clear()
        if not self._stopped:
            self._tell(pipes.Prepared())
            in_time = self._go_on.wait(max(0.0, end - time.monotonic()))
            if in_time and not self._stopped:
                return
        if isinstance(pieces, Generator):
            pieces.close()
        if self._stopped:
            raise Cancelled(f"{call.operation}: stopped before anything was kept at the source")
        raise TimedOut(f"{call.operation}: its rows were not fetched within its timeout of {call.timeout_s:g} s")

    def _tell_rows(self, rows: Rows) -> None:
        view = memoryview(rows.data)
        while len(view) > PART_BYTES:  # a document in one row; its last part counts it
            self._tell(pipes.SomeRows(0), view[:PART_BYTES])
            view = view[PART_BYTES:]
        self._tell(pipes.SomeRows(rows.count), view)

    def _tell_outputs(self, outputs: Outputs) -> None:
        payload = pipes.ENCODER.encode(outputs.values)
        if len(payload) > limits.MAX_OUTPUT_BYTES:
            raise OutcomeUnknown(
                f"it ran, but its outputs of {len(payload)} bytes are more than the {limits.MAX_OUTPUT_BYTES} that go "
                "over the link; let the operation return less"
            )
        self._tell(pipes.Values(), payload)

    def _tell(self, message: pipes.FromDriver, payload: Buffer = b"") -> None:
        self._say.write(framing.pack(pipes.ENCODER.encode(message), payload))
        self._say.flush()

    def _listen(self) -> None:
        try:
            self._hear()
        except Exception:  # whatever it is: who no longer hears the agent must not seem to be at work
            sys.excepthook(*sys.exc_info())
            os._exit(1)

    def _hear(self) -> None:
        while True:
            prefix = self._said.read(framing.LENGTHS.size)
            if len(prefix) < framing.LENGTHS.size:
                # The agent is gone. What runs here loses its session, and with it whatever was not committed.
                os._exit(0)
            header_length, payload_length = framing.unpack_lengths(prefix)
            header, payload = self._said.read(header_length), self._said.read(payload_length)
            asked = pipes.TO_DRIVER.decode(header)
            if isinstance(asked, pipes.Stop):
                # From this thread: the other one is inside the driver.
                self._stopped = True
                self._go_on.set()
                if self._driver is not None and self._busy.is_set():
                    self._driver.cancel()
            elif isinstance(asked, pipes.GoOn):
                self._go_on.set()
            else:
                self._stopped = False
                self._asked.put((asked, payload))


def _refuse(pieces: Iterator[Piece], error: CommandError) -> NoReturn:
    """Refuse what a driver yields: it undoes what it did, and may find that it can't."""
    if isinstance(pieces, Generator):
        pieces.throw(error)
    raise error


def _call(asked: pipes.Do | pipes.Find, params: bytes) -> Call:
    return Call(asked.command_id, asked.operation, params, asked.timeout_s, asked.epoch, asked.fingerprint, asked.place)


def main() -> None:
    """Take standard input and output for the agent alone; what drivers print goes to standard error."""
    discretion.begin()  # before the first secret comes
    said = os.fdopen(os.dup(0), "rb")
    say = os.fdopen(os.dup(1), "wb")
    if sys.platform == "linux":  # 65,536 there; Windows takes no wish for a pipe that is open
        with contextlib.suppress(OSError):  # no pipe, or more than an account may have of them
            fcntl.fcntl(say, fcntl.F_SETPIPE_SZ, ROOM_BYTES)
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    sys.stdin, sys.stdout = open(os.devnull), sys.stderr  # noqa: SIM115 - for the life of the process
    Worker(said, say).serve()


if __name__ == "__main__":
    main()
