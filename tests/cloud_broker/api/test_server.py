"""What a connection may hold without giving anything: by hand, as those come who mean no good."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cloud_broker.settings import ApiSettings, LimitSettings
from tests.cloud_broker.api.broker import Broker, Rows, running
from tests.waiting import until

BODY = {"agent": "plant-1", "operation": "rows"}


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    """A server with short limits, which takes no address for a proxy."""
    limits = LimitSettings(slow_request=0.5, slow_reader=2.0, connections_per_address=4, connections=6)
    async with running(tmp_path, limits=limits, api=ApiSettings(proxies=())) as server:
        yield server


@asynccontextmanager
async def connection(broker: Broker) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect by hand."""
    url = httpx2.URL(broker.url)
    plain = socket.socket()
    # Small, so that what is read here is soon seen there: the systems on both sides keep some megabytes.
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, (url.host, url.port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=65_536)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def answered(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    """Return status and problem of an answer that ends the connection."""
    raw = await reader.read()
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    assert b"connection: close" in head.lower()
    return int(head.split(b" ")[1]), json.loads(body)


async def alive(broker: Broker) -> None:
    async with broker.client() as client:
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("said", [b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: "])
async def test_headers_that_do_not_come_are_not_waited_for(broker: Broker, said: bytes) -> None:
    async with connection(broker) as (reader, writer):
        writer.write(said)
        if said:
            status, problem = await answered(reader)
            assert (status, problem["code"]) == (408, "request_timeout")
        else:
            assert await reader.read() == b""
    await alive(broker)


async def test_headers_that_come_byte_by_byte_are_not_waited_for_either(broker: Broker) -> None:
    async with connection(broker) as (reader, writer):
        dripping = asyncio.create_task(_drip(writer, b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 10_000, 0.02))
        status, problem = await answered(reader)
        dripping.cancel()

    assert (status, problem["code"]) == (408, "request_timeout")


async def test_the_second_request_of_a_connection_is_watched_as_the_first(broker: Broker) -> None:
    async with connection(broker) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GET /healthz HTT")
        rest = await reader.read()

    assert b"HTTP/1.1 408" in rest


async def test_a_body_that_does_not_come_is_not_waited_for(broker: Broker) -> None:
    head = await _head(broker, 1_000)
    async with connection(broker) as (reader, writer):
        writer.write(head + b'{"agent"')
        status, problem = await answered(reader)

    assert (status, problem["code"]) == (408, "request_timeout")
    await alive(broker)


async def test_a_body_that_comes_byte_by_byte_is_cut(broker: Broker) -> None:
    head = await _head(broker, 3_000)
    started = time.monotonic()
    async with connection(broker) as (reader, writer):
        writer.write(head)
        dripping = asyncio.create_task(_drip(writer, b" " * 3_000, 0.01))
        status, _ = await answered(reader)
        dripping.cancel()

    assert status == 408
    assert time.monotonic() - started < 20


async def test_a_body_that_comes_slowly_but_steadily_is_taken(broker: Broker) -> None:
    body = json.dumps(BODY).encode().ljust(3_000)
    head = await _head(broker, len(body))
    async with connection(broker) as (reader, writer):
        writer.write(head)
        # Longer than the time of the headers, and more than a KiB a second.
        for part in range(0, len(body), 300):
            writer.write(body[part : part + 300])
            await writer.drain()
            await asyncio.sleep(0.1)  # the pace is what is tested
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 202")


async def test_a_reader_that_reads_nothing_is_cut_and_one_that_reads_slowly_is_not(broker: Broker) -> None:
    ended = False

    async def endless() -> AsyncIterator[bytes]:
        nonlocal ended
        try:
            while True:
                yield b'{"n":1}\n' * 8_000
        finally:
            ended = True

    async with broker.client(await broker.key("acme")) as client:
        made = (await client.post("/v1/commands", json=BODY)).json()
    broker.commands.rows[made["id"]] = Rows(pieces=endless)
    key = await broker.key("acme")
    asking = f"GET /v1/commands/{made['id']}/rows HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    async with connection(broker) as (reader, writer):
        writer.write(asking)
        for _ in range(30):
            assert await reader.read(100_000)
            await asyncio.sleep(0.05)  # the pace is what is tested
        assert not ended
        # From here on it reads nothing, and the stream behind is given up.
        await until(lambda: ended)
    await alive(broker)


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"GET /%b HTTP/1.1\r\n\r\n" % (b"a" * 8_192), 414, "uri_too_long"),
        (b"GET / HTTP/1.1\r\nX: %b\r\n\r\n" % (b"a" * 33_000), 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nX: %b" % (b"a" * 200_000), 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\n%b\r\n" % (b"X: a\r\n" * 101), 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\n%b" % (b"X: a\r\n" * 20_000), 431, "headers_too_large"),
        (b"GET /%b" % (b"a" * 100_000), 431, "headers_too_large"),
        (b"FLY / HTTP/1.1\r\n\r\n", 400, "request_invalid"),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "request_invalid"),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, "request_invalid"),
        (b"GET / HTTP/1.1\r\nA b: c\r\n\r\n", 400, "request_invalid"),
        (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", 400, "request_invalid"),
    ],
    ids=range(11),
)
async def test_what_is_too_much_or_no_http_is_told_as_a_problem(
    broker: Broker, request_: bytes, status: int, code: str
) -> None:
    async with connection(broker) as (reader, writer):
        writer.write(request_)
        found, problem = await answered(reader)

    assert (found, problem["code"]) == (status, code)
    await alive(broker)


async def test_a_body_that_goes_on_after_its_answer_ends_the_connection(broker: Broker) -> None:
    async with connection(broker) as (reader, writer):
        writer.write(b"POST /v1/commands HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 401")
        with pytest.raises((ConnectionError, TimeoutError)):
            await _pour(writer)


async def test_an_address_has_so_many_connections_and_places_come_free_again(broker: Broker) -> None:
    async with connection(broker), connection(broker), connection(broker), connection(broker):
        async with connection(broker) as (reader, _):
            status, problem = await answered(reader)
        assert (status, problem["code"]) == (429, "too_many_connections")
    async with asyncio.timeout(10):
        while True:
            try:
                await alive(broker)
                return
            except AssertionError:
                pass  # those before are being closed


async def _pour(writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(30):
        while True:
            writer.write(b"10000\r\n" + b"a" * 65_536 + b"\r\n")
            await writer.drain()


async def _drip(writer: asyncio.StreamWriter, text: bytes, pace_s: float) -> None:
    for byte in text:
        writer.write(bytes([byte]))
        await asyncio.sleep(pace_s)  # the pace is what is tested


async def _head(broker: Broker, length: int) -> bytes:
    key = await broker.key("acme")
    return (
        f"POST /v1/commands HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()
