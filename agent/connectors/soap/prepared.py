"""An operation of the operator's file, looked through with the WSDL once for all its calls."""

from __future__ import annotations

from dataclasses import dataclass

from agent.connectors.soap import answer
from agent.connectors.soap.address import place, split
from agent.connectors.soap.answer import AnswerReader
from agent.connectors.soap.request import RequestShape
from agent.connectors.soap.rows import NoSuchRows, RowPath
from agent.connectors.soap.wsdl import Wsdl, WsdlOperation
from agent.errors import SourceFailed
from agent.leaving import Leaving, columns_missing
from agent.settings import CallOperation


@dataclass(frozen=True, slots=True)
class Prepared:
    """
    What is the same in all calls of one operation.

    Attributes:
        shape: of its requests.
        reader: of its answers.
        rows: where the rows are in them; ``None`` where there are none.
    """

    operation: CallOperation
    found: WsdlOperation
    endpoint: str
    shape: RequestShape
    reader: AnswerReader
    rows: RowPath | None

    @property
    def service(self) -> str:
        """The endpoint as it may be shown."""
        return place(self.endpoint)

    @property
    def repeatable(self) -> bool:
        """Whether a request may be sent twice."""
        return self.operation.effect in ("read", "idempotent")


def prepare(name: str, operation: CallOperation, wsdl: Wsdl, endpoint: str | None) -> Prepared:
    """
    Look an operation through.

    Args:
        endpoint: as ``endpoint_of``.

    Raises:
        SourceFailed: it is not as the WSDL has it: `call`, `rows`, or `columns` that lists what no answer has.
    """
    found = find(operation, wsdl)
    rows = None
    if operation.rows is not None:
        try:
            rows = RowPath(found, operation.rows)
        except NoSuchRows as exc:
            raise SourceFailed(f"operations.{name}.rows = {operation.rows!r}: {exc}", touched=False) from exc
    if missing := _missing(operation, found, rows):
        raise SourceFailed(f"{name}: {columns_missing(name, missing)}", touched=False)
    shape, reader = RequestShape(found.request, wsdl.facets), AnswerReader(found, wsdl.types)
    return Prepared(operation, found, endpoint_of(found, endpoint), shape, reader, rows)


def find(operation: CallOperation, wsdl: Wsdl) -> WsdlOperation:
    """Return what the WSDL has of an operation; raises as ``Wsdl.operation``."""
    return wsdl.operation(operation.call, operation.service, operation.port)


def endpoint_of(found: WsdlOperation, named: str | None) -> str:
    """
    Return where an operation's requests go.

    Args:
        named: by the operator, in place of the WSDL's.

    Raises:
        SourceFailed: that is no address.
    """
    endpoint = named or found.address
    split(endpoint)
    return endpoint


def _missing(operation: CallOperation, found: WsdlOperation, rows: RowPath | None) -> list[str]:
    """Return what `columns` lists and no answer has; nothing where the WSDL does not say what an answer has."""
    outputs = answer.names(found)
    if outputs is None:
        return []
    leaving = Leaving(operation)
    for name in outputs:
        if rows is None or (name,) != rows.own:
            leaving.lets(name)
    for column in rows.columns if rows is not None else ():
        leaving.lets(column.name)
    return leaving.missing()
