"""The parameters of an operation: JSON in, Python values out, nothing that was not declared."""

from __future__ import annotations

import base64
import json
import re
import string
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import msgspec

from agent import exact_json
from agent.errors import ParametersInvalid
from agent.settings import CallOperation, DropOperation, FileFormat, Operation, Param, SyntheticOperation
from agent.value_schema import BASE64, value_schema
from agent.values import Reader, as_json, reader, wants

SHOWN_CHARS: Final = 60  # characters of a refused value that stand in an error
MAX_PROBLEMS: Final = 20  # problems told at once

CONTENT: Final = {"csv": "rows", "fixed-width": "rows", "xml": "document", "json": "document", "raw": "content"}

_SECRET: Final = re.compile(r"pass|pwd|secret|token|credential|api_?key|(^|_)pin($|_)", re.IGNORECASE)

_SHA256: Final = re.compile(r"[0-9a-f]{64}")

_BUILT_IN: Final[dict[str, dict[str, Param]]] = {
    "echo": {},
    "rows": {
        "count": Param(type="integer", min=0, description="How many rows."),
        "width": Param(type="integer", default=8, min=1, max=64, description="How many columns."),
    },
    "sleep": {"seconds": Param(type="number", min=0, description="How long it takes.")},
    "fail": {
        "kind": Param(enum=("failed", "rejected", "unavailable", "unknown"), default="failed", description="How."),
        "message": Param(type="string", default="failed as asked", max_length=1_000, description="The error's text."),
    },
}


class BlobName(msgspec.Struct, frozen=True):
    """
    What stands in the place of a content that is too large for parameters.

    Attributes:
        id: as the broker gave it.
        sha256: of its bytes, hex, where the caller says it.
    """

    id: str
    sha256: str | None = None


def decode(operation: Operation, raw: bytes) -> dict[str, Any]:
    """
    Return the parameters in ``raw`` (a JSON object) as Python values, in the declared order.

    Each declared parameter that goes in is there: its value, its default, or ``None``. The content of a
    drop (``rows``, ``document``, ``content``) comes last; ``content`` as bytes, or a ``BlobName``.
    An operation that takes any object (see ``takes_anything``) has it as it is, fractions as Decimal.

    Raises:
        ParametersInvalid: with a line for each problem.
    """
    known = _DECODERS.get(id(operation))
    if known is None or known[0] is not operation:
        if len(_DECODERS) >= _MAX_DECODERS:
            _DECODERS.clear()
        known = _DECODERS[id(operation)] = (operation, _Decoder(operation))
    return known[1].decode(raw)


def params_of(operation: Operation) -> dict[str, Param]:
    """
    Return the parameters of ``operation``: the declared ones, and those that its kind brings along.

    A drop that declares none has the names in its file name's braces as texts; synthetic operations
    have what they need. The content of a drop is not among them.
    """
    if isinstance(operation, SyntheticOperation):
        return {
            **operation.params,
            **{k: v for k, v in _BUILT_IN[operation.synthetic].items() if k not in operation.params},
        }
    if isinstance(operation, DropOperation) and not operation.params:
        return {name: Param(min_length=1, max_length=100) for name in template_names(operation.drop)}
    return operation.params


def takes_anything(operation: Operation) -> bool:
    """Whether any object is taken, because the types stand elsewhere (WSDL) or do not matter (echo)."""
    if operation.params:
        return False
    return isinstance(operation, CallOperation) or (
        isinstance(operation, SyntheticOperation) and operation.synthetic == "echo"
    )


def template_names(template: str) -> list[str]:
    """
    Return the names in braces, each once, in order.

    Raises:
        ValueError: braces that do not match, or more than a name in them.
    """
    names: list[str] = []
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as exc:
        raise ValueError(f"wants names in pairs of braces, such as {{order_no}}, found {template!r}: {exc}") from exc
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if spec or conversion or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise ValueError(f"wants only names in braces, such as {{order_no}}, found {{{name}}}")
        if name not in names:
            names.append(name)
    return names


def schema(operation: Operation) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the parameters; it refuses nothing that ``decode`` takes."""
    found: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}
    if takes_anything(operation):
        return found
    going_in = {name: param for name, param in params_of(operation).items() if param.direction != "out"}
    properties = {name: value_schema(param) for name, param in going_in.items()}
    required = [name for name, param in going_in.items() if param.wanted]
    if isinstance(operation, DropOperation):
        name = CONTENT[operation.format.type]
        properties[name] = _content_schema(operation.format)
        required.append(name)
    found["properties"] = properties
    if required:
        found["required"] = required
    found["additionalProperties"] = False
    return found


def show(value: Any) -> str:
    """Return ``value`` (as ``exact_json`` gives it) shortened, for an error."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        text = json.dumps(value[: SHOWN_CHARS + 1], ensure_ascii=False)
        return text if len(value) <= SHOWN_CHARS else f'{text[:SHOWN_CHARS]}…" ({len(value)} characters)'
    text = str(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else json.dumps(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


class _Decoder:
    """What ``decode`` does for one operation, prepared once."""

    def __init__(self, operation: Operation) -> None:
        self._anything = takes_anything(operation)
        self._params = {name: param for name, param in params_of(operation).items() if param.direction != "out"}
        self._out = {name for name, param in operation.params.items() if param.direction == "out"}
        self._hidden = {name for name in self._params if _SECRET.search(name) or name in operation.mask}
        self._readers: dict[str, Reader] = {name: reader(param) for name, param in self._params.items()}
        self._absent = {name: self._default(name, param) for name, param in self._params.items() if not param.wanted}
        self._content: tuple[str, ContentReader] | None = None
        if isinstance(operation, DropOperation):
            self._content = CONTENT[operation.format.type], _content_reader(operation.format)

    def _default(self, name: str, param: Param) -> Any:
        return self._readers[name](as_json(param.default)) if param.has_default else None

    def decode(self, raw: bytes) -> dict[str, Any]:
        try:
            given = exact_json.loads(raw)
        except exact_json.NotExact as exc:
            raise ParametersInvalid(f"params: {exc}", touched=False) from exc
        if type(given) is not dict:
            raise ParametersInvalid(f"params: wants an object, found {show(given)}", touched=False)
        if self._anything:
            return given
        values: dict[str, Any] = {}
        problems: list[str] = []
        for name, read in self._readers.items():
            if name in given:
                try:
                    values[name] = read(given[name])
                except ValueError:
                    problems.append(self._refusal(name, given[name]))
            elif name in self._absent:
                values[name] = self._absent[name]
            else:
                problems.append(f"{name}: wants {wants(self._params[name])}, found nothing")
        if self._content is not None:
            name, read_content = self._content
            if name in given:
                values[name], wrong = read_content(given[name])
                problems += wrong
            else:
                problems.append(f"{name}: wants the content of the file, found nothing")
        # Only if something is there that was not taken: the common case costs one comparison.
        if problems or len(given) > len(values) or any(name not in values for name in given):
            problems += [self._undeclared(name) for name in given if not self._takes(name)]
        if problems:
            more = len(problems) - MAX_PROBLEMS
            lines = problems[:MAX_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
            raise ParametersInvalid("\n".join(lines), touched=False)
        return values

    def _takes(self, name: str) -> bool:
        return name in self._readers or (self._content is not None and name == self._content[0])

    def _refusal(self, name: str, value: Any) -> str:
        found = "another value (not shown)" if name in self._hidden else show(value)
        return f"{name}: wants {wants(self._params[name])}, found {found}"

    def _undeclared(self, name: str) -> str:
        if name in self._out:
            return f"{name}: comes back in the outputs and can't be given"
        names = [*self._readers, *([self._content[0]] if self._content is not None else [])]
        there = f"the parameters are {', '.join(names)}" if names else "there are no parameters"
        return f"{name[:SHOWN_CHARS]}: is not declared; {there}"


_MAX_DECODERS: Final = 10_000  # a file has fewer operations; bounds what a reloaded file leaves behind
_DECODERS: dict[int, tuple[Operation, _Decoder]] = {}


# --- content of a drop --------------------------------------------------------------------------


ContentReader = Callable[[Any], tuple[Any, list[str]]]  # JSON in; what is written and what is wrong with it out


def _content_reader(form: FileFormat) -> ContentReader:
    if form.type in ("csv", "fixed-width"):
        return lambda value: (value, _row_problems(value, form.columns))
    if form.type == "xml":
        return _xml_document
    if form.type == "json":
        return lambda value: (
            value,
            [] if value is not None else ["document: wants any JSON value but null, found null"],
        )
    return _raw_content


def _xml_document(value: Any) -> tuple[Any, list[str]]:
    if isinstance(value, dict | str):
        return value, []
    return value, [f"document: wants an object, or XML as text, found {show(value)}"]


def _raw_content(value: Any) -> tuple[Any, list[str]]:
    if type(value) is dict:
        return _blob_name(value)
    try:
        if type(value) is str:
            return base64.b64decode(value, validate=True), []
    except ValueError:
        pass
    return None, [f"content: wants bytes in base64, found {show(value)}"]


def _blob_name(given: dict[str, Any]) -> tuple[BlobName | None, list[str]]:
    blob_id, sha256 = given.get("blob"), given.get("sha256")
    if type(blob_id) is not str or not given.keys() <= {"blob", "sha256"}:
        return None, ['content: wants {"blob": ID} and "sha256" beside it at most, found another object']
    if sha256 is not None and not (type(sha256) is str and _SHA256.fullmatch(sha256)):
        return None, [f"content.sha256: wants 64 digits in hex, found {show(sha256)}"]
    return BlobName(blob_id, sha256), []


def _row_problems(rows: Any, columns: tuple[str, ...] | None) -> list[str]:
    if not isinstance(rows, list):
        return [f"rows: wants a list of objects, found {show(rows)}"]
    if columns is None and rows and isinstance(rows[0], dict):
        columns = tuple(rows[0])
    wanted = frozenset(columns or ())
    problems = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            problems.append(f"rows[{number}]: wants an object, found {show(row)}")
            continue
        if row.keys() != wanted:
            problems += [
                f"rows[{number}].{name}: wants a value, or null, found nothing"
                for name in columns or ()
                if name not in row
            ]
            problems += [
                f"rows[{number}].{name[:SHOWN_CHARS]}: is no column; the columns are {', '.join(columns or ())}"
                for name in row
                if name not in wanted
            ]
        for name, value in row.items():
            if isinstance(value, dict | list) or (isinstance(value, str) and "\0" in value):
                problems.append(
                    f"rows[{number}].{name[:SHOWN_CHARS]}: wants text, a number, true, false or null, "
                    f"found {show(value)}"
                )
        if len(problems) > MAX_PROBLEMS:
            break
    return problems


def _content_schema(form: FileFormat) -> dict[str, Any]:
    if form.type in ("csv", "fixed-width"):
        row: dict[str, Any] = {"type": "object"}
        value = {"type": ["string", "number", "boolean", "null"]}
        if form.columns is not None:
            row["properties"] = dict.fromkeys(form.columns, value)
            row["required"] = list(form.columns)
            row["additionalProperties"] = False
        else:
            row["additionalProperties"] = value
        return {"type": "array", "items": row, "description": "The file's rows."}
    if form.type == "xml":
        return {"type": ["object", "string"], "description": "The document: elements as keys, or XML as text."}
    if form.type == "json":
        return {"type": ["object", "array", "string", "number", "boolean"], "description": "The document."}
    # Each word counts for values of its own type only: text in base64, or an object that names a blob.
    return {
        **BASE64,
        "type": ["string", "object"],
        "properties": {
            "blob": {"type": "string", "description": "Id of what was sent to POST /v1/blobs."},
            "sha256": {"type": "string", "description": "Of its bytes, hex; wanted where the command is signed."},
        },
        "required": ["blob"],
        "additionalProperties": False,
        "description": "The file's bytes, or the blob that has them.",
    }
