"""An example file from models: every key with its meaning, those at their default behind a ``#``."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Table:
    """
    One table of the example.

    Attributes:
        name: as between the brackets; "" for the top of the file.
        model: whose keys it has.
        values: keys that stand in the file.
        samples: values for keys that stand behind a ``#`` and have no default to show.
        remark: a comment above the table.
        leave: keys that come as tables of their own.
    """

    name: str
    model: type[BaseModel]
    values: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[str, Any] = field(default_factory=dict)
    remark: str = ""
    leave: frozenset[str] = frozenset()


def render(tables: Sequence[Table | str]) -> str:
    """
    Return the file's text; a plain text among ``tables`` is put in as it is.

    A key is explained where it comes first; later tables have only the keys that they give a value.

    Raises:
        ValueError: a key has neither a value, nor a default, nor a sample.
    """
    explained: set[tuple[type, str]] = set()
    blocks = []
    for table in tables:
        if isinstance(table, str):
            blocks.append(table.strip("\n"))
            continue
        lines = _comment(table.remark) if table.remark else []
        if table.name:
            lines.append(f"[{table.name}]")
        for name, info in table.model.model_fields.items():
            known = (_owner(table.model, name), name)
            if name in table.leave:
                explained.add(known)
                continue
            if known not in explained:
                explained.add(known)
                lines += _comment(info.description or "")
            elif name not in table.values:
                continue
            lines.append(_line(table, name))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def toml(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(child)}" for key, child in value.items()) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return repr(value)


def _line(table: Table, name: str) -> str:
    if name in table.values:
        return f"{name} = {toml(table.values[name])}"
    if name in table.samples:
        return f"# {name} = {toml(table.samples[name])}"
    info = table.model.model_fields[name]
    default = None if info.is_required() else info.get_default(call_default_factory=True, validated_data={})
    if default is None:
        raise ValueError(f"{table.model.__name__}.{name} wants a value or a sample")
    return f"# {name} = {toml(default)}"


def _owner(model: type[BaseModel], name: str) -> type:
    return next(parent for parent in model.__mro__ if name in inspect.get_annotations(parent))


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 98)]
