"""Procedures and functions of PostgreSQL: as its catalogue has them, and how they are called."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

from agent.connectors.odbc.dialects import Argument, Invocation, Query, Routine, out_names
from agent.settings import ProcedureOperation

Pairs = Sequence[tuple[Argument, str | None]]  # an argument and the declared parameter that it is, if any

# All of a name and, unless it is empty, a schema (which stands in it twice).
FIND: Final = """
SELECT p.prokind::text, p.proretset, format_type(p.prorettype, NULL),
       array_to_json(coalesce(p.proargnames, '{}'))::text,
       array_to_json(coalesce(p.proargmodes::text[], '{}'))::text,
       array_to_json(ARRAY(SELECT format_type(t, NULL)
                           FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) WITH ORDINALITY a(t, n)
                           ORDER BY n))::text,
       p.pronargdefaults
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE p.proname = ? AND p.prokind IN ('f', 'p')
  AND (n.nspname = ? OR (? = '' AND pg_catalog.pg_function_is_visible(p.oid)))
  AND has_function_privilege(p.oid, 'EXECUTE')
"""
# The texts of procedures in PL/pgSQL, the language in which a COMMIT can stand; as above.
BODIES: Final = """
SELECT p.prosrc
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
     JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE p.proname = ? AND p.prokind = 'p' AND l.lanname = 'plpgsql'
  AND (n.nspname = ? OR (? = '' AND pg_catalog.pg_function_is_visible(p.oid)))
"""
_DIRECTIONS: Final = {"i": "in", "o": "out", "b": "inout", "v": "in", "t": "out"}


def routine_of(
    kind: str, returns_set: bool, returns: str, names: str, modes: str, arg_types: str, defaults: int
) -> Routine:
    """Return what a row of ``FIND`` tells."""
    all_names, all_modes, all_types = (json.loads(text) for text in (names, modes, arg_types))
    arguments = []
    for i, type_name in enumerate(all_types):
        name = all_names[i] if i < len(all_names) else ""
        mode = all_modes[i] if i < len(all_modes) else "i"
        if mode == "t":
            continue  # a column of RETURNS TABLE
        arguments.append(Argument(name, _DIRECTIONS[mode], type_name))  # type: ignore[arg-type] # the table's values are directions
    return Routine("procedure" if kind == "p" else "function", tuple(arguments), returns, returns_set)


def pairs_of(routine: Routine, operation: ProcedureOperation) -> Pairs | None:
    """
    Return each argument with the declared parameter that it is, or ``None`` if they do not fit.

    Arguments that are cursors need not be declared: they become row sets. The one OUT parameter
    declared for a function may be what it returns.
    """
    names = list(operation.params)
    pairs: list[tuple[Argument, str | None]] = []
    for argument in routine.arguments:
        if argument.type == "refcursor" and argument.direction != "in":
            named = (
                names[:1]
                if names and operation.params[names[0]].direction != "in" and names[0] == argument.name
                else []
            )
            pairs.append((argument, None))
            names = names[len(named) :]
            continue
        if not names or operation.params[names[0]].direction != argument.direction:
            return None
        pairs.append((argument, names.pop(0)))
    if not names:
        return pairs
    scalar = routine.kind == "function" and not routine.returns_set and len(names) == 1
    no_outs = all(argument.direction == "in" for argument in routine.arguments)
    return pairs if scalar and no_outs and operation.params[names[0]].direction == "out" else None


def invocation(
    operation: ProcedureOperation,
    routine: Routine,
    pairs: Pairs,
    values: Mapping[str, Any],
    select: Callable[[str, Sequence[Any]], Query],
) -> Invocation:
    """
    Return how a routine is called.

    Args:
        select: makes a query of a SELECT whose columns the driver might spoil.
    """
    coming = [name for argument, name in pairs if argument.direction != "in"]
    cursors = tuple(i for i, name in enumerate(coming) if name is None)
    outputs = tuple(name or "" for name in coming)
    if routine.kind == "procedure":
        marks, bound = _placeholders(pairs, values)
        return Invocation(Query(f"CALL {operation.procedure}({marks})", bound), outputs, _answer(outputs), cursors)
    marks, bound = _placeholders([pair for pair in pairs if pair[0].direction != "out"], values)
    if routine.returns == "void":
        return Invocation(Query(f"SELECT {operation.procedure}({marks})", bound), (), "row")
    sql = f"SELECT * FROM {operation.procedure}({marks})"  # noqa: S608 # the operator's own name
    if routine.returns == "refcursor" and not coming:
        return Invocation(Query(sql, bound), (), "cursors")
    query = select(sql, bound)
    if routine.returns_set:
        return Invocation(query)
    outputs = outputs or out_names(operation)
    return Invocation(query, outputs, _answer(outputs), cursors)


def _answer(outputs: Sequence[str]) -> Literal["row", "rows"]:
    return "row" if outputs else "rows"


def _placeholders(pairs: Pairs, values: Mapping[str, Any]) -> tuple[str, list[Any]]:
    marks, bound = [], []
    for argument, name in pairs:
        if name is None or argument.direction == "out":
            marks.append(f"NULL::{argument.type}")
        else:
            marks.append(f"?::{argument.type}")
            bound.append(values.get(name))
    return ", ".join(marks), bound
