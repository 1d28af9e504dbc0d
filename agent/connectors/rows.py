"""Rows as NDJSON: the one place that decides how a value stands in JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

import msgspec

from agent.connectors.base import Column, Rows
from agent.leaving import MASKED

_ENCODER: Final = msgspec.json.Encoder(decimal_format="string", uuid_format="canonical")


def _number(value: Any) -> Any:
    # JSON has no NaN and no infinities; as strings they arrive, as null they would be lost.
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _masked(value: Any) -> Any:
    return None if value is None else MASKED


def _json(value: Any) -> Any:
    if not isinstance(value, str | bytes):
        return value
    data = value.encode() if isinstance(value, str) else value
    # In JSON a bare end of line is white space, but here it would end the row.
    return msgspec.Raw(data.replace(b"\n", b" ").replace(b"\r", b" "))


class RowEncoder:
    """
    Turns rows of Python values into NDJSON lines, one object each, keys in column order.

    Values: str, int, bool, None, Decimal (as string), float, date, datetime, time (RFC 3339), bytes
    (base64), UUID; for a ``json`` column a str or bytes that holds valid JSON is put in as it is.

    Args:
        columns: names are unique.
        mask: names of columns whose values become ``MASKED``.
    """

    def __init__(self, columns: Sequence[Column], mask: Collection[str] = ()) -> None:
        self._row: Callable[..., Any] = _row_of([column.name for column in columns])
        self._converters: list[tuple[int, Callable[[Any], Any]]] = []
        for i, column in enumerate(columns):
            if column.name in mask:
                self._converters.append((i, _masked))
            elif column.type == "number":
                self._converters.append((i, _number))
            elif column.type == "json":
                self._converters.append((i, _json))

    def encode(self, rows: Sequence[Sequence[Any]]) -> Rows:
        """Return ``rows`` as NDJSON; each has one value per column."""
        wanted: Iterable[Sequence[Any]] = rows
        if self._converters:
            wanted = [self._convert(row) for row in rows]
        row = self._row
        return Rows(_ENCODER.encode_lines([row(*values) for values in wanted]), len(rows))

    def _convert(self, row: Sequence[Any]) -> list[Any]:
        values = list(row)
        for i, convert in self._converters:
            values[i] = convert(values[i])
        return values


def _row_of(names: Sequence[str]) -> Callable[..., Any]:
    """Return what makes a row of its values."""
    try:
        return msgspec.defstruct(
            "Row", [(f"c{i}", Any, msgspec.field(name=name)) for i, name in enumerate(names)], gc=False
        )
    except ValueError:
        # A name with a quote, a backslash or a control character: half as fast, and escaped.
        return lambda *values: dict(zip(names, values, strict=True))


def unique_names(names: Iterable[str]) -> list[str]:
    """Return ``names`` with a suffix ``_2``, ``_3``… where one is repeated; an empty one becomes ``column_N``."""
    taken: set[str] = set()
    result = []
    for number, name in enumerate(names, 1):
        base = name or f"column_{number}"
        candidate, again = base, 1
        while candidate in taken:
            again += 1
            candidate = f"{base}_{again}"
        taken.add(candidate)
        result.append(candidate)
    return result


def outputs_of(raw: bytes) -> dict[str, Any]:
    """Read outputs from a JSON object, each value as it was written, but for null, which a mask must tell."""
    values = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    return {name: None if bytes(value) == b"null" else value for name, value in values.items()}
