"""
Rows that PostgreSQL writes as one text each, and Arrow reads.

A driver copies a row value by value, which takes longer than all the rest of its way. One text with a line of CSV is
copied once, and joining the texts of the values costs the server less than the text of a row, which is taken character
by character.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from agent.connectors.base import Column
from agent.connectors.odbc.arrow_columns import INSTANT, MOMENT, TIME, decimal_of, too_long, unreadable
from agent.connectors.odbc.dialects import VALUE_BYTES, Leaves
from agent.connectors.odbc.metadata import Described
from agent.leaving import MASKED

_SHORT_BYTES: Final = 64  # of a value that is no text
_TEXT_BYTES: Final = 2 * VALUE_BYTES + 3  # of one, each of its characters a quote, with its own and its comma
_MOST_JOINED: Final = 40  # columns; a function of PostgreSQL takes 100 arguments

_INT16, _INT32, _INT64, _TEXT, _FLOAT = pa.int16(), pa.int32(), pa.int64(), pa.utf8(), pa.float64()
_TYPES: Final[dict[str, pa.DataType]] = {
    **dict.fromkeys(("int2", "smallint"), _INT16),
    **dict.fromkeys(("int4", "integer"), _INT32),
    **dict.fromkeys(("int8", "bigint", "oid"), _INT64),
    **dict.fromkeys(("float4", "real", "float8", "double precision"), _FLOAT),
    **dict.fromkeys(("bool", "boolean"), pa.bool_()),
    **dict.fromkeys(("text", "varchar", "character varying", "bpchar", "char", "character"), _TEXT),
    **dict.fromkeys(("uuid", "json", "jsonb", "money"), _TEXT),
    "date": pa.date32(),
    **dict.fromkeys(("timestamp", "timestamp without time zone"), MOMENT),
    **dict.fromkeys(("timestamptz", "timestamp with time zone"), INSTANT),
    **dict.fromkeys(("time", "time without time zone"), TIME),
}
# Of all functions PostgreSQL's own: one of the same name for just these types would be taken before `concat`.
_QUOTED: Final = """'"' || pg_catalog.replace({}::text, '"', '""') || '"'"""  # null where the value is
# Its cast to text would leave the spaces at its end out, and `concat` makes a text of null.
_PADDED: Final = f"CASE WHEN {{0}} IS NOT NULL THEN {_QUOTED.format('pg_catalog.concat({0})')} END"
_FORMS: Final[dict[str, str]] = {
    "money": "{}::numeric",
    **dict.fromkeys(("timestamptz", "timestamp with time zone"), "({} AT TIME ZONE 'UTC')"),
    **dict.fromkeys(("text", "varchar", "character varying", "json", "jsonb"), _QUOTED),
    **dict.fromkeys(("bpchar", "char", "character"), _PADDED),
}
_SHORT: Final = ("uuid", "money")  # whose texts are
_READING: Final = {INSTANT: MOMENT}  # types that are written as another

_WRITTEN: Final = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
_COLUMN: Final = re.compile(r"CSV column #(\d+)")


class Lines:
    """
    The columns of one row set that leave, where all of them are of types that PostgreSQL writes unchanged.

    Attributes:
        schema: as what they leave.
        bytes: of a line at most.
        wide: the names of the columns whose values may be of any length.
    """

    def __init__(
        self, types: Sequence[pa.DataType], forms: Sequence[str], told: Sequence[Column], wide: Sequence[str]
    ) -> None:
        """
        Args:
            forms: what stands in a line for each.
            told: the same columns, as the caller is told of them.
            wide: the names of those whose values may be of any length.
        """
        self.schema = pa.schema([pa.field(column.name, kind) for column, kind in zip(told, types, strict=True)])
        self.bytes = len(types) * _SHORT_BYTES + len(wide) * _TEXT_BYTES
        self.wide = wide
        self._forms = forms
        self._told = told
        names = [f"c{i}" for i in range(len(types))]
        self._reading = csv.ReadOptions(use_threads=False, block_size=2**30, column_names=names)
        self._values = csv.ConvertOptions(
            column_types={name: _READING.get(kind, kind) for name, kind in zip(names, types, strict=True)},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t"],
            false_values=["f"],
        )

    @property
    def row(self) -> str:
        """The expression that writes a line of the columns ``c0``, ``c1``… of the statement."""
        some = [self._forms[i : i + _MOST_JOINED] for i in range(0, len(self._forms), _MOST_JOINED)]
        return f"pg_catalog.concat({_joined([_joined(forms) for forms in some])}, pg_catalog.chr(10))"

    def read(self, batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
        """
        Return rows that came as lines.

        Raises:
            ValueUnreadable: naming the column.
        """
        lines = pa.concat_arrays([batch.column(0) for batch in batches])
        # Each line has its end with it, and nothing is between them.
        text = lines.buffers()[2].slice(0, pc.sum(pc.binary_length(lines)).as_py())
        try:
            table = csv.read_csv(pa.BufferReader(text), self._reading, _WRITTEN, self._values)
        except pa.ArrowInvalid as exc:
            number = _COLUMN.search(str(exc))
            if number is None:
                raise
            i = int(number[1])
            # Arrow's own words would show the value, which may be private.
            raise unreadable(self._told[i], self.schema.field(i).type) from None
        if pc.max(pc.binary_length(lines)).as_py() > VALUE_BYTES:
            self._look_at_lengths(table)
        arrays = [
            column.combine_chunks().cast(field.type) for column, field in zip(table.columns, self.schema, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _look_at_lengths(self, table: pa.Table) -> None:
        for column, values in zip(self._told, table.columns, strict=True):
            if column.name in self.wide and (pc.max(pc.binary_length(values)).as_py() or 0) > VALUE_BYTES:
                raise too_long(column.name)


def _joined(forms: Sequence[str]) -> str:
    between = ", ',', "
    return f"pg_catalog.concat({between.join(forms)})" if len(forms) > 1 else forms[0]


def lines_of(
    dialect: str, described: Sequence[Described], leaves: Sequence[Leaves], told: Sequence[Column]
) -> Lines | None:
    """Return how the columns come as lines; ``None`` where one of them can't, or the database is another."""
    if dialect != "postgresql":
        return None
    types: list[pa.DataType] = []
    forms: list[str] = []
    wide: list[str] = []
    for one in leaves:
        source, name = described[one.position], f"c{one.position}"
        if one.hidden:
            types.append(_TEXT)
            forms.append(f"CASE WHEN {name} IS NOT NULL THEN '{MASKED}' END")
            continue
        kind = decimal_of(source) if source.source_type == "numeric" else _TYPES.get(source.source_type)
        if kind is None:
            return None
        types.append(kind)
        forms.append(_FORMS.get(source.source_type, "{}").format(name))
        if kind == _TEXT and source.source_type not in _SHORT:
            wide.append(one.name)
    return Lines(types, forms, told, wide)
