"""Rows as Arrow, from a database through both programs to who asked for them so."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cloud_broker.client.api import Outhaul
from config.dev.databases import HOST, Postgres
from config.dev.demo.programs import script
from tests.whole.site import AgentSite, Broker, Caller, agent, broker, peak_bytes

MIB = 1_048_576
ARROW = "application/vnd.apache.arrow.stream"
LINES = """
SELECT n AS id, 'line ' || n AS text, (n * 1.25)::numeric(12,2) AS amount, date '2026-01-01' + n % 1000 AS day
FROM (SELECT generate_series(1, :count) AS n) AS s
"""
FILE = """
link.proxy = "none"

[connections.erp]
type = "odbc"
connection_string = "Driver={{PostgreSQL Unicode}};Server={host};Port={port};Database=erp;Uid={user};Pwd={{secret:erp}}"

[operations.lines]
connection = "erp"
sql = '''{lines}'''
effect = "read"
timeout = "5min"
params.count = {{ type = "integer" }}

[operations.sleep]
connection = "erp"
sql = "SELECT pg_sleep(120)::text AS slept"
effect = "read"
timeout = "5min"

[operations.write]
connection = "erp"
sql = "SELECT 1 AS a"
effect = "idempotent"

[connections.probe]
type = "synthetic"

[operations.made-up]
connection = "probe"
synthetic = "rows"
effect = "read"
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Caller]]:
    """A broker of these tests' own, and a tenant."""
    with broker(tmp_path_factory.mktemp("broker")) as made, made.tenant("acme") as caller:
        yield made, caller


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, platform: tuple[Broker, Caller], postgres: Postgres
) -> Iterator[AgentSite]:
    """An agent of these tests' own, online."""
    file = FILE.format(host=HOST, port=postgres.port, user=postgres.user, lines=LINES)
    made = AgentSite(tmp_path_factory.mktemp("agent"), file)
    made.secret("erp", postgres.password)
    with agent(made, *platform) as linked:
        yield linked


@pytest.fixture
def caller(platform: tuple[Broker, Caller], site: AgentSite) -> Caller:
    """A caller whose agent is there."""
    return platform[1]


def table(caller: Caller, command: dict[str, Any]) -> pa.Table:
    answer = caller.get(f"/v1/commands/{command['id']}/rows", headers={"Accept": ARROW})
    assert (answer.status_code, answer.headers["content-type"]) == (200, ARROW), answer.text
    return pa.ipc.open_stream(answer.content).read_all()


@pytest.mark.parametrize("count", [0, 1, 3_000, 60_000])
def test_the_rows_are_those_of_ndjson(caller: Caller, count: int) -> None:
    command = caller.run("lines", {"count": count}, rows_as="arrow")
    assert command["state"] == "succeeded", command
    [shown] = command["row_sets"]
    assert (shown["rows"], shown["rows_as"], command["rows_as"]) == (count, "arrow", "arrow")
    assert [column["type"] for column in shown["columns"]] == ["integer", "string", "decimal", "date"]
    found = table(caller, command)
    kinds = [pa.int32(), pa.utf8(), pa.decimal128(12, 2), pa.date32()]
    assert [field.type for field in found.schema] == kinds
    plain = caller.rows(caller.run("lines", {"count": count}))
    told = [{**row, "amount": str(row["amount"]), "day": row["day"].isoformat()} for row in found.to_pylist()]
    assert told == plain


def test_they_are_read_while_they_come_in_little_memory(
    platform: tuple[Broker, Caller], site: AgentSite, caller: Caller
) -> None:
    caller.run("lines", {"count": 30_000}, rows_as="arrow")
    before = peak_bytes(platform[0].program.pid), peak_bytes(site.program.pid)
    count = 400_000
    with Outhaul(str(caller.base_url), caller.key) as client:
        command = client.call("plant-1", "lines", {"count": count}, rows_as="arrow")
        with client.arrow(command.id) as file:
            batches = pa.ipc.open_stream(file)
            first = batches.read_next_batch()
            assert not client.command(command.id).final
            assert first.num_rows + sum(batch.num_rows for batch in batches) == count
    after = peak_bytes(platform[0].program.pid), peak_bytes(site.program.pid)
    assert [late - early < 16 * MIB for late, early in zip(after, before, strict=True)] == [True, True]


def test_the_agent_itself_loads_nothing_of_arrow(caller: Caller, site: AgentSite) -> None:
    caller.run("lines", {"count": 1}, rows_as="arrow")
    assert "arrow" not in Path(f"/proc/{site.program.pid}/maps").read_text()


def test_the_command_line_writes_them_to_a_file(caller: Caller, tmp_path: Path) -> None:
    environment = {**os.environ, "OUTHAUL_URL": str(caller.base_url), "OUTHAUL_KEY": caller.key}
    words = [script("outhaul"), "call", "plant-1", "lines", "count=5", "--format", "arrow"]
    done = subprocess.run(words, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert pa.ipc.open_stream(done.stdout).read_all()["id"].to_pylist() == [1, 2, 3, 4, 5]
    assert b"5 rows in" in done.stderr


@pytest.mark.parametrize(
    ("operation", "wanted", "status", "told"),
    [
        ("write", {"rows_as": "arrow"}, 409, "idempotent"),
        ("made-up", {"rows_as": "arrow"}, 409, "plant-1 can't give the rows of made-up as Arrow"),
        ("lines", {"rows_as": "parquet"}, 400, "rows_as"),
        ("lines", {"rows_as": "arrow", "seal_to": "x25519:" + "A" * 43 + "="}, 400, "ndjson only"),
    ],
)
def test_what_cant_come_as_arrow_is_refused_at_once(
    caller: Caller, operation: str, wanted: dict[str, str], status: int, told: str
) -> None:
    answer = caller.submit(operation, {"count": 1} if operation != "write" else {}, **wanted)
    assert answer.status_code == status, answer.text
    assert told in answer.text


def test_the_same_key_is_not_for_another_format(caller: Caller) -> None:
    headers = {"Idempotency-Key": "arrow-or-not"}
    first = caller.submit("lines", {"count": 1}, headers=headers)
    assert caller.submit("lines", {"count": 1}, headers=headers).json()["id"] == first.json()["id"]
    assert caller.submit("lines", {"count": 1}, headers=headers, rows_as="arrow").status_code == 422


def test_the_operation_says_that_it_can(caller: Caller) -> None:
    items = caller.get("/v1/agents/plant-1/operations").json()["items"]
    assert {item["name"]: item.get("rows_as", []) for item in items} == {
        "lines": ["arrow"],
        "made-up": [],
        "sleep": ["arrow"],
        "write": [],
    }


def test_a_cancel_stops_the_database(caller: Caller, postgres: Postgres) -> None:
    command = caller.submit("sleep", rows_as="arrow").json()
    while caller.get(f"/v1/commands/{command['id']}").json()["state"] != "running":
        pass
    while caller.get(f"/v1/commands/{command['id']}", params={"wait": 0.2}).json()["finished_at"] is None:
        caller.post(f"/v1/commands/{command['id']}/cancel")
    assert caller.final(command)["state"] == "cancelled"
