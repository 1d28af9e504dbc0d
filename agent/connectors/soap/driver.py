"""The `soap` connection: calls of a SOAP service described by a WSDL."""

from __future__ import annotations

import base64
import contextlib
import ssl
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from lxml import etree

from agent import parameters
from agent.connectors.base import Call, Driver, DriverSetup, Finding, Outputs, Piece, RowSet
from agent.connectors.rows import RowEncoder
from agent.connectors.soap import envelope
from agent.connectors.soap.address import place, split
from agent.connectors.soap.exchange import Exchange, Login
from agent.connectors.soap.faults import judge, odd_reply
from agent.connectors.soap.prepared import Prepared, endpoint_of, find, prepare
from agent.connectors.soap.reply import Reply, shown
from agent.connectors.soap.request import RequestShape
from agent.connectors.soap.rows import RowPath, RowStream
from agent.connectors.soap.wsdl import RequestRefused, Wsdl
from agent.errors import (
    CommandError,
    OutcomeUnknown,
    ParametersInvalid,
    SourceFailed,
    SourceUnavailable,
    TooManyRows,
)
from agent.leaving import Leaving
from agent.settings import CallOperation, SoapConnection

CHECK_S: Final = 15.0  # seconds for the answer to a GET
WSDL_S: Final = 30.0  # seconds for each document of a WSDL


class SoapDriver(Driver):
    """One service; what may be called twice goes over a connection that is kept."""

    def __init__(self, setup: DriverSetup) -> None:
        super().__init__(setup)
        assert isinstance(setup.connection, SoapConnection)  # noqa: S101 - the table of connectors sees to it
        self._connection = setup.connection
        self._exchange: Exchange
        self._wsdl: Wsdl  # both from open on
        self._known: dict[str, Prepared] = {}

    def open(self) -> None:
        """
        Read the WSDL; the service itself is not asked.

        Raises:
            SourceUnavailable: the WSDL's server can't be reached.
            SourceFailed: WSDL, certificate or authority can't be read.
        """
        auth = self._connection.auth
        login = (
            Login(auth.scheme, auth.username or "", auth.password or "")
            if auth.scheme in ("basic", "digest")
            else Login()
        )
        self._exchange = Exchange(login, self._tls(), self._connection.max_reply_bytes)
        token = (auth.username or "", auth.password or "", auth.digest) if auth.scheme == "wsse" else None
        location = self._connection.wsdl
        if "://" not in location:
            location = str(self._path(location))
        try:
            self._wsdl = Wsdl(location, self._fetch, token)
        except BaseException:  # whatever ends it: nobody else knows of the open line
            self._exchange.close()
            raise

    def run(self, call: Call) -> Iterator[Piece]:
        """Make one call; see ``Driver.run``."""
        # Not in the generator: a cancel may come before its first step.
        self._exchange.begin()
        return self._run(call)

    def _run(self, call: Call) -> Iterator[Piece]:
        prepared = self._prepared(call.operation)
        request, headers = self._write(prepared, parameters.decode(prepared.operation, call.params))
        with self._exchange.post(
            prepared.endpoint, request, headers, call.timeout_s, repeatable=prepared.repeatable
        ) as reply:
            if prepared.rows is not None and reply.status == 200:
                try:
                    yield from self._rows(reply, prepared, prepared.rows)
                except TooManyRows as exc:
                    if prepared.repeatable:
                        raise
                    raise OutcomeUnknown(f"the service has answered, so it ran, but {exc.message}") from exc
            else:
                yield Outputs(Leaving(prepared.operation).outputs(self._outputs(reply, prepared)))

    def _prepared(self, name: str) -> Prepared:
        """
        Return what is known of an operation, which is looked through once.

        Raises:
            SourceFailed: it is not as the WSDL has it: `call`, `rows`, or `columns` that lists what no answer has.
        """
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = prepare(name, self._operation(name), self._wsdl, self._connection.endpoint)
        return known

    def cancel(self) -> None:
        """End the running exchange; what was sent can't be called back."""
        self._exchange.cancel()

    def close(self) -> None:
        """Close the connection that was kept."""
        self._exchange.close()

    def describe(self, operation: str) -> dict[str, Any] | None:
        """Return the schema of the request element; ``None`` where the operator declared parameters."""
        found = self._operation(operation)
        return None if found.params else RequestShape(find(found, self._wsdl).request, self._wsdl.facets).schema()

    def check(self, operation: str | None = None) -> Iterator[Finding]:
        """Connect to the service's endpoints, without a call; or find one operation in the WSDL."""
        if operation is not None:
            yield self._check_operation(operation)
            return
        yield Finding(f"connection {self.setup.name}", True, f"WSDL {place_of_wsdl(self._wsdl.location)} was read")
        for endpoint in sorted(self._endpoints()):
            yield self._check_endpoint(endpoint)

    def _endpoints(self) -> set[str]:
        endpoints = set()
        for name in self.setup.operations:
            # What is wrong with an operation is told of the operation.
            with contextlib.suppress(CommandError):
                endpoints.add(endpoint_of(find(self._operation(name), self._wsdl), self._connection.endpoint))
        return endpoints

    def _check_endpoint(self, endpoint: str) -> Finding:
        subject = f"endpoint {place(endpoint)}"
        try:
            agreed = self._exchange.reach(endpoint)
        except CommandError as exc:
            return Finding(subject, False, exc.message, code=exc.remedy or "soap.unreachable")
        scheme = self._connection.auth.scheme
        if scheme in ("none", "wsse"):
            unsure = "" if scheme == "none" else "; whether it takes the account shows with the first call"
            return Finding(subject, True, f"answers ({agreed}){unsure}")
        try:
            # What HTTP itself asks for is asked for whatever the method; a GET has no effect.
            status, _ = self._exchange.get(endpoint, CHECK_S, known=True)
        except CommandError as exc:
            return Finding(subject, False, exc.message, code=exc.remedy or "soap.unreachable")
        if status in (401, 403):
            detail = f"refuses us with HTTP {status} (auth.scheme = {scheme!r})"
            return Finding(subject, False, detail, code="soap.account")
        return Finding(subject, True, f"answers ({agreed}), and takes us in")

    def _check_operation(self, name: str) -> Finding:
        subject = f"operation {name}"
        try:
            prepared = self._prepared(name)
            rows = "" if prepared.rows is None else f"; a row has {', '.join(c.name for c in prepared.rows.columns)}"
            return Finding(subject, True, f"is in the WSDL; goes to {prepared.service}{rows}")
        except CommandError as exc:
            return Finding(subject, False, exc.message, code=exc.remedy or "soap.operation")

    def _operation(self, name: str) -> CallOperation:
        operation = self.setup.operations[name]
        if not isinstance(operation, CallOperation):
            raise SourceFailed(f"operation {name} is none for a soap connection; it wants `call`", touched=False)
        return operation

    def _write(self, prepared: Prepared, given: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
        if prepared.operation.params:
            # A declared parameter that was left out arrives as None; in XML it is simply not there.
            given = {name: _json(value) for name, value in given.items() if value is not None}
        values = prepared.shape.checked(given)
        try:
            return prepared.found.write(values)
        except RequestRefused as exc:
            raise ParametersInvalid(f"the WSDL refuses the request: {exc}", touched=False) from exc

    def _outputs(self, reply: Reply, prepared: Prepared) -> dict[str, Any]:
        try:
            body = envelope.read(self._limited(reply))
        except envelope.NotSoap as exc:
            reply.skim()
            if not reply.shown() and reply.status in (200, 202, 204) and prepared.found.answer is None:
                return {}
            raise odd_reply(reply, str(exc), prepared.service) from exc
        return self._answered(reply, prepared, body)

    def _answered(self, reply: Reply, prepared: Prepared, body: etree._Element) -> dict[str, Any]:
        """
        Return the outputs in the body of an envelope.

        Raises:
            CommandError: it holds a fault, or the service did not mean it as an answer.
        """
        if reply.status in (401, 403):
            raise odd_reply(reply, "no entry", prepared.service)
        fault = envelope.fault_of(body)
        if fault is not None:
            operation, declared = prepared.operation, prepared.found.declared_faults
            raise judge(fault, operation.business_faults, declared, operation.effect, prepared.service)
        if reply.status != 200:
            raise odd_reply(reply, "an envelope without a fault", prepared.service)
        return prepared.reader.outputs(body)

    def _limited(self, reply: Reply) -> Iterator[bytes]:
        most, size = self._connection.max_reply_bytes, 0
        for piece in reply.pieces():
            size += len(piece)
            if size > most:
                raise reply.too_long(most)
            yield piece

    def _rows(self, reply: Reply, prepared: Prepared, path: RowPath) -> Iterator[Piece]:
        """Yield the rows of an answer while it comes, and its outputs."""
        leaving, most = Leaving(prepared.operation), self._connection.max_reply_bytes
        kept = [i for i, column in enumerate(path.columns) if leaving.lets(column.name)]
        columns = [path.columns[i] for i in kept]
        encoder = RowEncoder(columns, [column.name for column in columns if leaving.hides(column.name)])
        begun = not columns
        stream = RowStream(path, prepared.reader, kept, leaving)
        try:
            for piece in reply.pieces():
                rows = stream.feed(piece)
                if stream.held > most:
                    raise reply.too_long(most, " besides its rows, or in one of them")
                if rows and columns:
                    if not begun:
                        yield RowSet(tuple(columns))
                        begun = True
                    yield encoder.encode(rows)
            body = stream.close()
        except envelope.NotSoap as exc:
            reply.skim()
            raise odd_reply(reply, str(exc), prepared.service) from exc
        outputs = path.leave_out(self._answered(reply, prepared, body))
        if not begun:
            yield RowSet(tuple(columns))
        yield Outputs(leaving.outputs(outputs))

    def _fetch(self, url: str) -> bytes:
        # Credentials only to the server that the operator named.
        home, there = split(self._connection.wsdl), split(url)
        known = (home.scheme, home.hostname, home.port) == (there.scheme, there.hostname, there.port)
        try:
            status, body = self._exchange.get(url, WSDL_S, known=known)
        except OutcomeUnknown as exc:
            raise SourceUnavailable(exc.message, touched=False) from exc  # reading has no effect
        if status != 200:
            raise SourceFailed(
                f"{place(url)}: wants the WSDL, found HTTP {status}: {shown(body)}",
                touched=False,
                remedy="soap.account" if status in (401, 403) else "soap.wsdl",
            )
        return body

    def _tls(self) -> ssl.SSLContext:
        auth, ca = self._connection.auth, self._connection.ca
        try:
            context = ssl.create_default_context(cafile=str(self._path(ca)) if ca is not None else None)
        except (OSError, ssl.SSLError) as exc:
            raise SourceFailed(f"ca {ca} can't be read: {exc}", touched=False, remedy="soap.files") from exc
        if auth.scheme == "certificate" and auth.certificate is not None:
            certificate = self._path(auth.certificate)
            key = self._path(auth.key) if auth.key is not None else None
            try:
                # A password is always given: without one OpenSSL would ask on the terminal.
                context.load_cert_chain(certificate, key, password=auth.password or "")
            except (OSError, ssl.SSLError) as exc:
                raise SourceFailed(
                    f"certificate {certificate} or its key can't be used: {exc}; both must be PEM and belong together",
                    touched=False,
                    remedy="soap.files",
                ) from exc
        return context

    def _path(self, name: str) -> Path:
        return Path(self.setup.base_dir, name).resolve()


def place_of_wsdl(location: str) -> str:
    """Return where a WSDL is, as it may be shown."""
    return place(location) if "://" in location else location


def _json(value: Any) -> Any:
    """Return a declared parameter's value as JSON has it; the WSDL's type reads it again."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value) if isinstance(value, UUID) else value
