"""The types of parameters, described to programs: JSON Schema (2020-12) of their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from agent.settings import Param
from agent.values import CLOCK, DATE, UUID, as_json, longest_text, wants

_PORTABLE: Final = re.compile(  # the constructs that mean the same to Python's re and to JSON Schema's dialect
    r"(?:[^\\\[\](){}?*+|]|\\[dDwW.\\\-+*?()\[\]{}|/^$]|\[\^?(?:[^\\\[\]&~^-]|[^\\\[\]&~^-]-[^\\\[\]&~^-]|\\[dw.\\\-\]\[/^$])+-?\]"
    r"|\((?:\?:|(?!\?))|\)|\||(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??(?![*+?{]))*"
)

BASE64: Final[dict[str, Any]] = {
    "type": "string",
    "contentEncoding": "base64",
    "pattern": "^[A-Za-z0-9+/]*={0,2}$",
}


def value_schema(param: Param) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the values of ``param``; it refuses nothing that the reader takes."""
    found, complete = _SCHEMAS[param.type](param)
    if param.nullable:
        found = _or_null(found)
    words = [param.description] if param.description else []
    # Beside a pattern too: who is refused by one should not have to read it.
    if not complete or "pattern" in found or "anyOf" in found:
        words.append(f"Wants {wants(param)}.")
    if words:
        found["description"] = " ".join(words)
    if param.has_default:
        default = as_json(param.default)
        found["default"] = str(default) if isinstance(default, Decimal) and param.type == "decimal" else plain(default)
    return found


def plain(value: Any) -> Any:
    """Return ``value`` (as ``exact_json`` gives it) with floats in place of Decimals, for JSON that is only read."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [plain(child) for child in value]
    return value


def _or_null(found: dict[str, Any]) -> dict[str, Any]:
    if "enum" in found:
        found["enum"] = [*found["enum"], None]
    if "anyOf" in found:
        found["anyOf"] = [*found["anyOf"], {"type": "null"}]
    elif "type" in found:
        kinds = found["type"]
        found["type"] = [*kinds, "null"] if isinstance(kinds, list) else [kinds, "null"]
    return found


def _string_schema(param: Param) -> tuple[dict[str, Any], bool]:
    found: dict[str, Any] = {"type": "string"}
    complete = True
    if param.enum is not None:
        found["enum"] = list(param.enum)
    if param.min_length:
        found["minLength"] = param.min_length
    longest = longest_text(param)
    if longest is not None:
        found["maxLength"] = longest
    if param.pattern is not None:
        if _PORTABLE.fullmatch(param.pattern) is not None:
            found["pattern"] = f"^(?:{param.pattern})$"
        else:
            complete = False
    return found, complete


def _number_schema(param: Param) -> tuple[dict[str, Any], bool]:
    found: dict[str, Any] = {"type": "integer" if param.type == "integer" else "number"}
    if param.enum is not None:
        found["enum"] = list(param.enum)
    for key, bound in (("minimum", param.min), ("maximum", param.max)):
        if bound is not None:
            found[key] = bound if isinstance(bound, int) else float(bound)
    return found, True


def _decimal_schema(param: Param) -> tuple[dict[str, Any], bool]:
    digits = {None: r"(?:\.[0-9]+)?", 0: ""}.get(param.scale, rf"(?:\.[0-9]{{1,{param.scale}}})?")
    number, _ = _number_schema(param)
    return {"anyOf": [{"type": "string", "pattern": f"^-?[0-9]+{digits}$"}, number]}, False


def _text_schema(form: str, **more: str) -> Callable[[Param], tuple[dict[str, Any], bool]]:
    return lambda param: ({"type": "string", **more, "pattern": f"^{form}$"}, param.min is None and param.max is None)


def _binary_schema(param: Param) -> tuple[dict[str, Any], bool]:
    found: dict[str, Any] = dict(BASE64)
    if param.min_length:
        found["minLength"] = -(-param.min_length // 3) * 4
    if param.max_length is not None:
        found["maxLength"] = -(-param.max_length // 3) * 4
    return found, param.min_length is None and param.max_length is None


_SCHEMAS: Final[dict[str, Callable[[Param], tuple[dict[str, Any], bool]]]] = {
    "string": _string_schema,
    "integer": _number_schema,
    "decimal": _decimal_schema,
    "number": _number_schema,
    "boolean": lambda param: ({"type": "boolean"}, True),
    "date": _text_schema(DATE, format="date"),
    "datetime": _text_schema(f"{DATE}[Tt ]{CLOCK}"),  # no format: date-time would want an offset
    "time": _text_schema(CLOCK),
    "binary": _binary_schema,
    "json": lambda param: ({"type": ["object", "array", "string", "number", "boolean"]}, True),
    "uuid": _text_schema(UUID, format="uuid"),
}
