"""Files read as rows, and what becomes of them once the broker has the rows."""

from __future__ import annotations

import binascii
import contextlib
import fnmatch
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from agent import durable_file
from agent.connectors.base import Column, Outputs, Piece, Remark, Rows, RowSet
from agent.connectors.file import documents, held, names, publish, tables, text
from agent.connectors.file.drop import failure
from agent.connectors.rows import RowEncoder, unique_names
from agent.errors import ContentInvalid, SourceFailed
from agent.leaving import Leaving, columns_missing
from agent.settings import PickOperation
from protocol import limits

MAX_FILES: Final = 1_000  # of one pick; their receipts travel as one message
RAW_BYTES: Final = 196_608  # of a raw file read at once; a multiple of 3, so that parts in base64 make one text
_RAW: Final = [Column("content", "binary")]
_END: Final = b'""}\n'  # of a row whose last value is an empty text
_ROW_BYTES: Final = 64  # what a value costs beside its text, roughly; a chunk must not be all braces


class Picked(msgspec.Struct, frozen=True):
    """The receipt of one file."""

    name: str
    bytes: int
    sha256: str
    rows: int


def pick(folder: Path, name: str, operation: PickOperation) -> Iterator[Piece]:
    """
    Yield the rows of all files whose names match, in name order, and their receipts.

    Raises:
        ContentInvalid: a file is not as ``operation`` says; names file, line and reason.
        SourceUnavailable, SourceFailed: the folder or a file can't be read.
    """
    found = matching(folder, operation.pick)
    if len(found) > MAX_FILES:
        yield Remark(f"{len(found)} files match {operation.pick}; the first {MAX_FILES} were read")
    sender = _Sender(name, operation)
    receipts = []
    for name in found[:MAX_FILES]:
        if not name.isprintable() and any("\ud800" <= character <= "\udfff" for character in name):
            raise SourceFailed(f"{folder}: the name {name!a} is not UTF-8 and can't be passed on; rename the file")
        with _opened(folder / name) as source:
            measured = _Measured(source)
            rows = 0
            try:
                if operation.format.type == "raw":
                    yield from sender.raw(name, measured)
                    rows = 1
                else:
                    for columns, row in _rows(measured, operation):
                        yield from sender.columns(name, columns)
                        if row is not None:
                            yield from sender.row([name, *row])
                            rows += 1
            except ContentInvalid as exc:
                raise ContentInvalid(f"{folder / name}: {exc.message}") from exc
            except OSError as exc:
                raise failure(exc, folder / name, "read") from exc
        receipts.append(Picked(name, measured.size, measured.sha256, rows))
    yield from sender.end()
    yield Outputs({"files": [msgspec.to_builtins(receipt) for receipt in receipts]})


def matching(folder: Path, pattern: str) -> list[str]:
    """
    Return the names in ``folder`` that match, in order; only ordinary files, no links, none of ours.

    Raises:
        SourceUnavailable, SourceFailed: the folder can't be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if fnmatch.fnmatch(entry.name, pattern)
                and not names.is_ours(entry.name)
                and entry.is_file(follow_symlinks=False)
            )
    except OSError as exc:
        raise failure(exc, folder, "read") from exc


def put_away(folder: Path, archive: Path | None, files: Sequence[Picked], command_id: str) -> None:
    """
    Move picked files to ``archive``, or remove them if it is ``None``; those that changed since stay.

    May be called again: what is gone is left alone.

    Raises:
        SourceUnavailable, SourceFailed: one could not be put away.
    """
    for picked in files:
        path = folder / picked.name
        if path.parent != folder or path.name in ("", ".."):
            raise SourceFailed(f"{picked.name!r} is no file in {folder}; it was left alone")
        try:
            if not _unchanged(path, picked):
                continue
            if archive is None:
                durable_file.patiently(path.unlink)
            else:
                with _kept_in_place(archive) as there:
                    _archive(path, there, command_id)
        except FileNotFoundError:
            continue  # taken away by someone else between two steps
        except OSError as exc:
            raise failure(exc, path, "put away") from exc


@contextlib.contextmanager
def _kept_in_place(archive: Path) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        try:
            archive.mkdir(exist_ok=True)
            there = stack.enter_context(held.held(archive))
        except OSError as exc:
            raise failure(exc, archive, "used") from exc
        yield there


def _archive(path: Path, archive: Path, command_id: str) -> None:
    way = publish.way_without_replacing(archive, command_id)
    try:
        publish.appear(path, archive / path.name, way)
    except FileExistsError:
        publish.appear(path, archive / f"{path.stem}.{command_id}{path.suffix}", way)
    durable_file.sync_folder(archive)
    durable_file.sync_folder(path.parent)


def _unchanged(path: Path, picked: Picked) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode) or found.st_size != picked.bytes:
        return False
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest() == picked.sha256


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    # Between listing and opening the name may have become a link or a pipe: neither is followed or waited for.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        source = os.fdopen(os.open(path, flags), "rb")
    except OSError as exc:
        raise failure(exc, path, "read") from exc
    with source:
        # Windows has no O_NOFOLLOW: there the name is looked at again.
        if not stat.S_ISREG(os.fstat(source.fileno()).st_mode) or path.is_symlink():
            raise SourceFailed(f"{path} is no file any more; it was left alone")
        yield source


class _Measured:
    """Bytes on their way, counted and digested."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._digest = hashlib.sha256()
        self.size = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._digest.update(data)
        self.size += len(data)
        return data

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def _rows(source: _Measured, operation: PickOperation) -> Iterator[tuple[list[Column], Sequence[Any] | None]]:
    """Yield the columns, once without and then with each row."""
    form, encoding = operation.format, operation.encoding
    if form.type in ("csv", "fixed-width"):
        found = tables.read(source, form, encoding)
        names_of_columns = next(found, None)
        if names_of_columns is None:  # an empty file, where nothing else names them
            return
        columns = [Column(name, "string") for name in names_of_columns]
        yield columns, None
        for row in found:
            yield columns, row
        return
    data = source.read(documents.MAX_DOCUMENT_BYTES + 1)
    if len(data) > documents.MAX_DOCUMENT_BYTES:
        raise ContentInvalid(
            f"is larger than {documents.MAX_DOCUMENT_BYTES} bytes; only csv, fixed-width and raw may be of any size"
        )
    columns = [Column("document", "json")]
    yield columns, None
    content = text.decoded(data, encoding)
    if form.type == "json":
        for item in documents.json_rows(content):
            yield columns, [item]
    else:
        yield columns, [documents.xml_document(documents.parse_xml(content))]


def _expected(operation: PickOperation) -> list[Column]:
    """Return the columns where no file is there to tell them."""
    form = operation.format
    if form.type in ("csv", "fixed-width"):
        return [Column(name, "string") for name in form.columns or ()]
    return _RAW if form.type == "raw" else [Column("document", "json")]


class _Sender:
    """Gathers rows of several files into one row set, in chunks."""

    def __init__(self, name: str, operation: PickOperation) -> None:
        self._name = name
        self._operation = operation
        self._leaving = Leaving(operation)
        self._columns: list[Column] | None = None
        self._kept: list[int] = []  # positions of those columns that leave
        self._encoder: RowEncoder | None = None
        self._rows: list[Sequence[Any]] = []
        self._size = 0

    def columns(self, name: str, columns: list[Column]) -> Iterator[Piece]:
        """Begin the row set, or see that another file's columns are the same."""
        if columns is self._columns:
            return
        if self._columns is None:
            begun = list(self._begin(columns))
            if missing := self._leaving.missing():
                raise ContentInvalid(columns_missing(self._name, missing))
            yield from begun
        elif columns != self._columns:
            raise ContentInvalid(
                f"has the columns {', '.join(c.name for c in columns)}; the files before it have "
                f"{', '.join(c.name for c in self._columns)}"
            )
        self._columns = columns

    def raw(self, name: str, source: _Measured) -> Iterator[Piece]:
        """Take a file of any size as one row; a large one is yielded as it is read."""
        yield from self.columns(name, _RAW)
        data = source.read(RAW_BYTES)
        if len(data) < RAW_BYTES:
            yield from self.row([name, data])
            return
        yield from self._flush()
        row = self._encoded([[name, b""][i] for i in self._kept])
        # Where its content stays here, all of it is read nevertheless: its receipt has the digest.
        leaves = row.endswith(_END)
        if leaves:
            yield Rows(row[: 1 - len(_END)], 0)
        while data:
            if leaves:
                yield Rows(binascii.b2a_base64(data, newline=False), 0)
            data = source.read(RAW_BYTES)
        yield Rows(row[1 - len(_END) :] if leaves else row, 1)

    def row(self, row: Sequence[Any]) -> Iterator[Piece]:
        """Take a row; yield what is full."""
        kept = [row[i] for i in self._kept]
        self._rows.append(kept)
        self._size += sum(len(value) for value in kept) + _ROW_BYTES * len(kept)
        if self._size >= limits.CHUNK_BYTES:
            yield from self._flush()

    def end(self) -> Iterator[Piece]:
        """Yield what is left; a row set without rows too."""
        if self._columns is None:
            yield from self._begin(_expected(self._operation))
        yield from self._flush()

    def _begin(self, columns: list[Column]) -> Iterator[Piece]:
        self._columns = columns
        there = [Column("file", "string"), *columns]
        self._kept = [i for i, column in enumerate(there) if self._leaving.lets(column.name)]
        kept = [there[i] for i in self._kept]
        unique = unique_names(column.name for column in kept)
        named = tuple(Column(name, column.type) for name, column in zip(unique, kept, strict=True))
        # By the names before a suffix: a second `iban` is as private as the first.
        hidden = [new.name for new, column in zip(named, kept, strict=True) if self._leaving.hides(column.name)]
        self._encoder = RowEncoder(named, hidden)
        yield RowSet(named)

    def _encoded(self, kept: Sequence[Any]) -> bytes:
        assert self._encoder is not None  # noqa: S101 - the row set has begun
        return self._encoder.encode([kept]).data

    def _flush(self) -> Iterator[Piece]:
        if self._rows and self._encoder is not None:
            yield self._encoder.encode(self._rows)
        self._rows, self._size = [], 0
