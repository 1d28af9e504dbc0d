"""
What becomes of a database's columns in Arrow: how they are asked for, and as what they leave.

Drivers spoil values on their way into binary buffers without a sign: infinite dates become others, ``NaN`` becomes 0,
unsigned numbers turn negative, fractions of a second are cut. What may be spoiled is therefore asked for as text, which
the database itself writes, and turned into its Arrow type here, strictly and a column at a time; what has no such value
is refused by the column's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from agent.connectors.base import Column
from agent.connectors.odbc.dialects import VALUE_BYTES, Leaves
from agent.connectors.odbc.metadata import Described
from agent.errors import ValueUnreadable
from agent.leaving import MASKED

MOMENT: Final = pa.timestamp("us")
INSTANT: Final = pa.timestamp("us", "UTC")
TIME: Final = pa.time64("us")
DECIMAL_DIGITS: Final = 38  # of an Arrow decimal of 128 bits
_UNSURE_DECIMAL: Final = (28, 6)  # what psqlodbc says of a numeric without a precision
_A_DAY: Final = "1970-01-01 "
_MICROSECONDS: Final = pa.scalar(Decimal(1_000_000), pa.decimal128(7, 0))

Read = Callable[[pa.Array], pa.Array]


@dataclass(frozen=True, slots=True)
class Asked:
    """
    How a column is asked for.

    Attributes:
        select: the expression, the column's name in place of ``{}``.
        type: what it becomes, where it does not leave as the driver has it.
        read: how, where a cast does not do.
    """

    select: str = "{}"
    type: pa.DataType | None = None
    read: Read | None = None


AS_IT_IS: Final = Asked()


class Columns:
    """
    The columns of one row set that leave, from the database's own to Arrow's.

    Args:
        described: all of the statement's.
        leaves: those that leave.
        told: the same, as the caller is told of them.
    """

    def __init__(
        self, dialect: str, described: Sequence[Described], leaves: Sequence[Leaves], told: Sequence[Column]
    ) -> None:
        self._told = told
        self._leaves = leaves
        self._asked = [
            _ASKED[dialect](described[one.position], column) for one, column in zip(leaves, told, strict=True)
        ]

    def selected(self, names: Sequence[str]) -> str:
        """Return what stands after SELECT where the statement's columns are called ``names``."""
        return ", ".join(
            asked.select.format(names[one.position]) for asked, one in zip(self._asked, self._leaves, strict=True)
        )

    def schema(self, found: pa.Schema) -> pa.Schema:
        """Return as what the columns leave that the driver hands over as ``found``."""
        return pa.schema(
            [
                pa.field(one.name, pa.utf8() if one.hidden else asked.type or field.type)
                for one, asked, field in zip(self._leaves, self._asked, found, strict=True)
            ]
        )

    def read(self, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        """
        Return a batch of the driver as it leaves.

        Raises:
            ValueUnreadable: naming the column.
        """
        arrays = [self._column(i, array) for i, array in enumerate(batch.columns)]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _column(self, i: int, array: pa.Array) -> pa.Array:
        if self._leaves[i].hidden:
            return pc.if_else(array.is_null(), pa.scalar(None, pa.utf8()), MASKED)
        asked = self._asked[i]
        try:
            if asked.read is not None:
                return asked.read(array)
            return array if asked.type is None else array.cast(asked.type)
        except pa.ArrowInvalid:
            # Arrow's own words would show the value, which may be private.
            raise unreadable(self._told[i], asked.type) from None

    def wide(self, found: pa.Schema) -> Iterator[str]:
        """Yield the names of columns whose values may be longer than what is kept free for them."""
        for column, field in zip(self._told, self.schema(found), strict=True):
            if field.type in (pa.utf8(), pa.binary()):
                yield column.name


def unreadable(column: Column, kind: pa.DataType | None) -> ValueUnreadable:
    """Return the refusal of a value that ``kind`` does not have."""
    source = f"{column.source_type} " if column.source_type else ""
    return ValueUnreadable(
        f"column {column.name}: a value of the {source}column can't be told as Arrow's {kind}; "
        "cast the column to text in the statement, leave it out, or ask for the rows as NDJSON"
    )


def too_long(columns: str) -> ValueUnreadable:
    """Return the refusal of a value that is longer than it may be."""
    return ValueUnreadable(
        f"column {columns or '?'}: a value is longer than the {VALUE_BYTES} "
        "bytes that it may have where rows come as Arrow; ask for them as NDJSON, or leave the column out"
    )


def widened(found: pa.Schema) -> pa.Schema:
    """Return as what a driver is to hand over what arrow-odbc would make ``found`` of."""
    return pa.schema([field.with_type(_wider(field.type)) for field in found])


def _wider(found: pa.DataType) -> pa.DataType:
    if pa.types.is_float32(found):  # of a double too, where the driver says that it has few digits
        return pa.float64()
    # Which values of any other length are not.
    return pa.binary() if pa.types.is_fixed_size_binary(found) else found


# --- texts to values -------------------------------------------------------------------------------


def _instant(array: pa.Array) -> pa.Array:
    return array.cast(MOMENT).cast(INSTANT)


def _time(array: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(_A_DAY, array, "").cast(MOMENT).cast(TIME)


def _epoch(array: pa.Array) -> pa.Array:
    """Turn seconds since 1970, a decimal, into instants."""
    if pc.any(pc.equal(array, 0)).as_py():
        raise pa.ArrowInvalid("a zero date")
    return pc.multiply(array.cast(pa.decimal128(26, 6)), _MICROSECONDS).cast(pa.int64()).cast(INSTANT)


def _number(array: pa.Array) -> pa.Array:
    return array.cast(pa.float64())


# --- PostgreSQL --------------------------------------------------------------------------------------

_PG_SHORT: Final = "{}::varchar(40)"  # a bound, because what has none takes much room in the driver's buffers
_PG: Final[dict[str, Asked]] = {
    "date": Asked(_PG_SHORT, pa.date32()),
    "timestamp": Asked(_PG_SHORT, MOMENT),
    "timestamp without time zone": Asked(_PG_SHORT, MOMENT),
    "timestamptz": Asked("({} AT TIME ZONE 'UTC')::varchar(40)", INSTANT, _instant),
    "timestamp with time zone": Asked("({} AT TIME ZONE 'UTC')::varchar(40)", INSTANT, _instant),
    "time": Asked(_PG_SHORT, TIME, _time),
    "time without time zone": Asked(_PG_SHORT, TIME, _time),
    "money": Asked("{}::numeric::varchar(40)", pa.utf8()),
    "json": Asked("{}::text", pa.utf8()),
    "jsonb": Asked("{}::text", pa.utf8()),
    "uuid": Asked(_PG_SHORT, pa.utf8()),
    "oid": Asked("{}::int8", pa.int64()),
}


def decimal_of(described: Described) -> pa.DataType:
    """Return what a numeric column of PostgreSQL becomes."""
    digits = described.precision, described.scale
    unsure = digits == _UNSURE_DECIMAL or described.precision > DECIMAL_DIGITS
    return pa.utf8() if unsure else pa.decimal128(*digits)


def _postgresql(described: Described, told: Column) -> Asked:
    if told.type == "decimal" and described.source_type != "money":
        kind = decimal_of(described)
        return Asked("{}::text" if kind == pa.utf8() else "{}::varchar(50)", kind)
    return _PG.get(described.source_type, AS_IT_IS)


# --- MariaDB -----------------------------------------------------------------------------------------

_MARIADB_TEXT: Final = "CAST({} AS CHAR(40))"


def _mariadb(described: Described, told: Column) -> Asked:
    if described.source_type == "timestamp":
        return Asked("UNIX_TIMESTAMP({})", INSTANT, _epoch)
    if told.type == "boolean":
        return Asked("CAST({} + 0 AS CHAR(40))", pa.bool_())
    if described.source_type == "float":
        return Asked(_MARIADB_TEXT, pa.float64(), _number)
    found = {
        "integer": Asked(_MARIADB_TEXT, pa.int64()),
        "date": Asked(_MARIADB_TEXT, pa.date32()),
        "datetime": Asked(_MARIADB_TEXT, MOMENT),
        "time": Asked(_MARIADB_TEXT, TIME, _time),
    }
    return found.get(told.type, AS_IT_IS)


# --- SQLite ------------------------------------------------------------------------------------------

_SQLITE_TEXT: Final = "CAST({} AS TEXT)"
_SQLITE: Final[dict[str, Asked]] = {
    "integer": Asked(_SQLITE_TEXT, pa.int64()),
    "number": Asked(_SQLITE_TEXT, pa.float64(), _number),
    "boolean": Asked(_SQLITE_TEXT, pa.bool_()),
    "date": Asked(_SQLITE_TEXT, pa.date32()),
    "time": Asked(_SQLITE_TEXT, TIME, _time),
    "datetime": Asked(_SQLITE_TEXT, MOMENT),
    "binary": Asked("CAST({} AS BLOB)", pa.binary()),
}


# Any value may stand in any column; bytes would be lost as a text, so they are an error.
_SQLITE_ANY: Final = "iif(typeof({0}) = 'blob', abs(-9223372036854775808), CAST({0} AS TEXT))"


def _sqlite(described: Described, told: Column) -> Asked:
    return _SQLITE.get(told.type, Asked(_SQLITE_ANY, pa.utf8()))


_ASKED: Final[dict[str, Callable[[Described, Column], Asked]]] = {
    "postgresql": _postgresql,
    "mariadb": _mariadb,
    "sqlite": _sqlite,
}


# --- parameters: arrow-odbc binds texts only, so the database is told what they are ------------------


class Unbindable(ValueError):
    """A parameter that can't be handed over as a text without changing what it is."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A parameter: its marker in the statement, and its text."""

    marker: str
    text: str | None


def bind(dialect: str, name: str, value: Any) -> Bound:
    """
    Return a value that a dialect would bind, as a text that the database takes for the same.

    Raises:
        Unbindable: there is no way that keeps it what it is.
    """
    if value is None or isinstance(value, str):
        return Bound("?", value)
    found = _BINDING[dialect](value)
    if found is None:
        raise Unbindable(f"{name}: can't be handed over where rows come as Arrow; ask for them as NDJSON")
    return found


def _bind_postgresql(value: Any) -> Bound | None:
    if isinstance(value, bytes | bytearray):
        return Bound("decode(?, 'hex')", value.hex())
    # Its driver writes any value into the statement as a literal without a type.
    return Bound("?", str(int(value)) if isinstance(value, bool) else str(value))


def _bind_mariadb(value: Any) -> Bound | None:
    if isinstance(value, int):
        return Bound("CAST(? AS SIGNED)", str(int(value)))
    if isinstance(value, float):
        return Bound("CAST(? AS DOUBLE)", repr(value))
    if isinstance(value, Decimal):
        text = format(value, "f")
        scale = len(text.partition(".")[2])
        digits = max(len(text.strip("-").replace(".", "")), 1)
        return Bound(f"CAST(? AS DECIMAL({digits}, {scale}))", text)
    return Bound("UNHEX(?)", value.hex()) if isinstance(value, bytes | bytearray) else None


def _bind_sqlite(value: Any) -> Bound | None:
    # A plus takes away that a cast lends its kind to what it is compared with, as a bound value does not.
    if isinstance(value, int):
        return Bound("(+CAST(? AS INTEGER))", str(int(value)))
    return Bound("(+CAST(? AS REAL))", repr(value)) if isinstance(value, float) else None


_BINDING: Final[dict[str, Callable[[Any], Bound | None]]] = {
    "postgresql": _bind_postgresql,
    "mariadb": _bind_mariadb,
    "sqlite": _bind_sqlite,
}
