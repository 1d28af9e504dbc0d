"""
Every error is one shape: application/problem+json with type, title, status, detail and code.

``type`` is ``urn:outhaul:problem:`` and the code with dashes; status and code are those of ``errors.py``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from cloud_broker import errors
from cloud_broker.tenants import Scope
from tests.cloud_broker.api.broker import Broker, running

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROUTES = [
    ("GET", "/v1/commands", "commands:read"),
    ("POST", "/v1/commands", "commands:write"),
    ("GET", "/v1/commands/cmd_1", "commands:read"),
    ("POST", "/v1/commands/cmd_1/cancel", "commands:write"),
    ("GET", "/v1/commands/cmd_1/rows", "commands:read"),
    ("GET", "/v1/agents", "agents:read"),
    ("GET", "/v1/agents/plant-1", "agents:read"),
    ("GET", "/v1/agents/plant-1/operations", "agents:read"),
    ("POST", "/v1/agents/plant-1/tokens", "agents:write"),
    ("POST", "/v1/agents/plant-1/revoke", "agents:write"),
    ("GET", "/v1/tenants", "tenant:admin"),
    ("POST", "/v1/tenants", "tenant:admin"),
    ("GET", "/v1/keys", "tenant:admin"),
    ("POST", "/v1/keys", "tenant:admin"),
    ("POST", "/v1/keys/k/revoke", "tenant:admin"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="broker")
async def _broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broker]:
    async with running(tmp_path_factory.mktemp("broker")) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="acme")
async def _acme(broker: Broker) -> AsyncIterator[httpx2.AsyncClient]:
    async with broker.client(await broker.key("acme")) as client:
        yield client


def assert_problem(answer: httpx2.Response, kind: type[errors.BrokerError]) -> dict[str, object]:
    """Assert the one shape, and return the document."""
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = answer.json()
    assert answer.status_code == document["status"] == kind.status
    assert document["code"] == kind.code
    assert document["type"] == f"urn:outhaul:problem:{kind.code.replace('_', '-')}"
    assert document["title"] == kind.title
    assert document["detail"]
    return document


@pytest.mark.parametrize(("method", "path", "_scope"), ROUTES)
async def test_every_route_wants_a_key(broker: Broker, method: str, path: str, _scope: str) -> None:
    async with broker.client() as nobody:
        answer = await nobody.request(method, path)

    assert_problem(answer, errors.Unauthenticated)
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
async def test_every_route_wants_its_scope(broker: Broker, method: str, path: str, scope: str) -> None:
    async with broker.client(await broker.key("acme", "events:read")) as client:
        document = assert_problem(await client.request(method, path), errors.Forbidden)
    assert document["scope"] == scope
    async with broker.client(await broker.key("acme", scope)) as client:
        assert (await client.request(method, path)).status_code not in (401, 403) or path == "/v1/tenants"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/", "/v1", "/v1/commands/", "/v1/nothing", "/docs", "/v1/commands/a/b/c"])
async def test_an_unknown_route_is_a_problem(acme: httpx2.AsyncClient, method: str, path: str) -> None:
    assert_problem(await acme.request(method, path), errors.NotFound)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/commands", "GET, POST"),
        ("DELETE", "/v1/commands/cmd_1", "GET"),
        ("GET", "/v1/commands/cmd_1/cancel", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("POST", "/openapi.json", "GET, HEAD"),
    ],
)
async def test_another_method_is_told_the_right_ones(
    acme: httpx2.AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await acme.request(method, path)

    assert_problem(answer, errors.MethodNotAllowed)
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/v1/commands/{id}", "/v1/commands/{id}/rows", "/v1/commands/{id}?wait=1"])
async def test_another_tenants_command_looks_like_none(broker: Broker, acme: httpx2.AsyncClient, path: str) -> None:
    async with broker.client(await broker.key("other")) as other:
        theirs = (await other.post("/v1/commands", json={"agent": "a", "operation": "o"})).json()["id"]

    unknown = await acme.get(path.format(id="cmd_00000000000000000000000000"))
    foreign = await acme.get(path.format(id=theirs))

    assert_problem(foreign, errors.CommandNotFound)
    assert foreign.content == unknown.content
    assert (await acme.post(f"/v1/commands/{theirs}/cancel")).status_code == 404


async def test_another_tenants_agent_looks_like_none(broker: Broker) -> None:
    async with broker.client(await broker.key("other")) as other:
        for path in ("/v1/agents/{name}", "/v1/agents/{name}/operations"):
            foreign = await other.get(path.format(name="plant-1"))
            unknown = await other.get(path.format(name="plant-9"))
            assert assert_problem(foreign, errors.AgentNotFound)["agents"] == []
            assert foreign.content.replace(b"plant-1", b"plant-9") == unknown.content
        assert_problem(await other.post("/v1/agents/plant-1/revoke"), errors.AgentNotFound)


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (errors.StoreUnavailable("full", retry_after_s=4.2), {"retry-after": "5"}),
        (errors.Unavailable("busy"), {}),
        (errors.ParametersInvalid("bad", errors=[{"name": "a", "reason": "b"}]), {}),
        (errors.OperationNotFound("none", operations=["echo"]), {}),
    ],
)
async def test_what_the_commands_raise_is_answered_with_all_its_members(
    broker: Broker,
    acme: httpx2.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    error: errors.BrokerError,
    headers: dict[str, str],
) -> None:
    async def refuse(scope: Scope, command_id: str) -> None:
        raise error

    monkeypatch.setattr(broker.commands, "get", refuse)

    answer = await acme.get("/v1/commands/cmd_1")

    document = assert_problem(answer, type(error))
    assert document.items() >= error.extra.items()
    assert answer.headers.items() >= headers.items()


async def test_an_error_nobody_foresaw_says_nothing_of_its_inside(
    broker: Broker, acme: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(scope: Scope, command_id: str) -> None:
        raise KeyError("hunter2")

    monkeypatch.setattr(broker.commands, "get", fail)

    with caplog.at_level(logging.ERROR):
        answer = await acme.get("/v1/commands/cmd_1")

    assert_problem(answer, errors.BrokerError)
    assert b"hunter2" not in answer.content
    [record] = [record for record in caplog.records if record.name.startswith("cloud_broker")]
    assert record.exc_info is not None


async def test_a_caller_that_leaves_within_its_body_breaks_nothing(
    broker: Broker, acme: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    url = httpx2.URL(broker.url)
    _, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST /v1/commands HTTP/1.1\r\nHost: a\r\nAuthorization: {acme.headers['authorization']}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    assert (await acme.get("/healthz")).status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def _tree(kind: type[errors.BrokerError], depth: int = 0) -> list[str]:
    name = f"{'    ' * depth}* {kind.__name__}"
    lines = [f"{name:<45} {kind.status}  {kind.code}"]
    for child in kind.__subclasses__():
        lines += _tree(child, depth + 1)
    return lines


async def test_the_tree_of_errors_is_as_its_docstring_says() -> None:
    told = [line for line in (errors.__doc__ or "").splitlines() if line.lstrip().startswith("*")]

    assert [line.split() for line in told] == [line.split() for line in _tree(errors.BrokerError)]
    assert [line.index("*") for line in told] == [line.index("*") for line in _tree(errors.BrokerError)]


async def test_every_kind_of_error_has_its_own_code() -> None:
    codes = [line.split()[-1] for line in _tree(errors.BrokerError)]

    assert len(set(codes)) == len(codes)
    reference = (Path(__file__).parents[3] / "docs/reference/http-api.md").read_text("utf-8")
    for code in codes:
        assert f"`{code}`" in reference
