"""A command that was submitted: waiting for its end, giving its rows, telling what came of it."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO, Final, Literal

from cloud_broker.client.errors import NotReachable, ProblemError, ResultCut, WordsError
from cloud_broker.client.progress import Progress, in_words
from cloud_broker.client.records import Command

if TYPE_CHECKING:
    from cloud_broker.client.api import Outhaul, RowFormat
    from cloud_broker.client.unsealed import Unsealed

    Reader = Outhaul | Unsealed

LOOK_S: Final = 1.0  # seconds between two looks at a command that somebody watches
UNWATCHED_LOOK_S: Final = 10.0  # seconds; nobody sees the line, so it need not change
PATIENCE_S: Final = 60.0  # seconds without an answer while we wait for the end; a restart takes less
TICK_S: Final = 0.2  # seconds; Ctrl-C on Windows is noticed between two of them
PIECES_AHEAD: Final = 8  # pieces of rows that wait for a slow standard output

Format = Literal["table", "csv", "ndjson", "json", "arrow"]

ENDS: Final = {
    "rejected": "rejected by the ERP",
    "failed": "failed",
    "in_doubt": "in doubt",
    "expired": "expired",
    "cancelled": "cancelled",
}
ADVICE: Final = {
    "in_doubt": "It may have happened or not: look in the ERP, then `outhaul resolve {id}` with what you found.",
}


@dataclass(frozen=True, slots=True)
class Wishes:
    """
    How the result is wanted.

    Attributes:
        wait_s: seconds to wait for the end; ``None`` waits as long as it takes.
        set_index: the only row set wanted; ``None``: all in a table, the first otherwise.
        max_rows: of each row set in a table.
    """

    format: Format = "table"
    wait_s: float | None = None
    set_index: int | None = None
    max_rows: int = 1000

    @property
    def streams(self) -> bool:
        """Whether rows are given as they come."""
        return self.format in ("csv", "ndjson", "arrow")


def check_arrow(wishes: Wishes, *, sealed: bool) -> None:
    """Raise ``WordsError`` where rows as Arrow can't be had, or would go to a terminal."""
    if wishes.format != "arrow":
        return
    if sealed:
        raise WordsError("--format arrow: the rows of a sealed result come as NDJSON; take ndjson or csv")
    if sys.stdout.isatty():
        raise WordsError("--format arrow writes no text: send it to a file, such as > rows.arrow")


class StillRunning(Exception):
    """The time to wait is over; ``command`` is where it stood."""

    def __init__(self, command: Command) -> None:
        super().__init__(command.id)
        self.command = command


def follow(client: Reader, command: Command, wishes: Wishes, progress: Progress, out: BinaryIO) -> Command:
    """
    Wait for the end of ``command``, give its result to ``out`` as wished, and return the ended command.

    Raises:
        StillRunning: ``wishes.wait_s`` passed.
        ResultCut: rows are missing from what was given.
    """
    deadline = None if wishes.wait_s is None else time.monotonic() + wishes.wait_s
    if wishes.streams:
        return _stream(client, command, wishes, deadline, progress, out)
    command = _wait(client, command, deadline, progress)
    if wishes.format == "json":
        progress.stop()
        _document(client, command, wishes, out)
        return command
    progress.stop()
    _print_tables(client, command, wishes)
    return command


def ended(client: Reader, command: Command, wait_s: float | None, progress: Progress) -> Command:
    """
    Wait for the end of ``command`` and return it, with nothing of its result.

    Raises:
        StillRunning: ``wait_s`` passed.
    """
    command = _wait(client, command, None if wait_s is None else time.monotonic() + wait_s, progress)
    progress.stop()
    return command


def tell_end(command: Command, seconds: float) -> int:
    """Tell on standard error what came of an ended command; return the exit code."""
    for warning in command.warnings:
        tell(f"warning: {warning}")
    if command.succeeded:
        rows = sum(found.rows for found in command.row_sets)
        told = f"{rows:,} {'row' if rows == 1 else 'rows'} in " if command.row_sets else "done in "
        tell(f"{told}{seconds:.1f} s")
        return 0
    error = command.error
    line = ENDS.get(command.state, command.state)
    if error is not None:
        code = f" ({error.source_code})" if error.source_code else ""
        line = f"{line}: {error.code}{code}: {error.message}"
    tell(line)
    if command.state in ADVICE:
        tell(ADVICE[command.state].format(id=command.id))
    return 1


def tell(text: str) -> None:
    """Write one line to standard error, without anything a terminal would obey."""
    shown = "".join(c if c.isprintable() or c == " " else " " for c in text)
    print(shown, file=sys.stderr, flush=True)  # noqa: T201 - the command's own words to its user


# --- waiting ------------------------------------------------------------------------------------


def _wait(client: Reader, command: Command, deadline: float | None, progress: Progress) -> Command:
    answered = time.monotonic()
    while not command.final:
        progress.state(command)
        try:
            command = _look(client, command, deadline, LOOK_S if progress.shown else UNWATCHED_LOOK_S)
            answered = time.monotonic()
        except NotReachable:
            # A broker that is started anew goes on with the command, and so do we.
            if time.monotonic() - answered > PATIENCE_S:
                raise
    return command


def _look(client: Reader, command: Command, deadline: float | None, look_s: float) -> Command:
    left_s = look_s if deadline is None else min(look_s, deadline - time.monotonic())
    if left_s <= 0:
        raise StillRunning(command)
    return client.command(command.id, wait_s=left_s)


# --- csv, ndjson and arrow ----------------------------------------------------------------------


def _stream(
    client: Outhaul | Unsealed,
    command: Command,
    wishes: Wishes,
    deadline: float | None,
    progress: Progress,
    out: BinaryIO,
) -> Command:
    number, seen = wishes.set_index or 0, 0
    # The line and the rows would tear each other apart on one terminal.
    quiet = sys.stdout.isatty()
    try:
        for piece in _pieces(client, command, wishes, deadline, progress):
            if quiet:
                progress.stop()
            out.write(piece)
            out.flush()
            seen += piece.count(b"\n")
            if not quiet and wishes.format != "arrow":
                progress.rows(seen)
    except ProblemError as exc:
        if exc.code not in ("row_set_not_found", "result_gone"):
            raise
        command = _wait(client, command, deadline, progress)
        # A command that did not succeed has nothing to give; its own error says more.
        if command.succeeded and (command.row_sets or wishes.set_index is not None):
            raise
    except ResultCut:
        command = _wait(client, command, deadline, progress)
        if command.succeeded:
            raise
    command = _wait(client, command, deadline, progress)
    progress.stop()
    if command.succeeded and wishes.format == "ndjson" and number < len(command.row_sets):
        wanted = command.row_sets[number].rows
        if wanted != seen:
            raise ResultCut(f"row set {number} has {wanted:,} rows, {seen:,} came")
    for name, value in command.outputs.items():
        tell(f"output {name}: {value if isinstance(value, str) else _json(value)}")
    _tell_other_sets(command, number, wishes)
    return command


def _pieces(
    client: Reader, command: Command, wishes: Wishes, deadline: float | None, progress: Progress
) -> Iterator[bytes]:
    """Yield the rows as they come; a thread of its own waits for them, so that we can tell where the command stands."""
    ahead: queue.Queue[bytes | BaseException | None] = queue.Queue(PIECES_AHEAD)
    left = threading.Event()
    row_format: RowFormat = "csv" if wishes.format == "csv" else "arrow" if wishes.format == "arrow" else "ndjson"

    def put(item: bytes | BaseException | None) -> None:
        while not left.is_set():
            try:
                return ahead.put(item, timeout=TICK_S)
            except queue.Full:
                continue

    def fetch() -> None:
        try:
            with closing(client.stream(command.id, wishes.set_index or 0, row_format)) as pieces:
                for piece in pieces:
                    put(piece)
                    if left.is_set():
                        return
            put(None)
        except Exception as exc:  # raised again in the thread that reads
            put(exc)

    # A daemon, because a read that never returns must not keep the program from ending.
    threading.Thread(target=fetch, name=f"rows of {command.id}", daemon=True).start()
    looked, begun = time.monotonic(), False
    try:
        while True:
            try:
                item = ahead.get(timeout=TICK_S)
            except queue.Empty:
                if deadline is not None and time.monotonic() >= deadline:
                    raise StillRunning(client.command(command.id)) from None
                if progress.shown and not begun and time.monotonic() - looked >= LOOK_S:
                    progress.state(client.command(command.id))
                    looked = time.monotonic()
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            begun = True
            yield item
    finally:
        left.set()


def _tell_other_sets(command: Command, number: int, wishes: Wishes) -> None:
    others = [str(other) for other in range(len(command.row_sets)) if other != number]
    if others and wishes.set_index is None:
        tell(f"this is row set {number}; --set gives the others: {', '.join(others)}")


# --- json ---------------------------------------------------------------------------------------


def _document(client: Reader, command: Command, wishes: Wishes, out: BinaryIO) -> None:
    number = wishes.set_index or 0
    out.write(b'{"command": ' + command.raw.strip() + b', "rows": [')
    if command.succeeded and (number < len(command.row_sets) or wishes.set_index is not None):
        between = b"\n"
        for line in client.lines(command.id, number):
            out.write(between + line)
            between = b",\n"
    out.write(b"]}\n")
    out.flush()
    _tell_other_sets(command, number, wishes)


def unfinished_document(command: Command, out: BinaryIO) -> None:
    """Write the document of a command that has not ended: it has no rows yet."""
    out.write(b'{"command": ' + command.raw.strip() + b', "rows": []}\n')
    out.flush()


# --- tables -------------------------------------------------------------------------------------


def _print_tables(client: Reader, command: Command, wishes: Wishes) -> None:
    if not command.outputs and not command.row_sets:
        return
    # Deferred: see tables.py.
    from cloud_broker.client.tables import Tables

    tables = Tables()
    if command.outputs:
        tables.output(bytes(command.raw_outputs))
    if not command.succeeded:
        return
    numbers = range(len(command.row_sets)) if wishes.set_index is None else [wishes.set_index]
    for number in numbers:
        if number >= len(command.row_sets):
            raise ProblemError(404, {"code": "row_set_not_found", "detail": f"there is no row set {number}"})
        found = command.row_sets[number]
        if len(command.row_sets) > 1:
            tables.heading(f"row set {number}")
        with closing(client.lines(command.id, number)) as lines:
            # One row more than wanted: a whole row set is read to its end, where its number of rows is checked.
            wanted = lines if found.rows <= wishes.max_rows else islice(lines, wishes.max_rows)
            shown = tables.rows(found.columns, wanted)
        if shown < found.rows:
            tell(f"{shown:,} of {found.rows:,} rows shown; --max-rows shows more, --format csv gives all")


def _json(value: object) -> str:
    # Deferred: see tables.py.
    from cloud_broker.client.tables import compact

    return compact(value)


__all__ = [
    "ADVICE",
    "ENDS",
    "StillRunning",
    "Wishes",
    "check_arrow",
    "follow",
    "in_words",
    "tell",
    "tell_end",
    "unfinished_document",
]
