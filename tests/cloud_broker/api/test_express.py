"""The short way to some routes: it answers as the framework's would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from cloud_broker.api import commands
from cloud_broker.api.express import ROUTES
from tests.cloud_broker.api.broker import running

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
