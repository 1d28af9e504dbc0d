"""
The only file that knows zeep: it reads the WSDL and writes the envelope of a request.

zeep does not send (``exchange.py`` does) and does not read replies (``answer.py`` does): it turns what it can't
parse into ``None`` and drops digits of times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import zeep
import zeep.exceptions
import zeep.ns
import zeep.transports
import zeep.wsdl.messages
import zeep.wsdl.utils
import zeep.wsse.username
from lxml import etree

from agent.connectors import safe_xml
from agent.connectors.soap.facets import Facets, facets_of
from agent.errors import CommandError, SourceFailed

MAX_DOCUMENTS: Final = 200  # a WSDL and its schemas; one that goes on importing is an attack or a mistake


_HERE: Final = "the request's element stands here"

# zeep is typed in part only: these are taken for what they are documented to be.
_Client: Any = zeep.Client
_UsernameToken: Any = zeep.wsse.username.UsernameToken
_to_bytes: Any = zeep.wsdl.utils.etree_to_string


@dataclass(frozen=True, slots=True)
class WsdlOperation:
    """
    One operation of one port.

    Attributes:
        address: where the port is, by the WSDL.
        request: the element whose fields are the request; ``None`` if it has none. rpc: the wrapper.
        answer: the element whose fields are the answer; ``None`` if nothing comes back.
        rpc: whether the wrapper's name is the operation's and not an element's.
        declared_faults: local names of the detail elements that the WSDL names.
        envelope_namespace: of SOAP 1.1 or 1.2.
        write: turns values for zeep into the bytes of an envelope and its HTTP headers.
    """

    address: str
    request: Any
    answer: Any
    rpc: bool
    declared_faults: frozenset[str]
    envelope_namespace: str
    write: Callable[[Mapping[str, Any]], tuple[bytes, dict[str, str]]]


class Wsdl:
    """
    A WSDL and its schemas, read once.

    Args:
        location: an absolute path, or a URL.
        fetch: gets a document by URL; only asked if ``location`` itself is one.
        token: WS-Security user name, password and whether only a digest is sent.

    Raises:
        SourceFailed: it can't be read, or refers to what may not be read.
        CommandError: as ``fetch``.
    """

    def __init__(
        self, location: str, fetch: Callable[[str], bytes], token: tuple[str, str, bool] | None = None
    ) -> None:
        self.location = location
        loader = _Loader(location, fetch)
        settings = zeep.Settings(strict=True, forbid_dtd=True, forbid_entities=True, xml_huge_tree=False)
        # The endpoint's scheme is the operator's affair: zeep would change it where the WSDL came by https.
        settings.force_https = False
        wsse = _UsernameToken(token[0], token[1], use_digest=token[2]) if token else None
        try:
            self._client = _Client(location, wsse=wsse, transport=loader, settings=settings)
        except CommandError:
            raise
        except Exception as exc:  # zeep meets a bad WSDL with KeyError, AttributeError and others besides its own
            raise SourceFailed(
                f"the WSDL {location} can't be read: {_words(exc)}", touched=False, remedy="soap.wsdl"
            ) from exc
        self.facets: Mapping[str, Facets] = facets_of(loader.documents)
        self.types: Any = self._client.wsdl.types

    def operation(self, name: str, service: str | None, port: str | None) -> WsdlOperation:
        """
        Find an operation.

        Raises:
            SourceFailed: the WSDL has none of this name; the text lists what there is.
        """
        services = self._client.wsdl.services
        if service is not None and service not in services:
            raise self._missing("service", service, services)
        ports = services[service].ports if service is not None else {}
        if service is None:
            for candidate in services.values():
                ports = {**candidate.ports, **ports}
        if port is not None and port not in ports:
            raise self._missing("port", port, ports)
        candidates = [ports[port]] if port is not None else list(ports.values())
        soap = [one for one in candidates if hasattr(one.binding, "nsmap") and "soap-env" in one.binding.nsmap]
        for candidate in soap:
            if name in candidate.binding._operations:
                return self._operation(candidate, candidate.binding.get(name))
        raise self._missing("operation", name, {known for one in soap for known in one.binding._operations})

    def _operation(self, port: Any, found: Any) -> WsdlOperation:
        faults = {
            part.element.qname.localname
            for message in found.abstract.fault_messages.values()
            for part in message.parts.values()
            if part.element is not None
        }

        return WsdlOperation(
            address=port.binding_options.get("address") or "",
            request=found.input.body if found.input is not None else None,
            answer=found.output.body if found.output is not None else None,
            rpc=isinstance(found.input, zeep.wsdl.messages.RpcMessage),
            declared_faults=frozenset(faults),
            envelope_namespace=port.binding.nsmap["soap-env"],
            write=_Writer(self._client, port, found),
        )

    def _missing(self, kind: str, name: str, there: Any) -> SourceFailed:
        known = ", ".join(sorted(there)) or "none"
        return SourceFailed(f"the WSDL {self.location} has no {kind} {name!r}; it has: {known}", touched=False)


RequestRefused: Final = (zeep.exceptions.Error, TypeError, ValueError)  # what zeep raises for values that do not fit


class _Writer:
    """
    Writes the requests of one operation.

    What stands around the request's element is the same in all of them, and is kept from the first; where it is not,
    zeep writes the whole each time.
    """

    def __init__(self, client: Any, port: Any, found: Any) -> None:
        self._client = client
        self._port = port
        self._found = found
        # A login has a time and a nonce of its own for each message, and so has an address.
        self._differs = bool(
            client.wsse or found.abstract.wsa_action or found.input is None or found.input.body is None
        )
        self._around: tuple[bytes, bytes, dict[str, str]] | None = None

    def __call__(self, values: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
        """Return the bytes of an envelope and its HTTP headers; raises ``RequestRefused``."""
        if self._around is None:
            return self._whole(values)
        before, after, headers = self._around
        element, body = self._found.input.body, etree.Element("body")
        element.render(body, element(**values))
        return before + b"".join([etree.tostring(child, encoding="utf-8") for child in body]) + after, headers

    def _whole(self, values: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
        # Client.create_message() returns no headers, and those tell the SOAPAction.
        envelope, headers = self._port.binding._create(
            self._found.name, (), dict(values), client=self._client, options=self._port.binding_options
        )
        written = _to_bytes(envelope)
        body = envelope[-1]
        if not self._differs and not self._found.input._is_body_wrapped:
            body[:] = []
            body.text = _HERE
            before, _, after = _to_bytes(envelope).partition(_HERE.encode())
            self._around = (before, after, dict(headers))
        return written, dict(headers)


class _Loader(zeep.transports.Transport):
    """Reads the WSDL and what it imports, and keeps what it read; never more than its place allows."""

    def __init__(self, location: str, fetch: Callable[[str], bytes]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # zeep is typed in part
        self._remote = _is_url(location)
        self._fetch = fetch
        self.documents: list[etree._Element] = []

    def load(self, url: str) -> bytes:
        """Return a document that ``safe_xml`` accepts."""
        if len(self.documents) >= MAX_DOCUMENTS:
            raise SourceFailed(
                f"the WSDL imports more than {MAX_DOCUMENTS} documents", touched=False, remedy="soap.wsdl"
            )
        data = self._read(str(url))
        try:
            self.documents.append(safe_xml.parse(data))
        except safe_xml.XmlRefused as exc:
            raise SourceFailed(f"{url}: {exc}", touched=False, remedy="soap.wsdl") from exc
        return data

    def _read(self, url: str) -> bytes:
        if _is_url(url):
            if not self._remote:
                raise SourceFailed(
                    f"the WSDL imports {url}, and a local WSDL may not fetch from the network: "
                    "save that document beside it and correct its schemaLocation or location",
                    touched=False,
                    remedy="soap.wsdl",
                )
            return self._fetch(url)
        if self._remote:
            raise SourceFailed(
                f"the WSDL imports {url}; one that came by URL may not read local files",
                touched=False,
                remedy="soap.wsdl",
            )
        path = Path(url2pathname(urlsplit(url).path)) if url.lower().startswith("file:") else Path(url)
        try:
            return path.read_bytes()
        except OSError as exc:
            raise SourceFailed(f"{path} can't be read: {exc.strerror}", touched=False, remedy="soap.wsdl") from exc


def _is_url(location: str) -> bool:
    return location.lower().startswith(("http://", "https://"))


def _words(exc: Exception) -> str:
    return f"{exc}" if isinstance(exc, zeep.exceptions.Error) else f"{type(exc).__name__}: {exc}"
