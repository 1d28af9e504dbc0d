"""What the soap tests talk to besides the real service: throw-away certificates, and a server that misbehaves."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SOAP = "http://schemas.xmlsoap.org/soap/envelope/"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as PEM; ``private`` is the key itself."""

    certificate: str
    key: str
    private: ec.EllipticCurvePrivateKey
    parsed: x509.Certificate


def issue(name: str, by: Pair | None = None) -> Pair:
    """Return an authority, or a certificate for 127.0.0.1 signed ``by`` one."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.parsed.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
    signed = builder.sign(by.private if by else key, hashes.SHA256())
    return Pair(
        signed.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
        key,
        signed,
    )


def envelope(body: str) -> bytes:
    """Return a SOAP 1.1 envelope around ``body``."""
    return f'<s:Envelope xmlns:s="{SOAP}"><s:Body>{body}</s:Body></s:Envelope>'.encode()


def answer(body: bytes, status: str = "200 OK", kind: str = "text/xml", more: str = "") -> bytes:
    """Return a whole HTTP reply."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


@dataclass
class Misbehaving:
    """A server that answers every request as it is told, and remembers what it read."""

    port: int
    requests: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/x"


Behaviour = Callable[[socket.socket], None]


@contextlib.contextmanager
def misbehaving(behave: Behaviour | bytes) -> Iterator[Misbehaving]:
    """
    Start a server; ``behave`` gets each connection once the request was read, or is the reply.

    It is for what the real service can't be made to do.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Misbehaving(listener.getsockname()[1])

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    server.requests.append(_read(connection))
                    if isinstance(behave, bytes):
                        connection.sendall(behave)
                    else:
                        behave(connection)

        thread = threading.Thread(target=serve, name="misbehaving", daemon=True)
        thread.start()
        try:
            yield server
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join(10)


def _read(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65_536)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    wanted = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
    )
    while len(body) < wanted:
        piece = connection.recv(65_536)
        if not piece:
            break
        body += piece
    return head + b"\r\n\r\n" + body
