"""What ``outhaul-agent check`` finds out of a database and of the operations on it; nothing is run."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import pyodbc

from agent.connectors.base import Finding
from agent.connectors.odbc.dialects import Dialect, Query
from agent.connectors.odbc.once import INSTEAD, Once
from agent.connectors.odbc.pins import called, flaw, pin_of, shown
from agent.connectors.odbc.sqlstates import diagnose
from agent.connectors.odbc.statements import StatementError, parse
from agent.errors import CommandError, SourceFailed
from agent.leaving import Leaving, columns_missing
from agent.settings import ProcedureOperation, SqlOperation

_POINTER_BYTES: Final = struct.calcsize("P")
# The account may not: PostgreSQL, the standard; MariaDB; SQL Server; Oracle; Db2.
NO_RIGHTS: Final = frozenset({"42501", "1044", "1142", "1143", "1370", "229", "1031", "-551"})
DESCRIBE_S: Final = 10.0  # seconds that a database has to describe a result
_SAMPLE: Final = "Zürich €, Łódź, 東京, 😀"


def session(subject: str, connection: pyodbc.Connection, dialect: Dialect) -> Iterator[Finding]:
    """Yield what driver and database are, and what the driver is known to change."""
    database, version, driver, driver_version, name = (
        str(connection.getinfo(number))
        for number in (
            pyodbc.SQL_DBMS_NAME,
            pyodbc.SQL_DBMS_VER,
            pyodbc.SQL_DRIVER_NAME,
            pyodbc.SQL_DRIVER_VER,
            pyodbc.SQL_DATABASE_NAME,
        )
    )
    yield Finding(
        subject,
        True,
        f"{database} {version}, database {name or '-'}, dialect {dialect.name}, "
        f"driver {driver} {driver_version}, {8 * _POINTER_BYTES}-bit",
    )
    yield Finding(subject, None, dialect.buffering)
    yield _code_page(subject, connection, dialect)
    if not dialect.tried:
        yield Finding(subject, None, f"the dialect {dialect.name} has not been tried on a real server")
    for spoil in dialect.spoils:
        yield Finding(subject, None, f"the driver changes or loses: {spoil}")


def operation(
    name: str,
    operation: SqlOperation | ProcedureOperation,
    dialect: Dialect,
    hide: Sequence[str],
    timeout_s: float,
) -> Finding:
    """Return whether an operation could run; leaves a transaction open that is to be rolled back."""
    subject = f"operation {name}"
    try:
        return Finding(subject, True, _tried(operation, dialect, timeout_s))
    except CommandError as exc:
        return Finding(subject, False, exc.message, code=exc.remedy or "operation.parameters")
    except StatementError as exc:
        return Finding(subject, False, str(exc), code="operation.statement")
    except pyodbc.Error as exc:
        found = diagnose(exc.args, hide)
        denied = found.sqlstate in NO_RIGHTS or found.native in NO_RIGHTS
        code = "operation.rights" if denied else "operation.statement"
        return Finding(subject, False, f"{found.message} ({found.code})", code=code)


def limits(
    name: str, operation: SqlOperation | ProcedureOperation, dialect: Dialect, hide: Sequence[str]
) -> Iterator[Finding]:
    """Yield what the operator's own limits on it come to; leaves a transaction open that is to be rolled back."""
    subject = f"operation {name}"
    try:
        if isinstance(operation, ProcedureOperation):
            yield from _pin(f"{subject}: parameters", name, operation, dialect)
        if operation.columns is not None:
            dialect.connection.rollback()
            dialect.begin(read_only=True, timeout_s=DESCRIBE_S)
            yield _columns(f"{subject}: columns", name, operation, dialect)
    except pyodbc.Error as exc:
        found = diagnose(exc.args, hide)
        yield Finding(subject, None, f"its columns or parameters can't be looked up: {found.message} ({found.code})")


def _pin(subject: str, name: str, operation: ProcedureOperation, dialect: Dialect) -> Iterator[Finding]:
    routine = called(operation, dialect)
    if operation.pin is not None:
        wrong = flaw(name, operation, routine)
        fix = f'look at what changed; then pin = "{pin_of(routine)}"' if routine is not None else "take the pin out"
        if wrong:
            yield Finding(subject, False, wrong, fix, code="operation.pin")
        else:
            yield Finding(subject, True, "is as it was pinned")
    elif routine is not None:
        yield Finding(subject, None, f'pin = "{pin_of(routine)}" would hold it to {shown(routine)}')


def _columns(subject: str, name: str, operation: SqlOperation | ProcedureOperation, dialect: Dialect) -> Finding:
    leaving = Leaving(operation)
    for param, declared in operation.params.items():
        if declared.direction != "in":
            leaving.lets(param)
    sure = True
    for query in _queries(operation, dialect):
        names = (
            [field.column.name for field in query.fields]
            if query.fields is not None
            else dialect.result_names(query.sql, query.values)
        )
        sure = sure and names is not None
        for column in names or ():
            leaving.lets(column)
    missing = leaving.missing()
    if not missing:
        return Finding(subject, True, f"only {', '.join(operation.columns or ())} leave")
    if sure:
        return Finding(subject, False, columns_missing(name, missing), code="operation.columns")
    return Finding(subject, None, f"whether it returns {', '.join(missing)} shows when it runs, before its commit")


def _queries(operation: SqlOperation | ProcedureOperation, dialect: Dialect) -> list[Query]:
    if isinstance(operation, ProcedureOperation):
        return [dialect.invoke(operation, dict.fromkeys(operation.params)).query]
    return [Query(one.sql, [None] * len(one.names)) for one in parse(operation.sql, dialect.syntax)]


def ledger(subject: str, once: Once, hide: Sequence[str]) -> Finding:
    """Return whether the ledger's table can be written; leaves a transaction open that is to be rolled back."""
    subject = f"{subject}: ledger {once.table}"
    try:
        flaw = once.flaw()
    except CommandError as exc:
        flaw = exc.message
    except pyodbc.Error as exc:
        found = diagnose(exc.args, hide)
        flaw = f"{found.message} ({found.code})"
    if flaw:
        return Finding(subject, False, flaw, code="odbc.ledger")
    return Finding(subject, True, "can be read and written")


def once_only(name: str, operation: SqlOperation | ProcedureOperation, once: Once) -> Finding | None:
    """Return why an operation's work can't be kept to once, if the database tells; leaves a transaction open."""
    refusal = once.refusal(operation)
    if not refusal:
        return None
    return Finding(f"operation {name}", False, f'can\'t be effect = "once": {refusal}', INSTEAD, code="operation.once")


def _code_page(subject: str, connection: pyodbc.Connection, dialect: Dialect) -> Finding:
    """Return whether letters of several scripts come back as they went."""
    if not dialect.tried:
        return Finding(subject, None, "code page: not tried with this dialect")
    row = connection.execute("SELECT ?", _SAMPLE).fetchone()
    if row is not None and row[0] == _SAMPLE:
        detail = f"code page: all of Unicode comes back as it went; the database keeps text in {_encoding(dialect)}"
        return Finding(subject, True, detail)
    detail = f"code page: letters are lost between agent and database, which keeps text in {_encoding(dialect)}"
    return Finding(subject, False, detail, code="odbc.code-page")


def _encoding(dialect: Dialect) -> str:
    return str(dialect.connection.execute(dialect.encoding).fetchval()) if dialect.encoding else "what it was set to"


def _tried(operation: SqlOperation | ProcedureOperation, dialect: Dialect, timeout_s: float) -> str:
    dialect.begin(read_only=False, timeout_s=timeout_s)
    if isinstance(operation, ProcedureOperation):
        call = dialect.invoke(operation, dict.fromkeys(operation.params))
        known = dialect.find(operation.procedure) is not None
        return f"{'takes these parameters' if known else 'not looked up, would be called as'}: {call.query.sql}"
    statements = parse(operation.sql, dialect.syntax)
    undeclared = {name for statement in statements for name in statement.names} - operation.params.keys()
    if undeclared:
        raise SourceFailed(f"uses :{', :'.join(sorted(undeclared))} but declares no such parameter")
    explained = 0
    for statement in statements:
        sql = dialect.explain(statement.sql)
        if sql is not None:
            dialect.connection.execute(sql, *[None] * len(statement.names)).close()
            explained += 1
    return f"{explained} of {len(statements)} statement(s) understood by the database, the others not tried"
