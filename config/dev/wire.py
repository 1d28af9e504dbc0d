"""The parts of ``docs/reference/wire.md`` that are made from the protocol's own tables."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Final, get_args, get_type_hints

import msgspec

from config.dev.markdown import attributes, filled, summary, table
from protocol import codec, limits
from protocol.codec import Record
from protocol.messages import (
    AGENT_SAYS,
    BROKER_SAYS,
    WITH_PAYLOAD,
    AnyMessage,
    BlobInfo,
    Cancel,
    ColumnInfo,
    Held,
    Limits,
    RowSetDone,
    Run,
)
from protocol.states import DEAD_LETTERS, FINAL, LIFE, PHASES, CommandState

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "reference" / "wire.md"
MESSAGES: Final[tuple[type[msgspec.Struct], ...]] = get_args(AnyMessage)
PARTS_OF_MESSAGES: Final[tuple[type[msgspec.Struct], ...]] = (Limits, Held, BlobInfo, ColumnInfo, RowSetDone)
# Said once here instead of in every message.
EVERYWHERE: Final = {"id": "of the command", "epoch": "of the attempt"}
EXAMPLE: Final = (
    Record(Run(id="cmd_1", epoch=1, operation="echo", expires_in_s=60.0, credit=1_048_576), b'{"customer":"C042"}'),
    Record(Cancel(id="cmd_1", epoch=1)),
)
_LIMIT: Final = re.compile(r"^(?P<name>[A-Z_]+): Final = .*?  # (?P<reason>.*)$", re.MULTILINE)
_BYTES_A_LINE: Final = 16
_STATES: Final = tuple(CommandState)  # in the order of the code; the table holds sets, which have none


def page() -> str:
    """Return the page, its made parts made anew."""
    return filled(
        PAGE.read_text(encoding="utf-8"),
        {
            "example": example(),
            "who": who(),
            "messages": list(messages()),
            "phases": phases(),
            "life": life(),
            "limits": numbers(),
        },
    )


def speakers(kind: type[msgspec.Struct]) -> list[str]:
    """Return which sides may say a message."""
    return [side for side, says in (("agent", AGENT_SAYS), ("broker", BROKER_SAYS)) if kind in says]


def meanings(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Return what each member of a message or a part of one means."""
    said = EVERYWHERE | attributes(kind)
    return {field.encode_name: said[field.encode_name] for field in msgspec.structs.fields(kind)}


def who() -> list[str]:
    """Return the table of all messages."""
    rows = [
        (f"[`{kind.__name__}`](#{kind.__name__.lower()})", ", ".join(speakers(kind)), _payload(kind), summary(kind))
        for kind in MESSAGES
    ]
    return table(("kind", "said by", "payload", "what it says"), rows)


def messages() -> Iterator[str]:
    """Yield a section for each message, and for each object inside of messages."""
    for kind in (*MESSAGES, *PARTS_OF_MESSAGES):
        members = meanings(kind)
        hints = get_type_hints(kind)
        yield f"### {kind.__name__}"
        yield ""
        yield summary(kind)
        yield ""
        fields = msgspec.structs.fields(kind)
        yield from table(
            ("member", "type", "default", "meaning"),
            [(f"`{f.encode_name}`", _type(hints[f.name]), _default(f), members[f.encode_name]) for f in fields],
        )
        yield ""


def phases() -> list[str]:
    """Return the phases of a command on one link: a drawing, and the same as a table."""
    drawing = ["```mermaid", "stateDiagram-v2", "    [*] --> unknown"]
    rows = []
    for phase, steps in PHASES.items():
        for kind, following in steps.items():
            drawing.append(f"    {phase} --> {following}: {kind.__name__}")
            rows.append((f"`{phase}`", f"`{kind.__name__}`", ", ".join(speakers(kind)), f"`{following}`"))
    return [*drawing, "```", "", *table(("phase", "message", "said by", "next phase"), rows)]


def life() -> list[str]:
    """Return the states that a caller sees: a drawing, and the same as a table."""
    drawing = ["```mermaid", "stateDiagram-v2", "    [*] --> queued"]
    drawing += [
        f"    {state} --> {following}" for state in _STATES for following in _STATES if following in LIFE[state]
    ]
    drawing += [f"    {state} --> [*]" for state in _STATES if state in FINAL]
    rows = [
        (
            f"`{state}`",
            "yes" if state in FINAL else "",
            "yes" if state in DEAD_LETTERS else "",
            ", ".join(f"`{following}`" for following in _STATES if following in LIFE[state]),
        )
        for state in _STATES
    ]
    return [*drawing, "```", "", *table(("state", "final", "dead letter", "may become"), rows)]


def numbers() -> list[str]:
    """Return the table of limits, with the reasons that stand beside them in the code."""
    source = inspect.getsource(limits)
    rows = [
        (f"`{match['name']}`", f"{getattr(limits, match['name']):,}", match["reason"])
        for match in _LIMIT.finditer(source)
    ]
    return table(("limit", "value", "unit; reason"), rows)


def example() -> list[str]:
    """Return one websocket message of two records, as a dump of its bytes."""
    data = codec.encode_all(EXAMPLE)
    lines = ["```hexdump"]
    for start in range(0, len(data), _BYTES_A_LINE):
        part = data[start : start + _BYTES_A_LINE]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:08x}  {part.hex(' '):<{3 * _BYTES_A_LINE - 1}}  |{text}|")
    return [*lines, "```", "", *table(("bytes", "what"), _anatomy())]


def _anatomy() -> list[tuple[str, str]]:
    rows, at = [], 0
    for record in EXAMPLE:
        data = codec.encode(record)
        header = len(data) - 8 - len(record.payload)
        kind = type(record.message).__name__
        rows += [
            (f"{at} to {at + 3}", f"length of the header of `{kind}`: {header}"),
            (f"{at + 4} to {at + 7}", f"length of its payload: {len(record.payload)}"),
            (f"{at + 8} to {at + 7 + header}", "the header, JSON"),
        ]
        if record.payload:
            rows.append((f"{at + 8 + header} to {at + len(data) - 1}", "the payload: the command's parameters"))
        at += len(data)
    return rows


def _payload(kind: type[msgspec.Struct]) -> str:
    return "yes" if kind in WITH_PAYLOAD else ""


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return f"`{msgspec.json.encode(default).decode()}`"


def _type(hint: Any) -> str:
    names = {str: "string", int: "integer", float: "number", bool: "boolean"}
    if hint in names:
        return names[hint]
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return f"[`{hint.__name__}`](#{hint.__name__.lower()})"
    arguments = get_args(hint)
    if NoneType in arguments:
        return f"{_type(next(one for one in arguments if one is not NoneType))} or null"
    if getattr(hint, "__origin__", None) is list:
        return f"list of {_type(arguments[0])}"
    # Literals, and unions of them; their order in the code is the order on the page.
    words = [word for argument in arguments for word in (get_args(argument) or (argument,))]
    return ", ".join(f'`"{word}"`' for word in words)
