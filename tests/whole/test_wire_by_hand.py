"""
An agent written after ``docs/reference/wire.md``, without our protocol package, against a real broker.

If this has to change, agents of other people have to change too.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import ssl
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets import Subprotocol
from websockets.asyncio.client import ClientConnection, connect

from cloud_broker.api.services import Services
from cloud_broker.app import running
from cloud_broker.commands import Submission
from cloud_broker.identity.authority import Authority
from cloud_broker.settings import ApiSettings, LinkSettings, Settings
from cloud_broker.tenants import Scope
from config.dev.databases import free_port

ACME = Scope("acme")
ROWS = b'{"no":1,"name":"Bolt"}\n{"no":2,"name":"Nut"}\n'
CATALOGUE = json.dumps(
    {
        "operations": [
            {"name": "stock", "connection": "erp", "effect": "read", "params": {"type": "object"}},
        ],
        "connections": [{"name": "erp", "max_concurrent": 1}],
    }
).encode()


def record(kind: str, payload: bytes = b"", **members: Any) -> bytes:
    """One record: two lengths, the header, the payload."""
    header = json.dumps({"kind": kind, **members}).encode()
    return struct.pack(">II", len(header), len(payload)) + header + payload


async def heard(link: ClientConnection) -> list[tuple[dict[str, Any], bytes]]:
    """The records of the next message, but for signs of life."""
    data = await link.recv(decode=False)
    found = []
    while data:
        header, payload = struct.unpack(">II", data[:8])
        found.append((json.loads(data[8 : 8 + header]), data[8 + header : 8 + header + payload]))
        data = data[8 + header + payload :]
    return [one for one in found if one[0]["kind"] != "Beat"] or await heard(link)


def dial(token: dict[str, str], path: str, context: ssl.SSLContext) -> connect:
    """A websocket as the page wants it."""
    return connect(
        token["url"] + path,
        ssl=context,
        subprotocols=[Subprotocol("outhaul.1")],
        compression=None,
        ping_interval=None,
        proxy=None,
    )


def trusting(token: dict[str, str]) -> ssl.SSLContext:
    """TLS 1.3 that trusts the token's authority and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=base64.b64decode(token["ca"]))
    return context


async def enrolled(token: dict[str, str], folder: Path) -> ssl.SSLContext:
    """Enrol, and return how to dial from then on."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    async with dial(token, "/enrol", trusting(token)) as link:
        asked = {"secret": token["secret"], "request": "r1", "release": "by hand"}
        await link.send(record("Enrol", csr.public_bytes(serialization.Encoding.DER), **asked))
        [(answer, der)] = await heard(link)
    assert (answer["kind"], answer["tenant"], answer["agent"]) == ("Enrolled", "acme", "plant-1")
    certificate = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "agent.pem").write_bytes(secret + certificate)
    context = trusting(token)
    context.load_cert_chain(folder / "agent.pem")
    return context


async def greet(link: ClientConnection, *held: dict[str, Any]) -> None:
    """Say all that comes before commands."""
    limits = {"max_running": 2, "remembers": 10_000}
    await link.send(
        record("Hello", versions=[1], release="by hand", features=[], limits=limits, journal="b1", time=time.time())
    )
    [(welcome, _)] = await heard(link)
    assert (welcome["kind"], welcome["version"], welcome["agent"]) == ("Welcome", 1, "plant-1")
    digest = hashlib.sha256(CATALOGUE).hexdigest()
    await link.send(record("Catalogue", CATALOGUE, digest=digest) + record("Holding", commands=held))


async def read_token(services: Services) -> dict[str, str]:
    """A token, taken apart."""
    await services.store.create_tenant("acme", time.time())
    text, _ = await services.issue_token(ACME, "plant-1", None, 60.0, "test")
    prefix, _, body = text.partition(".")
    assert prefix == "oht1"
    token: dict[str, str] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return token


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a broker on free ports."""
    found = Settings(
        data_dir=tmp_path / "broker",
        api=ApiSettings(listen=f"127.0.0.1:{free_port()}"),
        link=LinkSettings(listen=f"127.0.0.1:{free_port()}"),
    )
    Authority.create(found.data_dir, time.time())
    return found


async def test_an_agent_written_after_the_page_serves_a_real_broker(settings: Settings, tmp_path: Path) -> None:
    async with running(settings) as services:
        token = await read_token(services)
        context = await enrolled(token, tmp_path)
        async with dial(token, "/link", context) as link:
            await greet(link)
            # Nobody knows what can be run there before the catalogue has arrived.
            deadline = time.monotonic() + 30.0
            while not (await services.store.agents(ACME))[0].catalogue:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            wanted = Submission(agent="plant-1", operation="stock", params=b'{"place":"Hamburg"}', ttl_s=60.0)
            command, _ = await services.commands.submit(ACME, wanted)
            [(run, params)] = await heard(link)
            assert (run["kind"], run["id"], run["operation"]) == ("Run", command.id, "stock")
            assert json.loads(params) == {"place": "Hamburg"}
            about = {"id": run["id"], "epoch": run["epoch"]}
            columns = [{"name": "no", "type": "integer"}, {"name": "name", "type": "string"}]
            manifest = [{"bytes": len(ROWS), "rows": 2, "sha256": hashlib.sha256(ROWS).hexdigest()}]
            await link.send(
                record("Accepted", **about)
                + record("Started", **about)
                + record("RowSetBegins", **about, index=0, offset=0, columns=columns)
                # Cut inside a row.
                + record("Chunk", ROWS[:10], **about, offset=0, rows=0)
                + record("Chunk", ROWS[10:], **about, offset=10, rows=2)
            )
        # On another link it goes on where the broker is.
        async with dial(token, "/link", context) as link:
            await greet(link, {**about, "ended": True, "first": 0, "sent": len(ROWS)})
            [(resume, _)] = await heard(link)
            assert resume["kind"] == "Resume"
            offset = resume["offset"]
            again = b""
            if offset == 0:
                again += record("RowSetBegins", **about, index=0, offset=0, columns=columns)
            if offset < len(ROWS):
                again += record("Chunk", ROWS[offset:], **about, offset=offset, rows=2)
            outputs = b'{"found":2}'
            await link.send(again + record("Completed", outputs, **about, outcome="succeeded", row_sets=manifest))
            [(ack, _)] = [one for one in await heard(link) if one[0]["kind"] != "Credit"]
            assert ack == {"kind": "Ack", **about}
            ended = await services.commands.wait(ACME, command.id, 30.0)
            assert (ended.state, ended.outputs, ended.row_sets[0].rows) == ("succeeded", outputs, 2)
            reader = await services.commands.open_rows(ACME, command.id, 0)
            assert b"".join([piece async for piece in reader.chunks()]) == ROWS


async def test_who_breaks_a_rule_is_told_which(settings: Settings, tmp_path: Path) -> None:
    async with running(settings) as services:
        token = await read_token(services)
        async with dial(token, "/link", await enrolled(token, tmp_path)) as link:
            await greet(link)
            await link.send(record("Accepted", id="cmd_1", epoch=1))
            [(goodbye, _)] = await heard(link)
    assert goodbye == {"kind": "Goodbye", "code": "protocol", "reason": "cmd_1: Accepted while it is unknown"}
