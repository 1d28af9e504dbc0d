"""What is wrong with a file whose every key is right by itself, and what of it waits for a later release."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from agent.connectors.odbc.self_commits import ending_statement
from agent.connectors.odbc.statements import StatementError, Syntax, parse
from agent.leaving import Leaving
from agent.parameters import CONTENT, params_of, template_names
from agent.patterns import matcher
from agent.secrets.resolve import SECRET
from agent.settings import (
    KINDS_OF_CONNECTION,
    OPERATION_KINDS,
    CallOperation,
    DropOperation,
    FileConnection,
    OdbcConnection,
    Operation,
    OperationBase,
    Param,
    PickOperation,
    ProcedureOperation,
    Settings,
    SoapConnection,
    SqlOperation,
)
from agent.toml_lines import Path
from agent.values import as_json, reader, wants
from protocol.signing import SignatureMalformed, public_key_bytes

Problem = tuple[Path, str]

_LIKE_SECRET: Final = re.compile(r"\{\s*secret\b[^}]*\}?", re.IGNORECASE)
_PROXY_PASSWORD: Final = re.compile(r"//[^/@:]*:(?!\{secret:)[^/@]+@")
_CLEAR: Final = (
    "the password stands here in clear; write it as {secret:NAME}, and keep it with: outhaul-agent secret set NAME"
)
_CLEAR_PASSWORD: Final = re.compile(r"(?:^|;)\s*(?:pwd|password)\s*=\s*(?!\{secret:)[^;\s]", re.IGNORECASE)
LATER_ROOTS: Final = ("sftp://", "smb://", "ftps://")

# Which database it is may show only when the driver is asked, so a name counts as missing if it is
# missing however the text is read, and as unused likewise.
_READINGS: Final = (
    Syntax(),
    Syntax(dollar=True, nested=True),
    Syntax(backslash=True, hash=True, backtick=True),
    Syntax(backtick=True, bracket=True),
    Syntax(nested=True, bracket=True),
)

_TRANSACTIONS: Final = (("START", "TRANSACTION"), ("ABORT",))

_USES: Final = {  # of a parameter's keys, the types they mean something for
    "min": ("integer", "decimal", "number", "date", "datetime", "time"),
    "max": ("integer", "decimal", "number", "date", "datetime", "time"),
    "min_length": ("string", "binary"),
    "max_length": ("string", "binary"),
    "pattern": ("string",),
    "scale": ("decimal",),
    "precision": ("decimal",),
    "enum": ("string", "integer"),
}


def problems(settings: Settings) -> list[Problem]:
    """Return what the keys of ``settings`` make wrong together; empty if nothing."""
    found: list[Problem] = []
    for name, connection in settings.connections.items():
        place: Path = ("connections", name)
        found += _secrets(place, msgspec.to_builtins(connection))
        if isinstance(connection, OdbcConnection) and _CLEAR_PASSWORD.search(connection.connection_string):
            found.append(((*place, "connection_string"), _CLEAR))
        if isinstance(connection, SoapConnection):
            password = connection.auth.password
            if password and SECRET.search(password) is None:
                found.append(((*place, "auth", "password"), _CLEAR))
        if isinstance(connection, FileConnection) and connection.root.lower().startswith(LATER_ROOTS):
            scheme = connection.root.partition(":")[0]
            found.append(((*place, "root"), f"{scheme} comes with a later release; wants a local folder"))
    found += _secrets(("link",), {"proxy": settings.link.proxy})
    if _PROXY_PASSWORD.search(settings.link.proxy):
        found.append((("link", "proxy"), _CLEAR))
    passphrase = settings.link.passphrase
    if passphrase is not None and SECRET.fullmatch(passphrase) is None:
        found.append((("link", "passphrase"), _CLEAR))
    for name, operation in settings.operations.items():
        found += _operation(("operations", name), operation, settings)
    for number, name in enumerate(settings.policy.require_signature):
        if name not in settings.operations:
            place = ("policy", "require_signature", number)
            found.append((place, f"no operation has the name {name!r}{nearest(name, settings.operations)}"))
    found += _signers(settings)
    for name, trigger in settings.triggers.items():
        place = ("triggers", name, "connection")
        wanted = {"table": "odbc", "file": "file"}[trigger.type]
        found += _connection(place, trigger.connection, settings, f"a trigger of type {trigger.type}", (wanted,))
    return found


def _signers(settings: Settings) -> Iterator[Problem]:
    """Yield what is wrong with keys of callers, and with the names that operations allow."""
    signers = settings.policy.trusted_signers
    for name, keys in signers.items():
        for number, signer in enumerate(keys):
            place: Path = ("policy", "trusted_signers", name, number)
            try:
                public_key_bytes(signer.key)
            except SignatureMalformed as exc:
                yield place, f"key: {exc}"
            begins, ends = signer.not_before, signer.not_after
            # As times of the clock where one of them has no offset, which are not compared with others otherwise.
            if begins is not None and ends is not None and ends.timestamp() <= begins.timestamp():
                yield place, "not_after: wants a time after not_before"
    for name, operation in settings.operations.items():
        for number, allowed in enumerate(operation.allow or ()):
            if allowed not in signers:
                place = ("operations", name, "allow", number)
                yield place, f"policy.trusted_signers has no caller {allowed!r}{nearest(allowed, signers)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean …?``, or which there are, for a name that is not among ``known``."""
    # Imported here: it is needed to say what is wrong.
    import difflib

    names = list(known)
    close = difflib.get_close_matches(name, names, 1, 0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(names[:20])}" if names else "; there are none"


# --- operations ---------------------------------------------------------------------------------


def kind_of(operation: Operation) -> str:
    """Return the key that makes ``operation`` what it is, such as ``sql``."""
    return next(kind for kind, model in OPERATION_KINDS.items() if type(operation) is model)


def _operation(place: Path, operation: Operation, settings: Settings) -> Iterator[Problem]:
    kind = kind_of(operation)
    types = tuple(kind_type for kind_type, kinds in KINDS_OF_CONNECTION.items() if kind in kinds)
    yield from _connection((*place, "connection"), operation.connection, settings, f"an operation with {kind!r}", types)
    for name, param in operation.params.items():
        yield from _param((*place, "params", name), param, isinstance(operation, ProcedureOperation))
    yield from _verify(place, operation, settings)
    if operation.effect == "once":
        yield from _once(place, operation, settings)
    if isinstance(operation, SqlOperation):
        yield from _sql(place, operation)
    if isinstance(operation, DropOperation):
        yield from _drop(place, operation)
        for limit in ("columns", "max_rows"):
            if getattr(operation, limit) is not None:
                yield (*place, limit), "means nothing for a drop, which returns a receipt and no rows"
    if isinstance(operation, PickOperation):
        yield from _used((*place, "pick"), [], operation.params, "a pick", "{}")
        yield from _columns(place, operation)
    if isinstance(operation, DropOperation | PickOperation):
        yield from _encoding((*place, "encoding"), operation.encoding)


def _sql(place: Path, operation: SqlOperation) -> Iterator[Problem]:
    key = (*place, "sql")
    readings: list[list[str]] = []
    refusals: list[str] = []
    for syntax in _READINGS:
        try:
            readings.append([name for statement in parse(operation.sql, syntax) for name in statement.names])
        except StatementError as exc:
            refusals.append(str(exc))
    if not readings:
        yield key, f"can't be read: {refusals[0]}"
        return
    always = [name for name in dict.fromkeys(readings[0]) if all(name in names for names in readings)]
    ever = {name for names in readings for name in names}
    for name in always:
        if name not in operation.params:
            yield key, f":{name} is not declared in params{nearest(name, operation.params)}"
    for name in operation.params:
        if name not in ever:
            yield (*place, "params", name), f"is declared, but the SQL does not use :{name}"


def _connection(place: Path, name: str, settings: Settings, who: str, types: tuple[str, ...]) -> Iterator[Problem]:
    connection = settings.connections.get(name)
    if connection is None:
        yield place, f"no connection has the name {name!r}{nearest(name, settings.connections)}"
    elif connection.type not in types:
        yield place, f"{who} wants a connection of type {' or '.join(types)}, found {name!r} of type {connection.type}"


def _param(place: Path, param: Param, procedure: bool) -> Iterator[Problem]:
    for key, types in _USES.items():
        if getattr(param, key) is not None and param.type not in types:
            yield (*place, key), f"means nothing for type {param.type}; it is for {', '.join(types)}"
            return
    if param.direction != "in" and not procedure:
        yield (*place, "direction"), f"wants 'in', found {param.direction!r}; only procedures give parameters back"
    for number, choice in enumerate(param.enum or ()):
        if type(choice) is not (str if param.type == "string" else int):
            yield (*place, "enum", number), f"wants values of type {param.type}, found {choice!r}"
            return
    if param.pattern is not None:
        try:
            matcher(param.pattern)
        except ValueError as exc:
            yield (*place, "pattern"), str(exc)
            return
    bare = replace(param, min=None, max=None, nullable=False)
    for key in ("min", "max"):
        bound = getattr(param, key)
        if bound is not None and not _reads(bare, bound):
            yield (*place, key), f"wants {wants(bare)}, found {bound!r}"
            return
    try:
        reader(param)
    except ValueError:
        yield place, f"no value can be both from {param.min!r} and up to {param.max!r}"
        return
    if None not in (param.min, param.max) and not _reads(replace(param, max=None), param.max):
        yield (*place, "max"), f"wants at least min, which is {param.min!r}, found {param.max!r}"
    elif param.min_length is not None and param.max_length is not None and param.min_length > param.max_length:
        yield (
            (*place, "max_length"),
            f"wants at least min_length, which is {param.min_length}, found {param.max_length}",
        )
    elif param.has_default and not _reads(param, param.default):
        yield (*place, "default"), f"wants {wants(param)}, found {param.default!r}"


def _reads(param: Param, value: Any) -> bool:
    try:
        reader(param)(as_json(value))
    except ValueError:
        return False
    return True


def _used(place: Path, used: list[str], params: Mapping[str, Param], where: str, form: str) -> Iterator[Problem]:
    for name in used:
        if name not in params:
            yield place, f"{form.format(name)} is not declared in params{nearest(name, params)}"
    for name in params:
        if name not in used:
            yield (*place[:-1], "params", name), f"is declared, but {where} does not use {form.format(name)}"


def _drop(place: Path, operation: DropOperation) -> Iterator[Problem]:
    key = (*place, "drop")
    try:
        names = template_names(operation.drop)
    except ValueError as exc:
        yield key, f"{exc}"
        return
    yield from _used(key, names, params_of(operation), "the file's name", "{{{}}}")
    content = CONTENT[operation.format.type]
    if content in operation.params:
        yield (*place, "params", content), "is the name of the file's content; a parameter wants another one"
    if re.search(r'[/\\:*?"<>|]', operation.drop) is not None or operation.drop.startswith((".", " ")):
        yield key, f"wants the name of one file in the connection's root, without a folder, found {operation.drop!r}"


def _columns(place: Path, operation: PickOperation) -> Iterator[Problem]:
    there = operation.format.columns
    if there is None:
        return
    known = Leaving(OperationBase(connection=operation.connection, columns=("file", *there)))
    for key, names in (("mask", operation.mask), ("columns", operation.columns or ())):
        for number, name in enumerate(names):
            if not known.lets(name):
                yield (*place, key, number), f"no column has the name {name!r}{nearest(name, there)}"


def _encoding(place: Path, name: str) -> Iterator[Problem]:
    try:
        "".encode(name)
    except (LookupError, ValueError):
        yield place, f"wants the name of a text codec such as 'utf-8', 'cp1252' or 'cp037', found {name!r}"


def _verify(place: Path, operation: Operation, settings: Settings) -> Iterator[Problem]:
    # A name that does not exist is only a remark: files are written ahead.
    other = settings.operations.get(operation.verify or "")
    if other is None:
        return
    if other.effect != "read":
        found = f"{operation.verify!r} with effect {other.effect!r}"
        yield (*place, "verify"), f"wants an operation with effect 'read', found {found}"
    given = {*operation.params, "command_id", "correlation_id"} if operation.params else None
    missing = [name for name, param in other.params.items() if param.wanted and given is not None and name not in given]
    if missing:
        yield (
            (*place, "verify"),
            f"wants an operation whose parameters are among this one's, command_id and correlation_id, "
            f"found {operation.verify!r} that also wants {', '.join(missing)}",
        )


def _once(place: Path, operation: Operation, settings: Settings) -> Iterator[Problem]:
    connection = settings.connections.get(operation.connection)
    if isinstance(connection, OdbcConnection) and connection.ledger is None:
        yield (
            (*place, "effect"),
            f"'once' wants a ledger: put ledger = \"outhaul_ledger\" into [connections.{operation.connection}], and "
            "make the table in the database as `outhaul-agent ledger sql` prints it",
        )
    if isinstance(operation, CallOperation | PickOperation):
        yield (
            (*place, "effect"),
            f"'once' is for databases and for files that are dropped, found a {kind_of(operation)!r}; "
            "use 'at-most-once', with `verify` where something can tell whether it happened",
        )
    if isinstance(operation, SqlOperation):
        ends = [ending_statement(operation.sql, syntax, _TRANSACTIONS) for syntax in _READINGS]
        if all(ends):
            yield (
                (*place, "sql"),
                f"{ends[0]} ends the transaction, and effect 'once' is one transaction with its row in the ledger; "
                "take it out: the agent commits, or rolls back when a statement fails",
            )


# --- secrets ------------------------------------------------------------------------------------


def _secrets(place: Path, value: Any) -> Iterator[Problem]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _secrets((*place, key), child)
    elif isinstance(value, str):
        for match in _LIKE_SECRET.finditer(SECRET.sub("", value)):
            yield place, f"wants a secret as {{secret:NAME}}, found {match[0][:20]!r}"


# --- later --------------------------------------------------------------------------------------


def remarks(settings: Settings) -> list[str]:
    """Return a plain sentence for each key that is accepted and not acted on in this release, or unwise."""
    found: list[str] = []
    for name, operation in settings.operations.items():
        place = f"operations.{name}"
        if operation.verify is not None and operation.verify not in settings.operations:
            found.append(f"{place}: verify names no operation {operation.verify!r}: what is in doubt stays so.")
    if settings.policy.require_signature and not settings.policy.trusted_signers:
        found.append("policy: require_signature names operations, and trusted_signers nobody: they can't be run.")
    found += [f"triggers.{name}: nothing is watched in this release." for name in settings.triggers]
    return found
