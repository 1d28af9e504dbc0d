"""Settings from what TOML read, without a word about what is wrong: that is ``config_errors.py``, which is heavy."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints, overload

import msgspec

from agent.settings import OPERATION_KINDS, TAG, Form, Model, OperationBase

T = TypeVar("T")

_TOMLS_OWN: Final = (date, datetime, time)  # they come as such, and a text is none


@overload
def read(written: object, kind: type[T]) -> T: ...


@overload
def read(written: object, kind: Any) -> Any: ...


def read(written: object, kind: Any) -> Any:
    """
    Return the settings that stand in a table of the file.

    Args:
        written: the table, as TOML read it.
        kind: what it is, such as ``Settings``; may be a union of kinds.

    Raises:
        ValueError: it is none; what exactly is wrong is not told.
    """
    return msgspec.convert(_kept(written, kind), kind, builtin_types=_TOMLS_OWN)


def form(metadata: tuple[Any, ...]) -> Form | None:
    """Return how a value stands in the file, of what an ``Annotated`` says besides its type."""
    return next((meta.extra["form"] for meta in metadata if meta.extra and "form" in meta.extra), None)


def members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union but for ``None``; of what is no union, that alone."""
    if get_origin(annotation) in (Union, UnionType):
        return tuple(member for member in get_args(annotation) if member is not NoneType)
    return (annotation,)


def kind_of(table: Mapping[str, Any], kinds: tuple[type[Model], ...]) -> type[Model] | None:
    """Return which of ``kinds`` a table of the file is; ``None`` if none of them, or several."""
    if len(kinds) == 1:
        return kinds[0]
    if issubclass(kinds[0], OperationBase):
        found: list[type[Model]] = [kind for key, kind in OPERATION_KINDS.items() if key in table]
    else:
        found = [kind for kind in kinds if get_args(hints(kind)["type"].__origin__)[0] == table.get("type")]
    return found[0] if len(found) == 1 else None


@lru_cache(maxsize=64)
def hints(kind: type[Model]) -> dict[str, Any]:
    """Return what each key of a table is to be, with what ``Annotated`` says of it."""
    return get_type_hints(kind, include_extras=True)


def _kept(value: Any, wanted: Any) -> Any:
    """Return what stands in the file as it is kept."""
    origin, args = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        written = form(wanted.__metadata__)
        return _kept(value if written is None else written.read(value), args[0])
    if origin is dict and isinstance(value, dict):
        return {key: _kept(child, args[1]) for key, child in value.items()}
    if origin is tuple and isinstance(value, tuple | list):
        return [_kept(child, args[0]) for child in value]
    kinds = members(wanted)
    if isinstance(value, dict) and isinstance(kinds[0], type) and issubclass(kinds[0], Model):
        return _table(value, kind_of(value, kinds))
    return _kept(value, kinds[0]) if len(kinds) == 1 and kinds[0] is not wanted else value


def _table(table: dict[str, Any], kind: type[Model] | None) -> dict[str, Any]:
    if kind is None:
        raise ValueError("a table is of no kind, or of several")
    known = hints(kind)
    kept = {key: _kept(value, known[key]) if key in known else value for key, value in table.items()}
    if kind.__struct_config__.tag is not None:
        if TAG in table:
            raise ValueError(f"{TAG} is no key of the file")
        kept[TAG] = kind.__struct_config__.tag
    return kept
