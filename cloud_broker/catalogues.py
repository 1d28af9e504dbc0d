"""What the agents say may be run: read once, asked for each submission."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakValueDictionary

import jsonschema_rs
import msgspec

from cloud_broker import schema_cost
from cloud_broker.breakers import Guard
from cloud_broker.store.commands import Effect

MIN_RATE_PER_S: Final = 1 / 86_400.0  # one a day; the slowest that the agent's file can say
MAX_COOL_DOWN_S: Final = 86_400.0  # seconds
MAX_PATTERN_BYTES: Final = 4 * 1_048_576  # of one pattern once it is compiled
PATTERN_SIZES: Final = tuple(1_024 << (2 * n) for n in range(6))  # bytes; 1 KiB to 1 MiB, so that they can be told
# Bytes of parameters times steps of a schema times bytes of its largest pattern: half a second at worst. Each
# character may have to be held against every place in a pattern.
MAX_PATTERN_WORK: Final = 2**29
MAX_WORK: Final = 16 * 1_048_576  # bytes of parameters times steps of a schema: a quarter of a second at worst
MAX_LISTED_WORK: Final = 16_384  # the same, up to which all that is wrong is listed
MAX_REASON_CHARS: Final = 200  # of what a validator says, which shows the value
ARROW: Final = "arrow"
CONTENT: Final = "content"  # the parameter of a drop that may be a blob
MAX_PLACE_CHARS: Final = 200  # of an agent's word for where a connection leads

_Kind = jsonschema_rs.ValidationErrorKind
_CANONICAL: Final = msgspec.json.Encoder(order="deterministic")


class _Operation(msgspec.Struct, frozen=True):
    name: str
    connection: str
    effect: Effect
    params: dict[str, Any]
    kind: str = ""
    description: str = ""
    timeout_s: float = 60.0
    signature_required: bool = False
    settled_by: str = ""
    rows_as: list[str] = []


class _Breaker(msgspec.Struct, frozen=True):
    failures: int = 5
    cool_down_s: float = 30.0


class _Connection(msgspec.Struct, frozen=True):
    name: str
    type: str = ""
    max_concurrent: int = 1
    rate_per_s: float | None = None
    breaker: _Breaker = _Breaker()
    place: str = ""


class _Document(msgspec.Struct, frozen=True):
    operations: list[_Operation]
    connections: list[_Connection]
    keys: dict[str, str] = {}


class CatalogueInvalid(ValueError):
    """The agent sent something that is no catalogue."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One parameter that does not fit: where, and why."""

    name: str
    reason: str


def _validator(schema: Any, pattern_bytes: int) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        schema,
        # The agent is not trusted with our time: its patterns run in linear time.
        pattern_options=jsonschema_rs.RegexOptions(size_limit=pattern_bytes),
        # Nor with what we can reach: a reference never leaves its schema.
        retriever=_refuse,
    )


def _pattern_bytes(schema: Any) -> int:
    """Return how large the largest pattern of a schema may be once it is compiled."""
    for size in PATTERN_SIZES:
        try:
            _validator(schema, size)
        except jsonschema_rs.ValidationError:
            continue
        return size
    return MAX_PATTERN_BYTES


def _takes_blobs(schema: Any) -> bool:
    """Whether the content of a drop may be ``{"blob": ID}``."""
    for step in ("properties", CONTENT, "properties", "blob"):
        schema = schema.get(step) if isinstance(schema, dict) else None
    return schema is not None


def _refuse(address: str) -> Any:
    raise ValueError(f"a reference to {address}, outside of the schema")


class Operation:
    """
    One operation of one agent, with its schema ready to check parameters.

    Attributes:
        digest: SHA-256 of all that its catalogue says of it but the description, hex: the same one, the same operation.
        settled_by: who can tell what became of a run whose end nobody heard: ``ledger``, ``folder``, ``verify`` or
            ``nobody``; "" where the agent does not say, and then does not know how old a command is.
    """

    def __init__(self, entry: _Operation, digest: str = "") -> None:
        self.digest = digest
        self.settled_by = entry.settled_by
        self.name = entry.name
        self.connection = entry.connection
        self.effect: Effect = entry.effect
        self.timeout_s = entry.timeout_s
        self._drops = entry.kind == "drop"
        self._takes_blobs = _takes_blobs(entry.params)
        self._schema = entry.params
        try:
            self._steps = schema_cost.steps(entry.params)
            self._validator = _validator(entry.params, MAX_PATTERN_BYTES)
            self._pattern_bytes = 0
            self._wider = self._validator
            if schema_cost.has_patterns(entry.params):
                self._pattern_bytes = _pattern_bytes(entry.params)
                self._wider = _validator(schema_cost.without_patterns(entry.params), MAX_PATTERN_BYTES)
        except (RecursionError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as exc:
            raise CatalogueInvalid(f"operation {entry.name}: its schema can't be used: {exc}") from exc

    def blob_in(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what stands in the parameters in place of a content: ``{"blob": ID}``; ``None`` if nothing does."""
        given = params.get(CONTENT) if self._takes_blobs else None
        return given if isinstance(given, dict) else None

    def no_blobs(self, params: Mapping[str, Any]) -> str:
        """Return why a blob that stands in the parameters can't be taken; "" if it can, or there is none."""
        if self._takes_blobs or not self._drops:
            return ""
        if not any(isinstance(given := params.get(name), dict) and "blob" in given for name in (CONTENT, "rows")):
            return ""
        if CONTENT in (self._schema.get("properties") or {}):
            return "the agent's program is of a release that takes no blobs: update it, or give the content in base64"
        return "only an operation whose format is raw takes a blob: it writes the bytes as they are"

    def problems(self, params: Any, size: int) -> list[Problem]:
        """
        Return what is wrong with ``params``, a decoded JSON value of ``size`` bytes; empty if it fits.

        Of large ones the first thing that is wrong: to list all would keep everybody waiting. Patterns are left to
        the agent, which checks everything itself, where they might take long.
        """
        if size * self._steps > MAX_WORK:
            return [Problem("", f"{size} bytes are too many to be checked against the schema of this operation")]
        validator = self._validator if size * self._steps * self._pattern_bytes <= MAX_PATTERN_WORK else self._wider
        try:
            if validator.is_valid(params):
                return []
            if size * self._steps > MAX_LISTED_WORK:
                validator.validate(params)
            errors = list(validator.iter_errors(params))
        except jsonschema_rs.ValidationError as exc:
            errors = [exc]
        except ValueError:
            return [Problem("", "is nested too deeply to be checked")]
        return [problem for error in errors for problem in _told(error, self._schema)]


def _told(error: jsonschema_rs.ValidationError, schema: Any) -> list[Problem]:
    """Say what a schema's validator found in the words of one who calls an operation."""
    place = [str(step) for step in error.instance_path]
    parent = _at(schema, error.schema_path[:-1])
    kind = error.kind
    if isinstance(kind, _Kind.Required):
        return [Problem(".".join([*place, kind.property]), "is required")]
    if isinstance(kind, _Kind.AdditionalProperties):
        known = ", ".join(parent.get("properties", {})) or "none"
        return [Problem(".".join([*place, name]), f"is not known; known are {known}") for name in kind.unexpected]
    wanted = parent.get("description")
    if isinstance(kind, _Kind.Pattern | _Kind.AnyOf) and wanted:
        # The agent's own words: a regular expression says to nobody what to do.
        found = msgspec.json.encode(error.instance).decode()
        return [Problem(".".join(place), f"{_short(found)} does not fit. {wanted}")]
    return [Problem(".".join(place), _short(error.message))]


def _at(schema: Any, path: Sequence[str | int]) -> dict[str, Any]:
    """Return the part of a schema at ``path``; empty behind a reference, which the path does not show."""
    for step in path:
        try:
            schema = schema[step]
        except (LookupError, TypeError):
            return {}
    return schema if isinstance(schema, dict) else {}


def _short(text: str) -> str:
    """Return ``text`` without the middle of a huge value in it."""
    return (
        text if len(text) <= MAX_REASON_CHARS else f"{text[: MAX_REASON_CHARS // 2]}…{text[-MAX_REASON_CHARS // 2 :]}"
    )


@dataclass(frozen=True, slots=True)
class Connection:
    """
    What a connection takes; the agent keeps to it by itself, the broker need not send what would only wait there.

    Attributes:
        max_concurrent: commands at once.
        rate_per_s: commands per second; ``None`` is any number.
        guard: when it is spared.
        place: the agent's word for where it leads, which it leaves in a ledger; "" where it keeps none.
    """

    max_concurrent: int = 1
    rate_per_s: float | None = None
    guard: Guard = field(default_factory=Guard)
    place: str = ""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Catalogue:
    """
    What one agent may be asked, and what each of its connections takes; agents that say the same share one.

    Attributes:
        seals: whether parameters and results can be sealed.
        digests: of all its operations.
        arrow: the names of those whose rows can be asked for as Arrow.
    """

    operations: Mapping[str, Operation]
    connections: Mapping[str, Connection]
    seals: bool = False
    digests: frozenset[str] = frozenset()
    arrow: frozenset[str] = frozenset()


class _Parts(msgspec.Struct, frozen=True):
    """A catalogue's document, as far as it tells one from another."""

    operations: msgspec.Raw
    connections: msgspec.Raw
    keys: dict[str, str] = {}

    def mark(self) -> bytes:
        """Return what is the same for the same operations and connections, and for nothing else."""
        parts = (self.operations, self.connections, b"seals" if self.keys.get("seal") else b"")
        return b"".join(hashlib.sha256(part).digest() for part in parts)


# What agents have told that are there: thousands of them may have been given one and the same file.
_CATALOGUES: Final[WeakValueDictionary[bytes, Catalogue]] = WeakValueDictionary()
_OPERATIONS: Final[WeakValueDictionary[str, Operation]] = WeakValueDictionary()


def known(document: bytes) -> Catalogue | None:
    """Return a catalogue that another agent has told before, read; ``None`` if none has, or it is none."""
    try:
        return _CATALOGUES.get(msgspec.json.decode(document, type=_Parts).mark())
    except (ValueError, RecursionError):
        return None


def read(document: bytes) -> Catalogue:
    """
    Read a catalogue as an agent sent it.

    Raises:
        CatalogueInvalid: it is none.
    """
    try:
        parsed = msgspec.json.decode(document, type=_Document)
        mark = msgspec.json.decode(document, type=_Parts).mark()
        digests = operation_digests(document)
    except (ValueError, RecursionError) as exc:
        raise CatalogueInvalid(f"not a catalogue: {exc}") from exc
    # Of two with one name the last counts, as for their digests: what is shared must be what its digest says.
    entries = {entry.name: entry for entry in parsed.operations}
    found = _CATALOGUES.get(mark)
    if found is None:
        found = _CATALOGUES[mark] = Catalogue(
            operations={name: _operation(entry, digests[name]) for name, entry in entries.items()},
            connections={entry.name: _limits(entry) for entry in parsed.connections},
            seals=bool(parsed.keys.get("seal")),
            digests=frozenset(digests.values()),
            arrow=frozenset(entry.name for entry in parsed.operations if ARROW in entry.rows_as),
        )
    return found


def _operation(entry: _Operation, digest: str) -> Operation:
    # The digest is of all that one is made from.
    found = _OPERATIONS.get(digest)
    if found is None:
        found = _OPERATIONS[digest] = Operation(entry, digest)
    return found


def operation_digests(document: bytes) -> dict[str, str]:
    """
    Return the digest of each operation of a catalogue, by name: all that is said of it, and the kind of its connection.

    The description is for people, and no part of it; nor are a connection's limits, which are each agent's own, and
    as what rows can be asked for, which is a matter of what was installed.
    """
    whole = msgspec.json.decode(document)
    kinds = {entry["name"]: entry.get("type", "") for entry in whole["connections"]}
    for entry in whole["operations"]:
        entry.pop("rows_as", None)
    return {
        entry["name"]: hashlib.sha256(
            _CANONICAL.encode([{**entry, "description": ""}, kinds.get(entry["connection"], "")])
        ).hexdigest()
        for entry in whole["operations"]
    }


def _limits(entry: _Connection) -> Connection:
    # What an agent says of itself must not stop the broker's clockwork, whatever it is.
    rate = entry.rate_per_s
    return Connection(
        max_concurrent=max(1, entry.max_concurrent),
        rate_per_s=max(rate, MIN_RATE_PER_S) if rate is not None else None,
        guard=Guard(max(1, entry.breaker.failures), min(max(0.0, entry.breaker.cool_down_s), MAX_COOL_DOWN_S)),
        place=entry.place[:MAX_PLACE_CHARS],
    )
