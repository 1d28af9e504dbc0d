"""
Rows as PostgreSQL itself writes them: each a line of NDJSON, of the very form that ``RowEncoder`` gives it.

A driver and Python take a row apart and put it together again, value by value, which takes longer than all the rest
of its way. One text a row is fetched in a fifth of the time, and the server needs less than that for writing it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from agent.connectors.odbc.dialects import Leaves
from agent.connectors.odbc.types import Field
from agent.leaving import MASKED

_NAME_BYTES: Final = 63  # of a name; PostgreSQL cuts longer ones without a sign
_NAME: Final = re.compile(r'[^?{}\\"\x00-\x1f]+').fullmatch  # others may be taken for marks on their way

_PLAIN: Final = "{0}"
_TEXT: Final = "{0}::text"
_DAYS: Final = "{0} < '0001-01-01' OR {0} >= '10000-01-01'"
_UTC: Final = "({0} AT TIME ZONE 'UTC')"
# JSON of Python tells 37.0 from 37; PostgreSQL's does not. From these powers of ten on it writes an exponent.
_FLOAT: Final = "CASE WHEN {0} = trunc({0}) AND abs({0}) < %s THEN ({0}::text || '.0')::json ELSE to_json({0}) END"

# By type: the value as `row_to_json` is to have it, and when it is none that may be carried.
_WRITTEN: Final[dict[str, tuple[str, str]]] = {
    **dict.fromkeys(("int2", "smallint", "int4", "integer", "int8", "bigint"), (_PLAIN, "")),
    **dict.fromkeys(("bool", "boolean", "uuid", "jsonb"), (_PLAIN, "")),
    **dict.fromkeys(("text", "varchar", "character varying", "bpchar", "char", "character"), (_PLAIN, "")),
    "numeric": (_TEXT, ""),
    "money": ("{0}::numeric::text", ""),
    **dict.fromkeys(("float4", "real"), (_FLOAT % "1e6", "")),
    **dict.fromkeys(("float8", "double precision"), (_FLOAT % "1e15", "")),
    "date": (_PLAIN, _DAYS),
    **dict.fromkeys(("timestamp", "timestamp without time zone"), (_PLAIN, _DAYS)),
    **dict.fromkeys(
        ("timestamptz", "timestamp with time zone"),
        (f"replace({_UTC}::text, ' ', 'T') || 'Z'", _DAYS.replace("{0}", _UTC)),
    ),
    **dict.fromkeys(("time", "time without time zone"), (_PLAIN, "{0} = '24:00:00'")),
    "json": ("translate({0}::text, chr(10) || chr(13), '  ')::json", ""),
    "bytea": ("translate(encode({0}, 'base64'), chr(10), '')", ""),
}


def written(sql: str, fields: Sequence[Field], leaves: Sequence[Leaves]) -> str | None:
    """
    Return the statement that writes the rows of ``sql``: one text each.

    A text that begins with no brace is of a row that can't be carried: the number of the column among ``leaves``, and
    the value. ``None`` where a type or a name is none that PostgreSQL is known to write as we do.
    """
    values, refusals = [], []
    for number, one in enumerate(leaves):
        form = _WRITTEN.get(fields[one.position].column.source_type)
        if form is None or _NAME(one.name) is None or len(one.name.encode()) > _NAME_BYTES:
            return None
        value = f"q.c{one.position}"
        if one.hidden:
            values.append(f"CASE WHEN {value} IS NOT NULL THEN '{MASKED}' END AS \"{one.name}\"")
            continue
        values.append(f'{form[0].format(value)} AS "{one.name}"')
        if form[1]:
            refusals.append(f"WHEN {form[1].format(value)} THEN '{number} ' || {_readable(form[0], value)}")
    line = "row_to_json(t.*)::text"
    if refusals:
        line = f"CASE {' '.join(refusals)} ELSE {line} END"
    columns = ", ".join(f"c{i}" for i in range(len(fields)))
    # OFFSET 0: the subquery stays one, so that a value that is looked at twice is computed once, and an ORDER BY in it
    # is kept.
    rows = f"(SELECT * FROM (\n{sql}\n) AS i OFFSET 0) AS q({columns})"  # noqa: S608 # the operator's own statement
    return f"SELECT {line} FROM {rows}, LATERAL (SELECT {', '.join(values)}) AS t"  # noqa: S608 # as above


def _readable(form: str, value: str) -> str:
    """Return what a refused value is told as: text that the column's own reader refuses too."""
    return form.format(value) if form != _PLAIN else f"{value}::text"
