"""Rows over HTTP: formats, streaming while they come, readers that stop, results that are cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from cloud_broker.errors import ResultGone
from tests.cloud_broker.api.broker import Broker, Rows, nothing

BODY = {"agent": "plant-1", "operation": "rows"}
LINES = b'{"no":"1","total":"1.10"}\n{"no":null,"total":"2"}\n'


async def rows_of(broker: Broker, acme: httpx2.AsyncClient, rows: Rows) -> str:
    """Submit a command, give it rows, return their path."""
    place: str = (await acme.post("/v1/commands", json=BODY)).headers["location"]
    broker.commands.rows[place.rpartition("/")[2]] = rows
    return f"{place}/rows"


async def two_rows() -> AsyncIterator[bytes]:
    yield LINES[:30]
    yield LINES[30:]


@pytest.mark.parametrize(
    ("query", "accept", "kind", "body"),
    [
        ("", "*/*", "application/x-ndjson", LINES),
        ("", "application/x-ndjson", "application/x-ndjson", LINES),
        ("", "text/csv", "text/csv; charset=utf-8; header=present", b"no,total\r\n1,1.10\r\n,2\r\n"),
        ("?format=csv", "application/json", "text/csv; charset=utf-8; header=present", b"no,total\r\n1,1.10\r\n,2\r\n"),
        ("?format=ndjson", "text/csv", "application/x-ndjson", LINES),
        ("?set=0", "text/csv;q=0.5, application/x-ndjson;q=0.1", "text/csv; charset=utf-8; header=present", None),
    ],
)
async def test_rows_come_in_the_format_that_is_wanted(
    broker: Broker, acme: httpx2.AsyncClient, query: str, accept: str, kind: str, body: bytes | None
) -> None:
    path = await rows_of(broker, acme, Rows(pieces=two_rows))

    answer = await acme.get(path + query, headers={"Accept": accept})

    assert answer.status_code == 200
    assert answer.headers["content-type"] == kind
    assert body is None or answer.content == body


async def test_no_rows_are_an_empty_body(broker: Broker, acme: httpx2.AsyncClient) -> None:
    path = await rows_of(broker, acme, Rows(pieces=nothing))

    answer = await acme.get(path)

    assert answer.status_code == 200
    assert answer.content == b""


@pytest.mark.parametrize("accept", ["application/json", "application/vnd.apache.arrow.stream", "text/csv;q=0"])
async def test_other_formats_are_406(broker: Broker, acme: httpx2.AsyncClient, accept: str) -> None:
    path = await rows_of(broker, acme, Rows(pieces=two_rows))

    answer = await acme.get(path, headers={"Accept": accept})

    assert answer.status_code == 406
    assert answer.json()["code"] == "not_acceptable"


SEALED = bytes(range(256))


async def sealed_rows() -> AsyncIterator[bytes]:
    yield SEALED


@pytest.mark.parametrize("accept", ["*/*", "application/octet-stream", "application/json, application/*;q=0.1"])
async def test_sealed_rows_come_as_they_are(broker: Broker, acme: httpx2.AsyncClient, accept: str) -> None:
    path = await rows_of(broker, acme, Rows((), sealed_rows, sealed=True))

    answer = await acme.get(path, headers={"Accept": accept})

    assert (answer.status_code, answer.content) == (200, SEALED)
    assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("query", "accept"),
    [("", "application/x-ndjson"), ("", "text/csv"), ("?format=csv", "*/*"), ("?format=ndjson", "")],
)
async def test_sealed_rows_are_never_taken_for_others(
    broker: Broker, acme: httpx2.AsyncClient, query: str, accept: str
) -> None:
    path = await rows_of(broker, acme, Rows((), sealed_rows, sealed=True))

    answer = await acme.get(path + query, headers={"Accept": accept})

    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["sealed"]) == (406, "not_acceptable", True)
    assert "--seal-key" in problem["detail"]


async def test_rows_in_clear_are_never_taken_for_sealed_ones(broker: Broker, acme: httpx2.AsyncClient) -> None:
    path = await rows_of(broker, acme, Rows(pieces=two_rows))

    answer = await acme.get(path, headers={"Accept": "application/octet-stream"})

    assert answer.status_code == 406
    assert "are not sealed" in answer.json()["detail"]


async def test_rows_are_sent_while_others_are_still_to_come(broker: Broker, acme: httpx2.AsyncClient) -> None:
    more = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield LINES[:26]
        await more.wait()
        yield LINES[26:]

    path = await rows_of(broker, acme, Rows(pieces=slowly))

    async with acme.stream("GET", path) as answer:
        pieces = answer.aiter_raw()
        assert await anext(pieces) == LINES[:26]
        more.set()
        assert await anext(pieces) == LINES[26:]


@pytest.mark.parametrize("format", ["ndjson", "csv"])
async def test_a_cut_result_never_ends_well(broker: Broker, acme: httpx2.AsyncClient, format: str) -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield LINES
        raise ResultGone("the agent was lost")

    path = await rows_of(broker, acme, Rows(pieces=cut))

    with pytest.raises(httpx2.RemoteProtocolError, match="incomplete"):
        await acme.get(f"{path}?format={format}")


async def test_a_result_that_is_gone_before_its_first_byte_is_410(broker: Broker, acme: httpx2.AsyncClient) -> None:
    async def gone() -> AsyncIterator[bytes]:
        raise ResultGone("removed")
        yield b""

    path = await rows_of(broker, acme, Rows(pieces=gone))

    answer = await acme.get(path)

    assert answer.status_code == 410
    assert answer.json()["code"] == "result_gone"


async def test_a_bug_while_rows_are_sent_never_ends_well(broker: Broker, acme: httpx2.AsyncClient) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield LINES
        raise KeyError("no such thing")

    path = await rows_of(broker, acme, Rows(pieces=broken))

    with pytest.raises(httpx2.RemoteProtocolError, match="incomplete"):
        await acme.get(path)


async def test_a_reader_that_leaves_ends_the_reading_at_once(broker: Broker, acme: httpx2.AsyncClient) -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield LINES
            await asyncio.Event().wait()
        finally:
            closed.set()

    path = await rows_of(broker, acme, Rows(pieces=endless))

    async with acme.stream("GET", path) as answer:
        assert await anext(answer.aiter_raw()) == LINES
    async with asyncio.timeout(10):
        await closed.wait()


async def test_a_reader_that_stalls_holds_the_rows_back(broker: Broker, acme: httpx2.AsyncClient) -> None:
    piece = (LINES * 2000)[: 64 * 1024]
    given = 0
    stalled = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += len(piece)
            yield piece

    path = await rows_of(broker, acme, Rows(pieces=endless))

    async with acme.stream("GET", path) as answer:
        await anext(answer.aiter_raw())
        before = -1
        async with asyncio.timeout(10):
            while before != given:  # until a turn of the loop brings no more
                before = given
                asyncio.get_running_loop().call_later(0.2, stalled.set)
                await stalled.wait()
                stalled.clear()
    assert given < 32 * 1024 * 1024


async def test_http_1_0_gets_no_rows(broker: Broker, acme: httpx2.AsyncClient) -> None:
    path = await rows_of(broker, acme, Rows(pieces=two_rows))
    url = httpx2.URL(broker.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"GET {path} HTTP/1.0\r\nAuthorization: {acme.headers['authorization']}\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()

    assert b"400 Bad Request" in answer
    assert b"HTTP/1.1" in answer.partition(b"\r\n\r\n")[2]


ARROW = "application/vnd.apache.arrow.stream"


@pytest.mark.parametrize("accept", [ARROW, "*/*", f"application/x-ndjson, {ARROW};q=0.1"])
async def test_what_was_asked_for_as_arrow_comes_as_it_was_sent(
    broker: Broker, acme: httpx2.AsyncClient, accept: str
) -> None:
    path = await rows_of(broker, acme, Rows(pieces=sealed_rows, rows_as="arrow"))

    answer = await acme.get(path, headers={"Accept": accept})

    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, ARROW, SEALED)


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/csv"])
async def test_what_was_asked_for_as_arrow_comes_as_nothing_else(
    broker: Broker, acme: httpx2.AsyncClient, accept: str
) -> None:
    path = await rows_of(broker, acme, Rows(pieces=sealed_rows, rows_as="arrow"))

    answer = await acme.get(path, headers={"Accept": accept})

    assert answer.status_code == 406
    assert "without rows_as" in answer.json()["detail"]
