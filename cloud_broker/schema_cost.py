"""
How much work a JSON Schema can make, found from the schema alone: an agent wrote it, and is not trusted with our time.

A validator that follows `allOf`, `anyOf`, `$ref` and the like at one place of a value does so again at each place
below it. Doubled twenty times that is a million steps for one number. Here the steps are counted for the worst value,
without following anything twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

MAX_STEPS: Final = 256  # for one value of a document; an agent's own schemas take less than twenty
MAX_PARTS: Final = 20_000  # subschemas of one schema

# What a schema says of the same value, and of values in it.
SAME_MANY: Final = ("allOf", "anyOf", "oneOf")
SAME_ONE: Final = ("not", "if", "then", "else")
SAME_NAMED: Final = ("dependentSchemas", "dependencies")
INNER_ONE: Final = ("additionalProperties", "propertyNames", "items", "additionalItems", "contains")
INNER_NAMED: Final = ("properties", "patternProperties")
# Where less in a part may mean that the whole takes less; the last has patterns of its own.
NO_WIDER: Final = ("not", "oneOf", "if", "contains", "dependencies", "patternProperties")
# What leads elsewhere, or needs all that was said before to be looked at again.
REFUSED: Final = (
    "$id",
    "$anchor",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "unevaluatedProperties",
    "unevaluatedItems",
)


class TooCostly(ValueError):
    """A schema can make more work than is done for it."""


def steps(schema: Any) -> int:
    """
    Return how many subschemas one value of a document may be held against, at most.

    Raises:
        TooCostly: too many, without end, or it can't be told.
    """
    parts = dict(_parts(schema))
    same, inner = _edges(parts, schema)
    reverse = _reversed(same)
    # A subschema counts itself and all that is said of the same value; one that comes back to itself grows for ever.
    sizes = _grown(same, reverse, lambda part, value: 1 + sum(value[other] for other in same[part]))
    own = {part: _children(node) for part, node in parts.items()}
    widths = _grown(same, reverse, lambda part, value: own[part] + sum(value[other] for other in same[part]))
    below = {part: _below(part, same, inner) for part in same}
    found = _grown(
        below,
        _reversed(below),
        lambda part, value: max(sizes[part], max((widths[part] * value[other] for other in below[part]), default=0)),
    )
    return found[id(schema)] if isinstance(schema, dict) else 1


def has_patterns(schema: Any) -> bool:
    """Whether a regular expression stands in a schema."""
    return any("pattern" in node or "patternProperties" in node for _, node in _parts(schema))


def without_patterns(schema: Any) -> Any:
    """
    Return a schema that takes all that ``schema`` takes, and needs no regular expression; ``True`` takes everything.
    """
    parts = dict(_parts(schema))
    if any(name in node for node in parts.values() for name in NO_WIDER):
        return True
    return _without(schema, parts)


def _without(node: Any, parts: dict[int, dict[str, Any]]) -> Any:
    if isinstance(node, dict):
        # What is no part of the schema, such as a constant, stays as it is.
        dropped = "pattern" if id(node) in parts else None
        return {name: _without(value, parts) for name, value in node.items() if name != dropped}
    return [_without(value, parts) for value in node] if isinstance(node, list) else node


def _parts(schema: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield every subschema once, with its identity."""
    seen: set[int] = set()
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict) and id(node) not in seen:
            seen.add(id(node))
            if len(seen) > MAX_PARTS:
                raise TooCostly(f"it has more than {MAX_PARTS} parts")
            yield id(node), node
            waiting += _same(node, schema)
            waiting += _inner(node)
            waiting += _named(node, ("$defs", "definitions"))


def _edges(parts: dict[int, dict[str, Any]], schema: Any) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    same: dict[int, list[int]] = {}
    inner: dict[int, list[int]] = {}
    for part, node in parts.items():
        refused = next((name for name in REFUSED if name in node), None)
        if refused is not None:
            raise TooCostly(f"it uses {refused}, which is not followed here")
        same[part] = [id(other) for other in _same(node, schema) if isinstance(other, dict)]
        inner[part] = [id(other) for other in _inner(node) if isinstance(other, dict)]
    return same, inner


def _same(node: dict[str, Any], root: Any) -> list[Any]:
    found = [node[name] for name in SAME_ONE if name in node]
    for name in SAME_MANY:
        found += node[name] if isinstance(node.get(name), list) else []
    found += _named(node, SAME_NAMED)
    if "$ref" in node:
        found.append(_target(node["$ref"], root))
    return found


def _inner(node: dict[str, Any]) -> list[Any]:
    found = [node[name] for name in INNER_ONE if name in node and not isinstance(node[name], list)]
    for name in ("prefixItems", "items"):
        found += node[name] if isinstance(node.get(name), list) else []
    return found + _named(node, INNER_NAMED)


def _named(node: dict[str, Any], names: Iterable[str]) -> list[Any]:
    return [value for name in names if isinstance(node.get(name), dict) for value in node[name].values()]


def _children(node: dict[str, Any]) -> int:
    """Return how many of a schema's parts may speak of the same inner value."""
    named = "properties" in node or "additionalProperties" in node
    listed = "items" in node or "prefixItems" in node or "additionalItems" in node
    patterns = node.get("patternProperties")
    return (
        named
        + listed
        + ("contains" in node)
        + ("propertyNames" in node)
        + (len(patterns) if isinstance(patterns, dict) else 0)
    )


def _below(part: int, same: dict[int, list[int]], inner: dict[int, list[int]]) -> list[int]:
    """Return the parts that may speak of values right below the one that ``part`` speaks of."""
    found: dict[int, None] = {}
    seen, waiting = {part}, [part]
    while waiting:
        here = waiting.pop()
        found.update(dict.fromkeys(inner[here]))
        for other in same[here]:
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    return list(found)


def _target(reference: Any, root: Any) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise TooCostly(f"it refers to {reference!r:.80}, outside of itself")
    node = root
    for step in reference[1:].split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict) and step in node:
            node = node[step]
        elif isinstance(node, list) and step.isdecimal() and int(step) < len(node):
            node = node[int(step)]
        else:
            raise TooCostly(f"it refers to {reference!r:.80}, which is not there")
    return node


def _reversed(edges: dict[int, list[int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for part, others in edges.items():
        for other in others:
            found[other].append(part)
    return found


def _grown(
    edges: dict[int, list[int]], reverse: dict[int, list[int]], of: Callable[[int, dict[int, int]], int]
) -> dict[int, int]:
    """Return the least values that agree with each other; what grows without end is too costly."""
    value = dict.fromkeys(edges, 0)
    waiting = dict.fromkeys(edges)
    while waiting:
        part, _ = waiting.popitem()
        grown = of(part, value)
        if grown > MAX_STEPS:
            raise TooCostly(f"one value may have to be held against more than {MAX_STEPS} of its parts")
        if grown != value[part]:
            value[part] = grown
            waiting.update(dict.fromkeys(reverse[part]))
    return value
