"""csv and fixed-width: rows to bytes and lines to rows. Nothing is cut, dropped or guessed."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from agent.connectors.file import text
from agent.errors import ContentInvalid
from agent.settings import FileFormat

_FIELD_CHARS: Final = text.MAX_LINE_CHARS  # a quoted value may span lines, and must not fill the memory either


def written(rows: Sequence[Mapping[str, Any]], form: FileFormat, encoding: str) -> Iterator[bytes]:
    """
    Yield the bytes of a csv or fixed-width file, one piece per line.

    Args:
        rows: objects of plain values; each has exactly the columns of ``form``, or those of the first row
            where it names none (``agent.parameters`` has seen to that).

    Raises:
        ContentInvalid: a value does not fit or can't be encoded; names row and column.
    """
    columns = _columns(rows, form)
    line = _csv_line(form) if form.type == "csv" else _fixed_line(form)
    encoder = codecs.getincrementalencoder(encoding)("strict")
    if form.type == "csv" and form.header:
        yield _encoded(encoder, line(columns), columns, columns, "header", encoding)
    for number, row in enumerate(rows, 1):
        place = f"row {number}"
        values = [_text(row[column]) for column in columns]
        if form.type == "fixed-width":
            _fits(values, form, columns, place)
        if text.is_ebcdic(encoding):
            _no_next_line(values, columns, place)
        yield _encoded(encoder, line(values), values, columns, place, encoding)
    yield encoder.encode("", final=True)


def read(source: text.Readable, form: FileFormat, encoding: str) -> Iterator[list[str]]:
    """
    Yield the columns' names, then each row's values as text.

    Raises:
        ContentInvalid: not such a file; names the line.
    """
    found = text.lines(source, encoding)
    return _read_csv(found, form) if form.type == "csv" else _read_fixed(found, form)


# --- writing ------------------------------------------------------------------------------------


def _columns(rows: Sequence[Mapping[str, Any]], form: FileFormat) -> list[str]:
    if form.columns is not None:
        return list(form.columns)
    if not rows:
        raise ContentInvalid(
            "`rows` is empty, and the operation's format names no columns: there is nothing to write", touched=False
        )
    return list(rows[0])


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def _csv_line(form: FileFormat) -> Any:
    buffer = io.StringIO(newline="")
    # The writer quotes values that hold a character of its line end: with both in it, a lone CR makes no new row.
    end = "\r\n"
    writer = csv.writer(buffer, delimiter=form.delimiter, quotechar=form.quote, lineterminator=end)

    def line(values: Sequence[str]) -> str:
        buffer.seek(0)
        buffer.truncate()
        writer.writerow(values)
        return buffer.getvalue().removesuffix(end) + form.newline

    return line


def _fixed_line(form: FileFormat) -> Any:
    widths = form.widths or ()
    aligns = form.align or ("left",) * len(widths)

    def line(values: Sequence[str]) -> str:
        cells = [
            value.ljust(width, form.fill) if align == "left" else value.rjust(width, form.fill)
            for value, width, align in zip(values, widths, aligns, strict=True)
        ]
        return "".join(cells) + form.newline

    return line


def _fits(values: Sequence[str], form: FileFormat, columns: Sequence[str], place: str) -> None:
    for value, width, column in zip(values, form.widths or (), columns, strict=True):
        if len(value) > width:
            raise ContentInvalid(
                f"{place}, column {column!r}: {len(value)} characters do not fit into {width}, and nothing is cut",
                touched=False,
            )
        if "\n" in value or "\r" in value:
            raise ContentInvalid(
                f"{place}, column {column!r}: holds a line end, which would break the row", touched=False
            )


def _no_next_line(values: Sequence[str], columns: Sequence[str], place: str) -> None:
    for value, column in zip(values, columns, strict=True):
        if text.NEXT_LINE in value:
            raise ContentInvalid(f"{place}, column {column!r}: holds NEL (U+0085), a line end in EBCDIC", touched=False)


def _encoded(
    encoder: codecs.IncrementalEncoder,
    line: str,
    values: Sequence[str],
    columns: Sequence[str],
    place: str,
    encoding: str,
) -> bytes:
    try:
        return encoder.encode(line)
    except UnicodeEncodeError as exc:
        for value, column in zip(values, columns, strict=True):
            if problem := text.not_encodable(value, encoding):
                raise ContentInvalid(f"{place}, column {column!r}: {problem}", touched=False) from exc
        raise ContentInvalid(f"{place}: {text.not_encodable(line, encoding)}", touched=False) from exc


# --- reading ------------------------------------------------------------------------------------


def _read_csv(found: Iterable[str], form: FileFormat) -> Iterator[list[str]]:
    csv.field_size_limit(_FIELD_CHARS)
    reader = csv.reader(found, delimiter=form.delimiter, quotechar=form.quote, strict=True)
    columns = list(form.columns) if form.columns is not None else None
    expect_header = form.header
    if columns is not None and not expect_header:
        yield columns
    try:
        for row in reader:
            if not row:
                continue  # an empty line; a row with one empty value is written as ""
            if expect_header:
                expect_header = False
                if columns is not None and row != columns:
                    raise ContentInvalid(
                        f"line {reader.line_num}: wants the columns {', '.join(columns)}, found {', '.join(row)}"
                    )
                columns = row
                yield columns
                continue
            if columns is None:
                columns = [f"column_{number}" for number in range(1, len(row) + 1)]
                yield columns
            if len(row) != len(columns):
                raise ContentInvalid(
                    f"line {reader.line_num}: wants {len(columns)} values, found {len(row)}; "
                    f"is {form.delimiter!r} the right delimiter?"
                )
            yield row
    except csv.Error as exc:
        raise ContentInvalid(f"line {reader.line_num}: {exc}") from exc
    if expect_header:
        raise ContentInvalid("line 1: wants the columns' names, found an empty file")


def _read_fixed(found: Iterable[str], form: FileFormat) -> Iterator[list[str]]:
    columns, widths = form.columns or (), form.widths or ()
    aligns = form.align or ("left",) * len(widths)
    wanted = sum(widths)
    yield list(columns)
    for number, line in enumerate(found, 1):
        content = line.rstrip("\r\n")
        if not content:
            continue
        if len(content) != wanted:
            raise ContentInvalid(f"line {number}: wants {wanted} characters, found {len(content)}")
        row, start = [], 0
        for width, align in zip(widths, aligns, strict=True):
            cell = content[start : start + width]
            row.append(cell.rstrip(form.fill) if align == "left" else cell.lstrip(form.fill))
            start += width
        yield row
