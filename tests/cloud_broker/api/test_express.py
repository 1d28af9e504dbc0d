"""The short way to some routes: it answers as the framework's would."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute

from cloud_broker.api import commands
from cloud_broker.api.express import ROUTES
from cloud_broker.settings import LimitSettings
from tests.cloud_broker.api.broker import Broker, running

BODY = {"agent": "plant-1", "operation": "post", "params": {"name": "x"}}


def test_each_route_is_the_one_that_is_described() -> None:
    described = {
        (method.encode(), route.path.encode()): route.endpoint
        for route in commands.router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert ROUTES
    for place, route in ROUTES.items():
        assert described[place] is route


async def test_a_word_too_many_in_the_query_is_refused_there_too(tmp_path: Path) -> None:
    async with running(tmp_path) as broker, broker.client(await broker.key("acme")) as acme:
        answer = await acme.post("/v1/commands?wait=1", json=BODY)
    assert (answer.status_code, answer.json()["code"]) == (400, "request_invalid")
    assert "'wait'" in answer.json()["detail"]


async def test_what_nobody_foresaw_is_a_500_without_its_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as broker, broker.client(await broker.key("acme")) as acme:

        async def broken(*_: Any) -> None:
            raise ZeroDivisionError("a secret inside")

        monkeypatch.setattr(broker.commands, "submit", broken)
        answer = await acme.post("/v1/commands", json=BODY)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "ratelimit" in answer.headers
    assert "inside" not in answer.text
    assert "POST /v1/commands failed" in caplog.text


def by_hand(broker: Broker, key: str, *more: str, version: str = "1.1") -> bytes:
    """Return a submission as it is sent, with some headers more."""
    body = json.dumps(BODY).encode()
    head = [
        f"POST /v1/commands HTTP/{version}",
        f"Host: {httpx2.URL(broker.url).host}",
        f"Authorization: Bearer {key}",
        f"Content-Length: {len(body)}",
        *more,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


async def sent(broker: Broker, *pieces: bytes) -> bytes:
    """Send something by hand; return all that is said until the connection ends."""
    url = httpx2.URL(broker.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


async def test_requests_that_do_not_wait_for_each_other_are_answered_in_order(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        key = await broker.key("acme")
        health = f"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        one, last = by_hand(broker, key), by_hand(broker, key, "Connection: close")
        said = await sent(broker, one + one + health + last)
    heads = [head for head in said.split(b"HTTP/1.1 ") if head]
    assert [head[:3] for head in heads] == [b"202", b"202", b"200", b"202"]
    assert [b"location: " in head for head in heads] == [True, True, False, True]
    assert [b"connection: close" in head for head in heads] == [False, False, False, True]


async def test_a_caller_that_knows_no_later_requests_is_answered_once(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        said = await sent(broker, by_hand(broker, await broker.key("acme"), version="1.0"))
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 202 ")
    assert b"connection: close" in head
    assert json.loads(body)["operation"] == "post"


async def test_a_body_is_sent_for_where_its_caller_waits_for_that(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        request = by_hand(broker, await broker.key("acme"), "Expect: 100-continue", "Connection: close")
        head, _, body = request.partition(b"\r\n\r\n")
        said = await sent(broker, head + b"\r\n\r\n", body)
    assert said.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 ")


async def test_a_proxy_is_believed_whom_a_wrong_key_came_from(tmp_path: Path) -> None:
    async with (
        running(tmp_path, limits=LimitSettings(wrong_keys_per_min=1)) as broker,
        broker.client("ohk_no") as wrong,
    ):
        asked = [
            await wrong.post("/v1/commands", json=BODY, headers={"X-Forwarded-For": f"192.0.2.{n}"}) for n in (1, 2, 1)
        ]
    assert [answer.status_code for answer in asked] == [401, 401, 429]
