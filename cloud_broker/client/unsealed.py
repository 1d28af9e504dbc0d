"""What a sealed call brought, read as if it were in clear: everything is checked before it is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import msgspec

from cloud_broker.client.errors import ProblemError, ResultCut, SealBroken, WordsError
from cloud_broker.client.ndjson import whole_lines
from cloud_broker.client.records import Column, Command, Failure
from cloud_broker.client.sealing import End, SealedCall
from protocol import sealing
from protocol.csv_text import header_line, row_writer
from protocol.raw_content import NotContent, RawContent

if TYPE_CHECKING:
    from cloud_broker.client.api import Outhaul, RowFormat

_columns = msgspec.json.Decoder(list[Column])
_columns_encoder = msgspec.json.Encoder()


class Unsealed:
    """
    Reads the result of one sealed call; the same calls as those of ``Outhaul``.

    Every call raises ``SealBroken`` where something is not what the agent sealed for this call: rows given before that
    are real, and not all.
    """

    def __init__(self, client: Outhaul, call: SealedCall) -> None:
        self._client = client
        self._call = call
        self._columns: dict[int, list[Column]] = {}
        self._attempts: dict[int, int] = {}  # of each row set whose columns are known: the attempt that it is of
        self._given: dict[int, int] = {}  # of each row set that was read to its end: the attempt that it was of

    def __repr__(self) -> str:
        return f"<Unsealed {self._call.operation} of {self._call.agent}>"

    def command(self, command_id: str, *, wait_s: float = 0.0) -> Command:
        """Return the command with its outputs, error, warnings and columns in clear."""
        return self.opened(self._client.command(command_id, wait_s=wait_s))

    def opened(self, command: Command) -> Command:
        """Return a command in clear that ``Outhaul`` gave."""
        if not command.final:
            return command
        end = self._call.end(command.id, bytes(command.raw_outputs))
        if end is None:
            if command.succeeded and command.resolution is None:
                raise SealBroken(f"the broker says that {command.id} succeeded, but has no end of it that is sealed")
            return command
        self._check(command, end)
        return self._in_clear(command, end)

    def _check(self, command: Command, end: End) -> None:
        """See that the broker says what the agent says."""
        if command.succeeded:
            self._check_rows(command, end)
        # A person may have found out more since, and of a success the broker may have lost the rows, which it says.
        elif command.resolution is None and end.outcome not in (command.state, _outcome_without_rows(command)):
            raise SealBroken(
                f"the broker says that {command.id} ended {command.state}, the agent that it ended {end.outcome}"
            )

    def _check_rows(self, command: Command, end: End) -> None:
        told = [found.rows for found in command.row_sets]
        if end.outcome != "succeeded" or end.row_sets != told:
            raise SealBroken(
                f"the broker says that {command.id} succeeded with {told} rows, the agent that it was {end.outcome} "
                f"with {end.row_sets}"
            )
        for number in range(len(command.row_sets)):
            attempts = [self._given.pop(number, end.epoch)]
            # What came while it ran may be of an attempt that failed later.
            if self._attempts.get(number) != end.epoch:
                # If its rows were removed since, who asks for them is told.
                with suppress(ProblemError, ResultCut), closing(self._frames(command.id, number)) as frames:
                    next(frames, b"")
                    attempts.append(self._attempts[number])
            for attempt in attempts:
                if attempt != end.epoch:
                    raise SealBroken(
                        f"row set {number} of {command.id} is of attempt {attempt}, and the command ended with attempt "
                        f"{end.epoch}: read it again"
                    )

    def _in_clear(self, command: Command, end: End) -> Command:
        row_sets = [
            msgspec.structs.replace(found, columns=self._columns.get(number, found.columns))
            for number, found in enumerate(command.row_sets)
        ]
        error = command.error
        if error is not None and end.error is not None:
            error = Failure(error.kind, error.code, end.error.get("message", ""), end.error.get("source_code", ""))
        clear = msgspec.structs.replace(
            command, raw_outputs=end.outputs, error=error, warnings=end.warnings, row_sets=row_sets
        )
        document = json.loads(command.raw) if command.raw else {}
        members = {"outputs": end.outputs, "error": error, "warnings": end.warnings, "row_sets": row_sets}
        msgspec.structs.force_setattr(clear, "raw", msgspec.json.encode({**document, **members}))
        return clear

    # --- rows ---------------------------------------------------------------------------------------

    def rows(self, command_id: str, set_index: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the rows of one row set, as ``Outhaul.rows`` does."""
        return (json.loads(line) for line in self.lines(command_id, set_index))

    def lines(self, command_id: str, set_index: int = 0) -> Generator[bytes, None, None]:
        """Yield the rows as ``rows`` does, each as its JSON text."""
        with closing(self.stream(command_id, set_index)) as pieces:
            yield from whole_lines(pieces, f"the rows of {command_id}")

    def stream(
        self, command_id: str, set_index: int = 0, row_format: RowFormat = "ndjson"
    ) -> Generator[bytes, None, None]:
        """Yield the rows of one row set as bytes, in pieces as they come, also while the command still runs."""
        if row_format not in ("ndjson", "csv"):
            raise WordsError(f"the rows of a sealed result are read as ndjson or csv, not as {row_format}")
        with closing(self._frames(command_id, set_index)) as frames:
            next(frames, b"")
            columns = self._columns.get(set_index, [])
            if row_format == "ndjson":
                yield from frames
            else:
                yield from _csv(columns, frames, f"the rows of {command_id}")
        self._given[set_index] = self._attempts[set_index]

    def content(self, command_id: str, file: str | None = None) -> Generator[bytes, None, None]:
        """Yield a picked file as it was, as ``Outhaul.content`` does."""
        found = RawContent(file)
        try:
            with closing(self.stream(command_id)) as pieces:
                for piece in pieces:  # to their end, where it is seen whether they are all
                    if data := found.feed(piece):
                        yield data
        except NotContent as exc:
            raise ResultCut(f"{command_id} has picked no raw file: {exc}") from exc
        if not found.whole:
            raise ResultCut(f"{command_id} has picked no file {file!r}" if file is not None else "no file was picked")

    def _frames(self, command_id: str, number: int) -> Generator[bytes, None, None]:
        """Yield what is in the frames of a row set; the first is for ``_columns``."""
        opener = self._call.opener(command_id, number)
        begun = False
        try:
            with closing(self._client.stream(command_id, number, "sealed")) as pieces:
                for piece in pieces:
                    for data in opener.feed(piece):
                        if not begun:
                            self._attempts[number] = opener.epoch
                            self._columns[number] = _columns.decode(data)
                            begun = True
                        yield data
            opener.close()
        except (sealing.SealBroken, msgspec.DecodeError) as exc:
            raise SealBroken(f"row set {number} of {command_id} is not what the agent sealed: {exc}") from exc


def _outcome_without_rows(command: Command) -> str:
    lost = command.error is not None and command.error.code == "result_lost"
    return "succeeded" if lost else command.state


def _csv(columns: Sequence[Column], pieces: Iterator[bytes], what: str) -> Iterator[bytes]:
    yield header_line([column.name for column in columns])
    line_of: Callable[[bytes], str] = row_writer([{"name": column.name, "type": column.type} for column in columns])
    for line in whole_lines(pieces, what):
        yield line_of(line).encode()
