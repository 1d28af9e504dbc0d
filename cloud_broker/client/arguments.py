"""
Parameters from the words of a command line, typed by the operation's JSON Schema.

``name=value`` is read as the schema says, ``name:=JSON`` is JSON as it stands, ``name=@file`` is a file's content
(``@-``: standard input). Without a schema every value is text. What a value may be is left to the broker to
judge; here only its type is found. No number is rounded: fractions are Decimals.
"""

from __future__ import annotations

import base64
import csv
import difflib
import io
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from cloud_broker.client.errors import WordsError

Schema = Mapping[str, Any]

INLINE_BYTES: Final = 524_288  # of a file that still goes into the parameters, a third larger there

_WORD: Final = re.compile(r"(?P<name>[^=:]+|[^=]+?)(?P<sign>:=|=)(?P<text>.*)", re.DOTALL)
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,4000}")
_YES_NO: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_SCALARS: Final = frozenset({"string", "integer", "number", "boolean", "null"})


def parameters(
    words: Iterable[str], schema: Schema | None, given: Mapping[str, Any], where: str = "the operation"
) -> dict[str, Any]:
    """
    Return the parameters that ``words`` give, over those of ``given``.

    Args:
        schema: of the object of parameters; ``None`` if it is not known.
        given: values that are there already, such as those of ``--params``.
        where: the operation in words, for errors.

    Raises:
        WordsError: a word is no ``name=value``, a name is unknown, or a value is not of its type.
    """
    found: dict[str, Any] = {}
    for word in words:
        match = _WORD.fullmatch(word)
        if match is None:
            raise WordsError(f"wants name=value, found {word!r}")
        name, text = match["name"], match["text"]
        wanted = _property(name, schema, where)
        many = match["sign"] == "=" and "array" in _types(wanted) and "string" not in _types(wanted)
        value = _json(name, text) if match["sign"] == ":=" else _value(name, text, wanted)
        if name in found:
            if not many:
                raise WordsError(f"{name} is given twice")
            found[name].extend(value)
        else:
            found[name] = value
    for name in given:
        _property(name, schema, where)
    return {**given, **found}


def object_of(text: str, option: str) -> dict[str, Any]:
    """
    Return the JSON object that ``text`` is, or that the file after its ``@`` holds; ``-`` is standard input.

    Raises:
        WordsError: it is none.
    """
    source = read_text("-" if text == "-" else text[1:]) if text == "-" or text.startswith("@") else text
    value = _json(option, source)
    if not isinstance(value, dict):
        raise WordsError(f'{option}: wants a JSON object such as {{"customer": "C042"}}, found {_kind(value)}')
    return value


def rows_of(text: str) -> list[dict[str, Any]]:
    """
    Return the rows of a CSV file (with a line of names) or an NDJSON file; ``@-`` is NDJSON from standard input.

    Values of a CSV file stay texts as they are; its delimiter is found in its first line.

    Raises:
        WordsError: it is neither.
    """
    name = text.removeprefix("@")
    content = read_text(name)
    if name.lower().endswith(".csv"):
        return _csv_rows(name, content)
    rows = []
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            row = _json(f"{name} line {number}", line)
            if not isinstance(row, dict):
                raise WordsError(f"{name} line {number}: wants a JSON object, found {_kind(row)}")
            rows.append(row)
    return rows


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean …?`` if one of ``known`` is near, else what there is."""
    names = sorted(known)
    near = nearest(word, names)
    if near is not None:
        return f" Did you mean {near}?"
    return f" There is: {', '.join(names)}." if names else ""


def nearest(word: str, known: Sequence[str]) -> str | None:
    """Return the one of ``known`` that ``word`` was probably meant to be; ``None`` if none is near."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.6)), None)


def read_bytes(name: str) -> bytes:
    """
    Return the content of a file; ``-`` is standard input.

    Raises:
        WordsError: it can't be read.
    """
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except (OSError, ValueError) as exc:
        raise WordsError(f"{name} can't be read: {getattr(exc, 'strerror', None) or exc}") from exc


def read_text(name: str) -> str:
    """
    Return the content of a file in UTF-8; ``-`` is standard input.

    Raises:
        WordsError: it can't be read.
    """
    try:
        return read_bytes(name).decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise WordsError(f"{name} is no text in UTF-8: {exc.reason} at byte {exc.start}") from exc


# --- one value ----------------------------------------------------------------------------------


def _property(name: str, schema: Schema | None, where: str) -> Schema:
    if schema is None:
        return {"type": "string"}
    known = schema.get("properties")
    known = known if isinstance(known, Mapping) else {}
    if name in known:
        return known[name] if isinstance(known[name], Mapping) else {}
    if schema.get("additionalProperties") is False:
        raise WordsError(f"{where} has no parameter {name!r}.{did_you_mean(name, known)}")
    return {}


@dataclass(frozen=True, slots=True)
class FileContent:
    """The content of a file that is too large for JSON, and is sent apart from the other parameters."""

    path: Path


def _value(name: str, text: str, wanted: Schema) -> Any:
    types = _types(wanted)
    if wanted.get("contentEncoding") == "base64" and text[:1] not in ("{", "@"):
        return text  # it may look like JSON, and is none
    if text.startswith("@"):
        if (large := _large(text[1:], wanted)) is not None:
            return large
        content = _file(text[1:], wanted)
        if wanted.get("contentEncoding") == "base64":
            return content
        return content if "string" in types and not types & {"object", "array"} else _typed(name, content, wanted)
    return _typed(name, text, wanted)


def _large(name: str, wanted: Schema) -> FileContent | None:
    """Return a file that can't go into the parameters, where a blob may stand for it."""
    properties = wanted.get("properties")
    if name == "-" or not (isinstance(properties, Mapping) and "blob" in properties):
        return None
    try:
        large = Path(name).stat().st_size > INLINE_BYTES
    except (OSError, ValueError):
        return None  # reading it will say why
    return FileContent(Path(name)) if large else None


def _file(name: str, wanted: Schema) -> str:
    if wanted.get("contentEncoding") == "base64":
        return base64.b64encode(read_bytes(name)).decode("ascii")
    return read_text(name)


def _typed(name: str, text: str, wanted: Schema) -> Any:
    types = _types(wanted)
    for choice in wanted.get("enum", ()):
        if isinstance(choice, str | int) and str(choice) == text:
            return choice
    if types & {"object", "array"}:
        return _structured(name, text, wanted, types)
    if "string" in types:  # decimals too: as text they stay exact
        return text
    if "boolean" in types and text.lower() in _YES_NO:
        return _YES_NO[text.lower()]
    if types & {"integer", "number"} and _INTEGER.fullmatch(text):
        return int(text)
    if "number" in types and (number := _number(text)) is not None:
        return number
    if "null" in types and text in ("null", ""):
        return None
    raise WordsError(f"{name}: wants {_in_words(types)}, found {text!r}")


def _structured(name: str, text: str, wanted: Schema, types: frozenset[str]) -> Any:
    begins = text.lstrip()[:1]
    if begins in ("{", "["):
        return _json(name, text)
    if types & _SCALARS - {"null"}:
        try:
            return json.loads(text, parse_float=Decimal, parse_constant=_refuse)
        except ValueError:
            if "string" in types:
                return text
    elif "array" in types:
        items = wanted.get("items")
        return [_typed(name, text, items if isinstance(items, Mapping) else {})]
    elif "null" in types and text == "null":
        return None
    raise WordsError(f"{name}: wants {_in_words(types)} as JSON, found {text!r}")


def _types(wanted: Schema) -> frozenset[str]:
    """All JSON types that a schema takes; text where it does not say."""
    found: set[str] = set()
    kind = wanted.get("type")
    if isinstance(kind, str):
        found.add(kind)
    elif isinstance(kind, Sequence):
        found.update(kind)
    for part in ("anyOf", "oneOf"):
        for option in wanted.get(part, ()):
            found |= _types(option)
    return frozenset(found or {"string"})


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except ArithmeticError:
        return None
    return number if number.is_finite() else None


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_refuse)
    except (ValueError, RecursionError) as exc:
        raise WordsError(f"{name}: wants JSON, found {_shortened(text)}: {exc}") from exc


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


_NOUNS: Final = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}


def _in_words(types: Iterable[str]) -> str:
    return " or ".join(noun for kind, noun in _NOUNS.items() if kind in types)


def _kind(value: Any) -> str:
    return (
        "a list" if isinstance(value, list) else "null" if value is None else _shortened(json.dumps(value, default=str))
    )


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:59]}…")


def _csv_rows(name: str, content: str) -> list[dict[str, Any]]:
    first, _, _ = content.partition("\n")
    delimiter = max(",;\t|", key=first.count)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    rows: list[dict[str, Any]] = []
    try:
        names = next(reader, [])
        if len(set(names)) != len(names):
            raise WordsError(f"{name}: a column is named twice in the first line")
        for values in reader:
            if values and len(values) != len(names):
                raise WordsError(f"{name} line {reader.line_num}: wants {len(names)} values, found {len(values)}")
            if values:
                rows.append(dict(zip(names, values, strict=True)))
    except csv.Error as exc:
        raise WordsError(f"{name} line {reader.line_num}: is no CSV: {exc}") from exc
    return rows


def described(schema: Schema) -> Iterable[tuple[str, str, str, Any, str]]:
    """Yield name, type, whether it is required, default and description of each parameter, for people."""
    known = schema.get("properties")
    required = schema.get("required", ())
    for name, wanted in (known if isinstance(known, Mapping) else {}).items():
        if isinstance(wanted, Mapping):
            is_required = "yes" if name in required else ""
            yield name, _type_in_words(wanted), is_required, wanted.get("default"), str(wanted.get("description", ""))


def _type_in_words(wanted: Schema) -> str:
    if "enum" in wanted:
        return "one of " + ", ".join(json.dumps(choice, ensure_ascii=False) for choice in wanted["enum"])
    if "format" in wanted:
        return str(wanted["format"])
    if "contentEncoding" in wanted:
        return "bytes"
    types = _types(wanted)
    if types - {"null"} == {"string", "number"}:
        return "a decimal"
    return "any JSON" if types >= {"object", "array", "string"} else _in_words(types)
