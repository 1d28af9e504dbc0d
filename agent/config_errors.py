"""
What is wrong with the operator's file, all of it at once, by pydantic; and the file's JSON Schema.

The models are made of ``settings.py``, so that the two can't differ. Imported only where there is something to say:
settings themselves are read without pydantic (``settings_reader.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import or_
from types import GenericAlias
from typing import Annotated, Any, Final, get_args, get_origin

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails

from agent import toml_lines
from agent.config_checks import Problem, nearest
from agent.parameters import SHOWN_CHARS
from agent.settings import OPERATION_KINDS, SIGNER_KEY, Form, Model, OperationBase, Settings
from agent.settings_reader import form, hints, kind_of, members

Where = toml_lines.Path

_LATER: Final = {  # words of the outside that this release does not know yet, by the key that has them
    ("connections", "type"): ("http", "mqtt"),
    ("triggers", "type"): ("schedule", "mqtt"),
    ("link", "transport"): ("mqtt",),
}
_HIDDEN: Final = ("password", "connection_string", "proxy", "default", "passphrase")  # keys whose values no error shows
_SECTIONS: Final = ("connections", "operations", "triggers")  # tables of tables, each with a kind


def problems(raw: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with the tables and keys of a file, as TOML read it; empty if nothing is."""
    try:
        checked(raw)
    except ValidationError as exc:
        # The cause is left out: pydantic's own text shows values, of which one may be a password.
        return _translated(exc.errors(include_url=False), _tuples(raw))
    return []


def checked(raw: Mapping[str, Any]) -> Settings:
    """
    Return what a file says, as ``settings_reader.read`` does.

    Raises:
        ValueError: something is wrong with it.
    """
    # Strict, so that max_concurrent = "8" is an error; strict pydantic wants tuples for our tuples.
    return _file().validate_python(_tuples(raw), strict=True)


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the file, for editors; the checks between keys are not in it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_file().json_schema()}


def known_keys(place: Where, raw: Mapping[str, Any]) -> list[str]:
    """Return the keys that the table at ``place`` of ``raw`` may have."""
    wanted: Any = Settings
    value: Any = raw
    for part in place:
        if get_origin(wanted) in (dict, tuple):
            inside = get_args(wanted)[-1 if get_origin(wanted) is dict else 0]
        else:
            kind = kind_of(value, members(wanted))
            inside = hints(kind)[str(part)] if kind is not None else None
        value = value[part]
        wanted = _bare(inside, value)
    kind = kind_of(value, members(wanted))
    return list(hints(kind)) if kind is not None else []


def _bare(hint: Any, value: Any) -> Any:
    """Return a type without what ``Annotated`` says of it; that of an item where one may stand for a list of one."""
    while get_origin(hint) is Annotated or (get_origin(hint) is tuple and isinstance(value, dict)):
        hint = get_args(hint)[0]
    return hint


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(child) for key, child in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


# --- the settings as pydantic models ------------------------------------------------------------


@lru_cache(maxsize=1)
def _file() -> TypeAdapter[Settings]:
    return TypeAdapter(_modelled(Settings))


@lru_cache(maxsize=64)
def model_of(kind: type[Model]) -> type[BaseModel]:
    """Return the pydantic model of a table of the file."""
    parent = kind.__bases__[0]
    base = model_of(parent) if parent is not Model else _Table
    known, fields = hints(kind), {field.name: field for field in msgspec.structs.fields(kind)}
    own: dict[str, Any] = {
        name: (_modelled(known[name]), _field(fields[name], known[name])) for name in kind.__annotations__
    }
    made: type[BaseModel] = create_model(kind.__name__, __base__=base, __module__=__name__, __doc__=kind.__doc__, **own)
    return made


class _Table(BaseModel):
    # Without the input: it may hold a password that should not stand there.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


@dataclass(frozen=True, slots=True)
class _Written:
    """For editors: what stands in the file, not what becomes of it."""

    form: Form

    def __get_pydantic_json_schema__(self, kept: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return self.form.schema(handler(kept))


def _field(known: msgspec.structs.FieldInfo, hint: Any) -> Any:
    description = next(meta.description for meta in hint.__metadata__ if meta.description)
    if known.required:
        return Field(description=description)
    if known.default_factory is not msgspec.NODEFAULT:
        factory = known.default_factory
        return Field(default_factory=factory, description=description)
    return Field(None if known.default is msgspec.UNSET else known.default, description=description)


_LIMITS: Final = ("gt", "ge", "lt", "le", "min_length", "max_length")


def _modelled(hint: Any) -> Any:
    """Return a type of ``settings.py`` as pydantic is to see it."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        made = _modelled(args[0])
        return reduce(lambda known, more: Annotated[known, more], _metadata(hint.__metadata__), made)
    if origin is dict:
        return GenericAlias(dict, tuple(map(_modelled, args)))
    if origin is tuple:
        return GenericAlias(tuple, (_modelled(args[0]), ...))
    if isinstance(hint, type) and issubclass(hint, Model):
        return Annotated[model_of(hint), AfterValidator(_maker(hint)), Tag(hint.__name__)]
    kinds = members(hint)
    if kinds == (hint,):
        return hint
    union = reduce(or_, map(_modelled, args))
    return Annotated[union, _told_apart(kinds)] if _are_tables(kinds) and len(kinds) > 1 else union


def _are_tables(kinds: tuple[Any, ...]) -> bool:
    return all(isinstance(kind, type) and issubclass(kind, Model) for kind in kinds)


def _told_apart(kinds: tuple[type[Model], ...]) -> Any:
    """Return what tells pydantic which of several kinds a table is."""
    if not issubclass(kinds[0], OperationBase):
        return Field(discriminator="type")
    return Discriminator(
        lambda table: getattr(kind_of(table, kinds), "__name__", None) if isinstance(table, dict) else None,
        custom_error_type="operation_kind",
        custom_error_message=f"wants exactly one of {', '.join(OPERATION_KINDS)}",
    )


def _maker(kind: type[Model]) -> Callable[[BaseModel], Model]:
    """Return what makes the struct, which sees whether keys fit each other."""
    return lambda made: kind(**{name: getattr(made, name) for name in made.model_fields_set})


def _engines(pattern: str) -> str:
    """Return a pattern as pydantic's engine and JSON Schema write it."""
    return pattern.replace(r"\Z", "$")


def _metadata(metadata: tuple[Any, ...]) -> list[Any]:
    written = form(metadata)
    found: list[Any] = [] if written is None else [BeforeValidator(written.read), _Written(written)]
    for meta in metadata:
        limits = {name: getattr(meta, name) for name in _LIMITS if getattr(meta, name) is not None}
        if meta.pattern is not None:
            limits["pattern"] = _engines(meta.pattern)
        if limits:
            found.append(Field(**limits))
    return found


def _translated(errors: Sequence[ErrorDetails], raw: Mapping[str, Any]) -> list[Problem]:
    problems: dict[Where, str] = {}
    for error in errors:
        place, is_name = _place(error, raw)
        message = _message(error, place, raw) if not is_name else f"wants {_NAME}"
        if place in problems and message != problems[place]:
            # One error for each member of a union of plain types.
            message = f"{problems[place].partition(', found ')[0]} or {message.removeprefix('wants ')}"
        problems[place] = message
    return list(problems.items())


_NAME: Final = "a name of at most 64 letters, digits, '_', '-' and '.', the first a letter or digit"


def _place(error: ErrorDetails, raw: Mapping[str, Any]) -> tuple[Where, bool]:
    """Return where in the file an error is, without what pydantic adds; and whether it is about the key's name."""
    loc = list(error["loc"])
    is_name = bool(loc) and loc[-1] == "[key]"
    if is_name:
        loc.pop()
    if len(loc) > 2 and loc[0] in _SECTIONS:
        del loc[2]  # the kind, which pydantic names as if it were a key
    place: list[str | int] = []
    value: Any = raw
    for part in loc:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            if error["type"] == "missing" and part == loc[-1]:
                place.append(part)
            continue
        place.append(part)
    return tuple(place), is_name


def _message(error: ErrorDetails, place: Where, raw: Mapping[str, Any]) -> str:
    kind, context, value = error["type"], error.get("ctx", {}), error.get("input")
    if place and (place[0], place[-1]) in _LATER and value in _LATER[place[0], place[-1]]:  # type: ignore[index]  # place[0] is a text wherever place[-1] is in the table
        return f"{value!r} comes with a later release; {_choices(place)}"
    found = "another value (not shown)" if place and place[-1] in _HIDDEN else show(value)
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"is no key of this table{nearest(str(place[-1]), known_keys(place[:-1], raw))}"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_kind(place, value)
    if kind == "operation_kind":
        kinds = [key for key in OPERATION_KINDS if isinstance(value, dict) and key in value]
        return f"wants exactly one of {', '.join(OPERATION_KINDS)}, found {' and '.join(kinds) or 'none'}"
    if kind == "literal_error":
        return f"wants {context['expected']}, found {found}"
    if kind == "string_pattern_mismatch":
        wanted = _PATTERNS.get(str(place[-1])) or _PATTERNS.get(context["pattern"], _NAME)
        return f"wants {wanted}, found {found}"
    if kind in _WANTS:
        return f"wants {_WANTS[kind].format(**context)}, found {found}"
    return f"{error['msg']}, found {found}"


_PATTERNS: Final = {
    "proxy": "'system', 'none', 'http://…' or 'socks5h://…'",
    "url": "'wss://host:port'",
    "procedure": "the name of a procedure, such as 'sales.create_order'",
    "pin": "sha256: and 64 hex digits, as `check` shows them",
    _engines(SIGNER_KEY): "ed25519: and the 32 bytes of a public key in base64, as `outhaul keygen` prints it",
}
_WANTS: Final = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "tuple_type": "a list in [ ]",
    "list_type": "a list in [ ]",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "too_short": "at least {min_length} in the list",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
}


def _choices(place: Where) -> str:
    known = {"connections": "odbc, file, soap or synthetic", "triggers": "table or file", "link": "websocket"}
    return f"wants {known[str(place[0])]}"


def _wrong_kind(place: Where, value: Any) -> str:
    if not isinstance(value, dict):
        return f"wants a table, found {show(value)}"
    if "type" not in value:
        return f"wants a key type: {_choices(place).removeprefix('wants ')}"
    later = _LATER[str(place[0]), "type"]
    if value["type"] in later:
        return f"type {value['type']!r} comes with a later release; {_choices(place)}"
    return f"type {_choices(place)}, found {show(value['type'])}"


def show(value: Any) -> str:
    """Return a value of the file, shortened, for an error."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"
