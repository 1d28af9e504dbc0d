"""An agent that is no more than its certificates: real TLS to a real broker, and every message by hand."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from websockets import Subprotocol
from websockets.asyncio.client import ClientConnection, connect

from cloud_broker.api.services import Services
from cloud_broker.app import running
from cloud_broker.identity.authority import Authority
from cloud_broker.settings import ApiSettings, LinkSettings, Settings
from cloud_broker.tenants import Scope
from config.dev.databases import free_port
from protocol import codec, signing
from protocol.codec import Record
from protocol.messages import (
    RENEWAL,
    AnyMessage,
    Beat,
    Enrol,
    Enrolled,
    Hello,
    Holding,
    Limits,
    Recover,
    Renew,
    Renewed,
    Welcome,
)
from tests.agent.link.certificates import csr

ACME = Scope("acme")
M = TypeVar("M", bound=AnyMessage)


@contextlib.asynccontextmanager
async def broker(folder: Path, **changed: Any) -> AsyncIterator[Services]:
    """A broker as its program runs it, with the tenant acme; ``changed`` are tables of its file."""
    (folder / "data").mkdir(exist_ok=True)
    link = {"listen": f"127.0.0.1:{free_port()}"} | changed.pop("link", {})
    settings = Settings(
        data_dir=folder / "data",
        api=ApiSettings(listen=f"127.0.0.1:{free_port()}"),
        link=LinkSettings.model_validate(link),
        **changed,
    )
    if not (settings.data_dir / "ca.crt").exists():
        Authority.create(settings.data_dir, time.time())
    async with running(settings) as services:
        if await services.store.tenant("acme") is None:
            await services.store.create_tenant("acme", time.time())
        yield services


def secret_of(token: str) -> str:
    """The secret in a token."""
    body = token.partition(".")[2]
    secret: str = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["secret"]
    return secret


class Link:
    """A link, record by record."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self._heard: list[Record] = []

    async def say(self, message: AnyMessage, payload: bytes = b"") -> None:
        await self.connection.send(codec.encode(Record(message, payload)))

    async def hear(self, kind: type[M] | tuple[type[M], ...]) -> tuple[M, bytes]:
        """The next record, which must be of this kind; signs of life are passed over."""
        async with asyncio.timeout(10):
            while not self._heard:
                records = codec.decode(await self.connection.recv(decode=False))
                self._heard = [record for record in records if not isinstance(record.message, Beat)]
        record = self._heard.pop(0)
        assert isinstance(record.message, kind), record.message
        return record.message, bytes(record.payload)

    async def greet(self, *, features: tuple[str, ...] = (RENEWAL,), **told: Any) -> Welcome:
        own = Limits(max_running=1, remembers=10_000)
        await self.say(Hello([1], "0", list(features), own, "journal", time.time(), **told))
        welcome, _ = await self.hear(Welcome)
        return welcome

    async def hold(self) -> None:
        await self.say(Holding([]))


class PlainAgent:
    """
    Keys and certificates of one agent.

    Attributes:
        key: private, of ``certificate`` (DER).
        authorities: DER, whom it trusts.
        between: certificates between its own and whom the broker trusts.
        told: whom the broker said that it should trust when it enrolled.
    """

    def __init__(self, folder: Path, url: str, authorities: list[bytes], certificate: bytes = b"") -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.url = url
        self.authorities = authorities
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = certificate
        self.told: list[str] = []
        self.between: list[x509.Certificate] = []

    @classmethod
    async def enrolled(
        cls, folder: Path, services: Services, name: str = "plant-1", url: str = "", group: str | None = None
    ) -> PlainAgent:
        """One that showed a token."""
        text, _ = await services.issue_token(ACME, name, group, 60.0, "test")
        body = text.partition(".")[2]
        token = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        made = cls(folder, url or token["url"], [base64.b64decode(token["ca"])])
        answer, certificate = await made.ask(Enrol(token["secret"], "r1", "0"), csr(made.key))
        assert isinstance(answer, Enrolled), answer
        made.certificate, made.told = certificate, answer.authorities
        return made

    @property
    def serial(self) -> str:
        return f"{x509.load_der_x509_certificate(self.certificate).serial_number:040x}"

    @property
    def trusts(self) -> list[str]:
        return [hashlib.sha256(der).hexdigest() for der in self.authorities]

    def context(self, *, shown: bool = True) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        for der in self.authorities:
            context.load_verify_locations(cadata=der)
        if shown:
            pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            path = self.folder / f"{self.serial}.pem"
            chain = [x509.load_der_x509_certificate(self.certificate), *self.between]
            path.write_bytes(pem + b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain))
            context.load_cert_chain(path)
        return context

    def dial(self, path: str = "/link", *, shown: bool = True, **more: Any) -> connect:
        return connect(
            self.url + path,
            ssl=self.context(shown=shown),
            subprotocols=[Subprotocol("outhaul.1")],
            compression=None,
            ping_interval=None,
            proxy=None,
            **more,
        )

    @contextlib.asynccontextmanager
    async def link(self, **told: Any) -> AsyncIterator[tuple[Link, Welcome]]:
        """A link that was welcomed."""
        async with self.dial() as connection:
            link = Link(connection)
            yield link, await link.greet(**{"trusts": self.trusts} | told)

    async def ask(self, message: AnyMessage, payload: bytes) -> tuple[AnyMessage, bytes]:
        """Ask something at /enrol, as one without a certificate."""
        async with self.dial("/enrol", shown=False) as connection:
            await connection.send(codec.encode(Record(message, payload)))
            (record,) = codec.decode(await connection.recv(decode=False))
            return record.message, bytes(record.payload)

    async def renewed(self, link: Link, request: str = "n1") -> tuple[Renewed, PlainAgent]:
        """Ask for the next certificate; return the answer, and the agent as it would be with it."""
        following = PlainAgent(self.folder, self.url, self.authorities)
        await link.say(Renew(request), csr(following.key))
        answer, following.certificate = await link.hear(Renewed)
        return answer, following

    async def recovered(
        self, request: str = "n1", key: ec.EllipticCurvePrivateKey | None = None, wrong: dict[str, str] | None = None
    ) -> tuple[AnyMessage, PlainAgent]:
        """Ask for another certificate with one that has run out, for a key of before or a new one."""
        following = PlainAgent(self.folder, self.url, self.authorities)
        following.key = key or following.key
        asked = csr(following.key)
        signature = self.key.sign(signing.recovery(request, asked), ec.ECDSA(hashes.SHA256()))
        message = Recover(
            base64.b64encode(self.certificate).decode(), request, base64.b64encode(signature).decode(), "0"
        )
        answer, following.certificate = await self.ask(msgspec.structs.replace(message, **(wrong or {})), asked)
        return answer, following

    async def proven(self) -> dict[str, Any]:
        """What /prove says."""
        async with self.dial("/prove") as connection:
            found: dict[str, Any] = json.loads(await connection.recv())
        return found


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
