"""The operator's file from disk: TOML into ``Settings``, every problem with its line and its fix."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from agent import config_checks, toml_lines
from agent.config_checks import Problem, nearest
from agent.errors import ConfigError
from agent.parameters import SHOWN_CHARS
from agent.settings import OPERATION_KINDS, SIGNER_KEY, Settings

Where = toml_lines.Path

_LATER: Final = {  # words of the outside that this release does not know yet, by the key that has them
    ("connections", "type"): ("http", "mqtt"),
    ("triggers", "type"): ("schedule", "mqtt"),
    ("link", "transport"): ("mqtt",),
}
_HIDDEN: Final = ("password", "connection_string", "proxy", "default", "passphrase")  # keys whose values no error shows
_SECTIONS: Final = ("connections", "operations", "triggers")  # tables of tables, each with a kind


@dataclass(frozen=True, slots=True)
class Loaded:
    """
    A file that was read.

    Attributes:
        settings: what it says.
        path: where it is.
        base_dir: its folder; relative paths in it start there.
        remarks: a sentence for each thing that is right, and not acted on in this release or unwise.
    """

    settings: Settings
    path: Path
    base_dir: Path
    remarks: tuple[str, ...] = ()


def load(path: Path) -> Loaded:
    """
    Read the file at ``path``.

    Raises:
        ConfigError: with a line for each problem, in the order of the file.
    """
    try:
        # Windows editors put a byte order mark in front, which TOML does not know.
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as exc:
        raise ConfigError(f"{path}: can't be read: {exc.strerror}; name the file with --config FILE") from exc
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{path}:{line}: wants UTF-8, found the byte 0x{exc.object[exc.start]:02x}") from exc
    settings = parse(text, str(path))
    return Loaded(settings, path, path.absolute().parent, tuple(config_checks.remarks(settings)))


def parse(text: str, name: str) -> Settings:
    """
    Read the TOML ``text`` of a file that errors call ``name``.

    Raises:
        ConfigError: as ``load``.
    """
    try:
        raw = _tuples(tomllib.loads(text))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(_syntax(str(exc), text, name)) from exc
    except RecursionError as exc:
        raise ConfigError(f"{name}: wants fewer lists within lists") from exc
    except ValueError as exc:  # int() refuses more digits than sys.get_int_max_str_digits()
        raise ConfigError(f"{name}: a number has more digits than can be read") from exc
    try:
        # Strict, so that max_concurrent = "8" is an error; strict pydantic wants tuples for our tuples.
        settings = Settings.model_validate(raw, strict=True)
    except ValidationError as exc:
        # The cause is left out: pydantic's own text shows values, of which one may be a password.
        raise ConfigError(_report(_translated(exc.errors(include_url=False), raw), text, name)) from None
    problems = config_checks.problems(settings)
    if problems:
        raise ConfigError(_report(problems, text, name))
    return settings


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the file, for editors; the checks between keys are not in it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(child) for key, child in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _syntax(message: str, text: str, name: str) -> str:
    match = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message, re.DOTALL)
    if match is not None:
        return f"{name}:{match[2]}:{match[3]}: {match[1]}"
    return f"{name}:{text.count(chr(10)) + 1}: {message.removesuffix(' (at end of document)')}, at the end of the file"


def _report(problems: Sequence[Problem], text: str, name: str) -> str:
    known = toml_lines.lines(text)
    found = {(toml_lines.line_of(place, known), _dotted(place), message): None for place, message in problems}
    return "\n".join(f"{name}:{line}: {place}: {message}" for line, place, message in sorted(found))


def _dotted(place: Where) -> str:
    parts = [f"[{part + 1}]" if isinstance(part, int) else f".{_key(part)}" for part in place]
    return "".join(parts).removeprefix(".")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'


# --- pydantic's findings in our words -----------------------------------------------------------


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
    SIGNER_KEY: "ed25519: and the 32 bytes of a public key in base64, as `outhaul keygen` prints it",
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


def known_keys(place: Where, raw: Mapping[str, Any]) -> list[str]:
    """Return the keys that the table at ``place`` of ``raw`` may have."""
    models: list[type[BaseModel]] = [Settings]
    value: Any = raw
    for part in place:
        value = value[part] if isinstance(value, dict) and part in value else {}
        models = [
            model
            for parent in models
            for model in _models_in(parent.model_fields[str(part)].annotation if part in parent.model_fields else None)
        ] or [model for model in models if part not in model.model_fields]
        models = _of_kind(models, value)
    return list(dict.fromkeys(key for model in models for key in model.model_fields))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    origin = get_origin(annotation)
    if origin is Annotated:
        return _models_in(get_args(annotation)[0])
    if origin in (Union, UnionType, dict, tuple):
        return [model for part in get_args(annotation) for model in _models_in(part)]
    return []


def _of_kind(models: list[type[BaseModel]], value: Any) -> list[type[BaseModel]]:
    """Keep those of ``models`` whose ``type``, or kind of operation, ``value`` has."""
    if not isinstance(value, dict):
        return models
    kinds = [OPERATION_KINDS[key] for key in OPERATION_KINDS if key in value]
    kept = [
        model
        for model in models
        if model in kinds
        or ("type" in model.model_fields and value.get("type") in get_args(model.model_fields["type"].annotation))
    ]
    return kept or models
