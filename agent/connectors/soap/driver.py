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

from agent import parameters
from agent.connectors.base import Call, Driver, DriverSetup, Finding, Outputs, Piece
from agent.connectors.soap import answer
from agent.connectors.soap.exchange import Exchange, Login, Reply, place, split
from agent.connectors.soap.faults import judge, odd_reply
from agent.connectors.soap.request import RequestShape
from agent.connectors.soap.wsdl import RequestRefused, Wsdl, WsdlOperation
from agent.errors import CommandError, OutcomeUnknown, ParametersInvalid, SourceFailed, SourceUnavailable
from agent.leaving import Leaving, columns_missing
from agent.settings import CallOperation, SoapConnection

CHECK_S: Final = 15.0  # seconds for the answer to a GET
WSDL_S: Final = 30.0  # seconds for each document of a WSDL


class SoapDriver(Driver):
    """One service; a connection of its own for each call."""

    def __init__(self, setup: DriverSetup) -> None:
        super().__init__(setup)
        assert isinstance(setup.connection, SoapConnection)  # noqa: S101 - the table of connectors sees to it
        self._connection = setup.connection
        self._exchange: Exchange
        self._wsdl: Wsdl

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
        self._wsdl = Wsdl(location, self._fetch, token)

    def run(self, call: Call) -> Iterator[Piece]:
        """Make one call; see ``Driver.run``."""
        operation = self._operation(call.operation)
        found = self._find(operation)
        leaving = self._leaving(call.operation, operation, found)
        endpoint = self._endpoint(found)
        envelope, headers = self._write(operation, found, parameters.decode(operation, call.params))
        reply = self._exchange.post(endpoint, envelope, headers, call.timeout_s)
        outputs = self._read(reply, operation, found, place(endpoint))
        yield Outputs(leaving.outputs(outputs))

    def _leaving(self, name: str, operation: CallOperation, found: WsdlOperation) -> Leaving:
        """
        Return what may leave.

        Raises:
            SourceFailed: `columns` lists what no answer has; nothing was sent yet.
        """
        there = Leaving(operation)
        known = answer.names(found)
        if known is not None:
            for field in known:
                there.lets(field)
            if missing := there.missing():
                raise SourceFailed(f"{name}: {columns_missing(name, missing)}", touched=False)
        return Leaving(operation)

    def cancel(self) -> None:
        """End the running exchange; what was sent can't be called back."""
        self._exchange.cancel()

    def describe(self, operation: str) -> dict[str, Any] | None:
        """Return the schema of the request element; ``None`` where the operator declared parameters."""
        found = self._operation(operation)
        return None if found.params else self._shape(self._find(found)).schema()

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
                endpoints.add(self._endpoint(self._find(self._operation(name))))
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
            reply = self._exchange.get(endpoint, CHECK_S, known=True)
        except CommandError as exc:
            return Finding(subject, False, exc.message, code=exc.remedy or "soap.unreachable")
        if reply.status in (401, 403):
            detail = f"refuses us with HTTP {reply.status} (auth.scheme = {scheme!r})"
            return Finding(subject, False, detail, code="soap.account")
        return Finding(subject, True, f"answers ({agreed}), and takes us in")

    def _check_operation(self, name: str) -> Finding:
        subject = f"operation {name}"
        try:
            operation = self._operation(name)
            found = self._find(operation)
            self._leaving(name, operation, found)
            return Finding(subject, True, f"is in the WSDL; goes to {place(self._endpoint(found))}")
        except CommandError as exc:
            return Finding(subject, False, exc.message, code=exc.remedy or "soap.operation")

    def _operation(self, name: str) -> CallOperation:
        operation = self.setup.operations[name]
        if not isinstance(operation, CallOperation):
            raise SourceFailed(f"operation {name} is none for a soap connection; it wants `call`", touched=False)
        return operation

    def _find(self, operation: CallOperation) -> WsdlOperation:
        return self._wsdl.operation(operation.call, operation.service, operation.port)

    def _endpoint(self, found: WsdlOperation) -> str:
        endpoint = self._connection.endpoint or found.address
        split(endpoint)
        return endpoint

    def _shape(self, found: WsdlOperation) -> RequestShape:
        return RequestShape(found.request, self._wsdl.facets)

    def _write(
        self, operation: CallOperation, found: WsdlOperation, given: Mapping[str, Any]
    ) -> tuple[bytes, dict[str, str]]:
        if operation.params:
            # A declared parameter that was left out arrives as None; in XML it is simply not there.
            given = {name: _json(value) for name, value in given.items() if value is not None}
        values = self._shape(found).checked(given)
        try:
            return found.write(values)
        except RequestRefused as exc:
            raise ParametersInvalid(f"the WSDL refuses the request: {exc}", touched=False) from exc

    def _read(self, reply: Reply, operation: CallOperation, found: WsdlOperation, service: str) -> dict[str, Any]:
        if not reply.body and reply.status in (200, 202, 204) and found.answer is None:
            return {}
        if reply.status in (401, 403):
            raise odd_reply(reply, "no entry", service)
        try:
            body = answer.body_of(reply.body)
        except answer.NotSoap as exc:
            raise odd_reply(reply, str(exc), service) from exc
        fault = answer.fault_of(body)
        if fault is not None:
            raise judge(fault, operation.business_faults, found.declared_faults, operation.effect, service)
        if reply.status != 200:
            raise odd_reply(reply, "an envelope without a fault", service)
        return answer.outputs_of(body, found, self._wsdl.types)

    def _fetch(self, url: str) -> bytes:
        # Credentials only to the server that the operator named.
        home, there = split(self._connection.wsdl), split(url)
        known = (home.scheme, home.hostname, home.port) == (there.scheme, there.hostname, there.port)
        try:
            reply = self._exchange.get(url, WSDL_S, known=known)
        except OutcomeUnknown as exc:
            raise SourceUnavailable(exc.message, touched=False) from exc  # reading has no effect
        if reply.status != 200:
            raise SourceFailed(
                f"{place(url)}: wants the WSDL, found HTTP {reply.status}: {reply.shown()}",
                touched=False,
                remedy="soap.account" if reply.status in (401, 403) else "soap.wsdl",
            )
        return reply.body

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
