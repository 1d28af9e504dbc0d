"""Elements of an answer that repeat, as rows: found by a path, read as they come, and let go of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from lxml import etree

from agent.connectors import safe_xml
from agent.connectors.base import Column
from agent.connectors.safe_xml import local_name
from agent.connectors.soap import envelope
from agent.connectors.soap.answer import AnswerReader, flat, has_wildcard, is_nil
from agent.connectors.soap.fields import Field, fields_of, is_complex
from agent.connectors.soap.types import column_type
from agent.connectors.soap.wsdl import WsdlOperation
from agent.errors import ValueUnreadable
from agent.leaving import Leaving

OTHERS: Final = "#any"  # the column of what stands in a row by ``xsd:any``
_ABOVE: Final = 3  # of an answer's fields: envelope, body and the answer's element


class NoSuchRows(ValueError):
    """A path leads to nothing that repeats; the text says where it stops, and what there is."""


class RowPath:
    """
    Where the rows of an answer are, by the WSDL.

    Args:
        path: names of elements within the answer's element, joined by ``/``; only the last may repeat.

    Attributes:
        name: the path.
        columns: of a row.
        kind: zeep's type of a row.
        tag: of a row's element; one with another namespace is taken for it too, unless it has to be ``exact``.
        above: local names of the elements between a row and the answer's element, from the inside out.
        rpc: whether elements of the answer may refer to others.
        open: whether a row may hold what the WSDL does not name.
        own: the place of the rows in the outputs, with all that would be empty without them.

    Raises:
        NoSuchRows: see there.
    """

    def __init__(self, operation: WsdlOperation, path: str) -> None:
        if operation.answer is None:
            raise NoSuchRows("the operation has no answer")
        self.name, self.rpc = path, operation.rpc
        kind, where = operation.answer.type, etree.QName(operation.answer.qname).localname
        steps = path.split("/")
        above: list[str] = []
        alone: list[bool] = []
        for number, step in enumerate(steps, 1):
            there = _elements(kind, where)
            field = _named(step, there, where)
            if field.many and number < len(steps):
                raise NoSuchRows(f"{where} has many {step}; only the last name of the path may repeat")
            if number == len(steps) and not field.many:
                raise NoSuchRows(f"{where} has one {step} at most; wants an element that repeats")
            alone.append(len(list(flat(fields_of(kind)))) == 1)
            above.insert(0, _local(field.tag))
            kind, where = field.type, f"{where}/{step}"
        while len(steps) > 1 and alone[len(steps) - 1]:
            steps.pop()
        self.kind, self.tag, self.own = kind, field.tag, tuple(steps)
        self.exact = sum(_local(one.tag) == _local(field.tag) for one in there) > 1
        self.above = above[1:]
        self.columns = _columns(kind, field.name)
        self.open = is_complex(kind) and has_wildcard(kind)

    def leave_out(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """Return ``outputs`` without the rows' place."""
        inner: Any = outputs
        for step in self.own[:-1]:
            inner = inner.get(step)
            if inner is None:
                return outputs
        inner.pop(self.own[-1], None)
        return outputs


class RowStream:
    """
    A reply whose rows are read as they come.

    Args:
        kept: indexes of the columns that leave.
        leaving: hides what is to be hidden within the values of columns.

    Attributes:
        held: bytes, about, of what came and was not let go of: all but whole rows.
    """

    def __init__(self, path: RowPath, reader: AnswerReader, kept: Sequence[int], leaving: Leaving) -> None:
        self.held = 0
        self._path = path
        self._reader = reader
        self._names = [column.name for column in path.columns if column.name != OTHERS]
        self._empty = [None] * len(path.columns)
        self._nested = [(i, column.name) for i, column in enumerate(path.columns) if column.type == "json"]
        self._kept = kept if len(kept) < len(path.columns) else None
        self._leaving = leaving
        self._arriving = safe_xml.Arriving(_local(path.tag))
        self._parent: etree._Element | None = None  # of the rows
        self._last: etree._Element | None = None  # row, which is still in the tree
        self._beside = -1  # elements beside the rows
        self._since = 0  # bytes that came since a row was let go of

    def feed(self, piece: bytes) -> list[list[Any]]:
        """
        Take a piece of the reply; return the rows that ended in it, with a value for each column.

        Raises:
            NotSoap: it is XML that is not taken.
            ValueUnreadable: as ``AnswerReader.outputs``.
        """
        try:
            ended = self._arriving.feed(piece)
        except safe_xml.XmlRefused as exc:
            raise envelope.NotSoap(str(exc)) from exc
        self._since += len(piece)
        self.held += len(piece)
        rows = [self._row(node) for node in ended if self._is_row(node)]
        if rows and self._parent is not None and self._last is not None:
            # All that stands before the last row, as the rows themselves are gone.
            beside = self._parent.index(self._last)
            if beside == self._beside:
                self.held -= self._since
            self._beside, self._since = beside, 0
        return rows

    def close(self) -> etree._Element:
        """
        Return the body, without the rows: that was all.

        Raises:
            NotSoap: as ``envelope.read``.
        """
        try:
            root = self._arriving.close()
        except safe_xml.XmlRefused as exc:
            raise envelope.NotSoap(str(exc)) from exc
        self._let_go()
        return envelope.body_of(root)

    def _is_row(self, node: etree._Element) -> bool:
        parent = node.getparent()
        if parent is None or (self._path.exact and node.tag != self._path.tag):
            return False
        if parent is self._parent:
            return True
        above = list(node.iterancestors())
        wanted = self._path.above
        if len(above) != len(wanted) + _ABOVE or [local_name(one) for one in above[: len(wanted)]] != wanted:
            return False  # another element of this name, or one within a row
        answer, body = above[-_ABOVE:-1]
        if local_name(body) != "Body" or answer.getprevious() is not None:
            return False  # in a header, or beside the answer
        if any(is_nil(one) for one in above):
            return False  # in what says that it is nothing
        self._let_go()
        self._parent, self._beside = parent, -1
        return True

    def _row(self, node: etree._Element) -> list[Any]:
        if self._path.rpc and any(one.get("href") for one in node.iter()):
            raise ValueUnreadable("a row of the answer refers to another element (href); leave `rows` out")
        found = self._reader.value(node, self._path.kind, self._path.name)
        # One that is followed by another can go with all its text; the parser may still be at the last one's.
        self._let_go()
        self._last = node
        row = self._values(found)
        for i, name in self._nested:
            value = self._leaving.value(name, row[i])
            # What is a text in a column of JSON would be taken for JSON.
            row[i] = msgspec.json.encode(value) if isinstance(value, str) else value
        return row if self._kept is None else [row[i] for i in self._kept]

    def _values(self, found: Any) -> list[Any]:
        if not isinstance(found, dict):
            return self._empty.copy() if found is None else [found]
        row = [found.pop(name, None) for name in self._names]
        if self._path.open:
            row.append(found or None)
        elif found:
            raise ValueUnreadable(
                f"a row of the answer names a type (xsi:type) that has {', '.join(found)} besides the columns; "
                "leave `rows` out"
            )
        return row

    def _let_go(self) -> None:
        if self._last is not None and self._parent is not None:
            self._last.clear()
            self._parent.remove(self._last)
            self._last = None


def _elements(kind: Any, where: str) -> list[Field]:
    if not is_complex(kind) or kind._array_type:
        raise NoSuchRows(f"{where} has no elements with names of their own")
    return [field for field in flat(fields_of(kind)) if field.tag and not field.attribute]


def _named(step: str, there: Sequence[Field], where: str) -> Field:
    for field in there:
        if field.name == step:
            return field
    raise NoSuchRows(f"{where} has no {step!r}; it has: {', '.join(field.name for field in there) or 'nothing'}")


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _columns(kind: Any, name: str) -> tuple[Column, ...]:
    if not is_complex(kind) or kind._array_type:
        return (_column(Field(name, name, "", kind)),)
    found = [_column(field) for field in flat(fields_of(kind))]
    return tuple([*found, Column(OTHERS, "json")] if has_wildcard(kind) else found)


def _column(field: Field) -> Column:
    qname = getattr(field.type, "qname", None)
    source_type = qname.localname if qname is not None else ""
    nested = field.many or is_complex(field.type)
    return Column(field.name, "json" if nested else column_type(field.type), source_type)
