"""The main job, end to end, on real parts."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import time
from decimal import Decimal
from typing import Any

import pyodbc
import pytest

from config.dev.demo.programs import run
from tests.whole.conftest import Whole
from tests.whole.site import children, listening, peak_bytes


def query(connection_string: str, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with pyodbc.connect(connection_string) as connection:
        return [tuple(row) for row in connection.execute(sql, *values).fetchall()]


def test_the_agent_listens_on_no_port(served: Whole) -> None:
    served.caller.run("look", {"text": "x"})
    for pid in [served.agent.program.pid, *children(served.agent.program.pid)]:
        assert listening(pid) == []
    assert served.broker.link_port in listening(served.broker.program.pid)


def test_a_procedure_in_postgresql_returns_its_inout_parameter(served: Whole) -> None:
    ended = served.caller.run("create-order", {"customer": "C042", "total": "99.90"})
    assert ended["state"] == "succeeded", ended
    order_no = ended["outputs"]["order_no"]
    assert query(served.postgres.odbc(), "SELECT customer, total FROM orders WHERE order_no = ?", order_no) == [
        ("C042", Decimal("99.90"))
    ]


def test_a_function_in_postgresql_returns_two_row_sets(served: Whole) -> None:
    ended = served.caller.run("two-sets")
    assert [row_set["rows"] for row_set in ended["row_sets"]] == [2, 1]
    assert served.caller.rows(ended, 0) == [{"n": 1, "word": "one"}, {"n": 2, "word": "two"}]
    assert served.caller.rows(ended, 1) == [{"price": "3.50"}]


def test_a_procedure_in_mariadb_returns_out_parameters_and_two_row_sets(served: Whole) -> None:
    ended = served.caller.run("shop-order", {"customer": "C1", "total": "100.00"})
    assert ended["state"] == "succeeded", ended
    assert Decimal(ended["outputs"]["total"]) == Decimal("119.00")
    assert ended["outputs"]["order_no"].startswith("SO-")
    assert served.caller.rows(ended, 0) == [{"n": 1, "word": "one"}, {"n": 2, "word": "two"}]
    assert [Decimal(row["price"]) for row in served.caller.rows(ended, 1)] == [Decimal("3.50")]


@pytest.mark.parametrize(
    ("operation", "code"), [("create-order", "P0001"), ("shop-order", "45000")], ids=["postgresql", "mariadb"]
)
def test_the_erp_says_no(served: Whole, operation: str, code: str) -> None:
    ended = served.caller.run(operation, {"customer": "BLOCKED", "total": "1.00"})
    assert ended["state"] == "rejected"
    assert ended["error"]["kind"] == "business"
    assert "blocked" in ended["error"]["message"]


@pytest.mark.parametrize("operation", ["hang", "shop-hang"])
def test_a_procedure_that_hangs_past_its_timeout_is_ended(served: Whole, operation: str) -> None:
    began = time.monotonic()
    ended = served.caller.run(operation)
    assert ended["state"] in ("failed", "in_doubt"), ended
    assert time.monotonic() - began < 20
    assert served.caller.run("echo")["state"] == "succeeded"


def test_sqlite_answers(served: Whole) -> None:
    assert served.caller.rows(served.caller.run("local-read")) == [{"n": 1, "word": "a"}]


def test_a_file_is_dropped_whole(served: Whole) -> None:
    ended = served.caller.run(
        "drop-order", {"order_no": "4711", "rows": [{"order_no": "4711", "sku": "Öl €", "qty": 2}]}
    )
    assert ended["state"] == "succeeded", ended
    assert ended["outputs"]["name"] == "ORD-4711.csv"
    written = (served.agent.folder / "edi" / "ORD-4711.csv").read_bytes()
    assert written.decode("cp1252").splitlines() == ["order_no;sku;qty", "4711;Öl €;2"]
    assert ended["outputs"]["bytes"] == len(written)
    again = served.caller.run("drop-order", {"order_no": "4711", "rows": []})
    assert again["error"]["code"] == "file_exists"
    assert (served.agent.folder / "edi" / "ORD-4711.csv").read_bytes() == written


@pytest.mark.parametrize(
    "name", ["../x", "..\\x", "/etc/x", "a/b", "CON", "x:y", "x\0y", "", ".", "..", "nul.", "a" * 300]
)
def test_no_file_name_leads_out_of_the_folder(served: Whole, name: str) -> None:
    before = sorted(path for path in served.agent.folder.rglob("*") if "state" not in path.parts)
    ended = served.caller.run("drop-order", {"order_no": name, "rows": []})
    if ended["state"] == "succeeded":
        assert (served.agent.folder / "edi" / ended["outputs"]["name"]).is_file()
        (served.agent.folder / "edi" / ended["outputs"]["name"]).unlink()
    else:
        assert ended["state"] == "failed", ended
    assert sorted(path for path in served.agent.folder.rglob("*") if "state" not in path.parts) == before


def test_picked_files_are_archived_once_the_broker_has_their_rows(served: Whole) -> None:
    edi = served.agent.folder / "edi"
    (edi / "CONF1.csv").write_text("order_no;ok\n4711;yes\n")
    ended = served.caller.run("pick")
    assert served.caller.rows(ended) == [{"file": "CONF1.csv", "order_no": "4711", "ok": "yes"}]
    deadline = time.monotonic() + 10
    while (edi / "CONF1.csv").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (edi / "archive" / "CONF1.csv").read_text() == "order_no;ok\n4711;yes\n"


def test_a_soap_service_is_asked(served: Whole) -> None:
    schema = served.caller.get("/v1/agents/plant-1/operations").json()
    (entry,) = [entry for entry in schema["items"] if entry["name"] == "post-invoice"]
    assert "amount" in json.dumps(entry), "the WSDL tells the parameters"
    before = len(served.finance.posted()["invoices"])
    refused = served.caller.submit("post-invoice", {"nope": 1})
    assert refused.status_code == 422
    assert len(served.finance.posted()["invoices"]) == before


@pytest.mark.parametrize(
    "text",
    ["'; DROP TABLE orders; --", 'a"b', "\\'", "💶 Ä ß 漢字", "x" * 500_000, ":customer ?", "%s {0}", "\r\n\t"],
    ids=lambda text: text[:12],
)
def test_hostile_text_arrives_as_it_is(served: Whole, text: str) -> None:
    ended = served.caller.run("look", {"text": text})
    assert served.caller.rows(ended) == [{"text": text}]


def test_an_unknown_operation_is_a_404_with_those_there_are(served: Whole) -> None:
    answer = served.caller.submit("drop-table")
    assert answer.status_code == 404
    assert "create-order" in answer.json()["operations"]
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"customer": "C1", "total": "x"}, "total"),
        ({"customer": 5, "total": "1"}, "customer"),
        ({"total": "1"}, "customer"),
        ({"customer": "C1", "total": "1", "extra": 1}, "extra"),
    ],
)
def test_a_bad_parameter_is_a_422_without_the_agent(served: Whole, params: dict[str, Any], name: str) -> None:
    answer = served.caller.submit("create-order", params)
    assert answer.status_code == 422
    assert name in answer.json()["detail"]


def test_what_the_catalogue_can_not_tell_the_agent_does(served: Whole) -> None:
    ended = served.caller.run("create-order", {"customer": "C1", "total": "-1.00"})
    assert ended["state"] == "failed"
    assert (ended["error"]["kind"], ended["error"]["code"]) == ("policy", "parameters_invalid")


def test_a_driver_killed_in_the_middle_of_a_query_costs_one_attempt(served: Whole) -> None:
    submitted = served.caller.submit("nap", {"seconds": 3}).json()
    asleep = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%pg_sleep(%' AND pid <> pg_backend_pid()"
    deadline = time.monotonic() + 10
    while not query(served.postgres.odbc(), asleep):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for driver in children(served.agent.program.pid):
        os.kill(driver, signal.SIGKILL)
    ended = served.caller.final(submitted)
    assert (ended["state"], ended["attempts"]) == ("succeeded", 2)
    steps = served.caller.get(f"/v1/commands/{ended['id']}/timeline").json()["items"]
    assert [step["error"]["code"] for step in steps if step["step"] == "attempt_failed"] == ["driver_crashed"]


def test_a_million_rows_stream_in_constant_memory(served: Whole) -> None:
    def peak() -> int:
        agent = served.agent.program.pid
        return sum(peak_bytes(pid) for pid in (served.broker.program.pid, agent, *children(agent)))

    def stream(count: int) -> int:
        submitted = served.caller.submit("numbers", {"count": count}).json()
        lines = 0
        with served.caller.stream("GET", f"/v1/commands/{submitted['id']}/rows") as answer:
            for piece in answer.iter_bytes():
                lines += piece.count(b"\n")
        assert served.caller.final(submitted)["row_sets"][0]["rows"] == count
        return lines

    assert stream(100_000) == 100_000
    first = peak()
    assert stream(1_000_000) == 1_000_000
    assert peak() - first < 16 * 1024 * 1024


def test_a_stalled_reader_slows_nobody_and_fills_no_memory(served: Whole) -> None:
    before = peak_bytes(served.broker.program.pid)
    submitted = served.caller.submit("numbers", {"count": 500_000}).json()
    with served.caller.stream("GET", f"/v1/commands/{submitted['id']}/rows") as stalled:
        pieces = stalled.iter_bytes()
        received = next(pieces)
        # Nothing more is read here, and yet the command comes to its end.
        ended = served.caller.final(submitted)
        assert ended["state"] == "succeeded"
        assert served.caller.run("look", {"text": "quick"})["state"] == "succeeded"
        lines = received.count(b"\n") + sum(piece.count(b"\n") for piece in pieces)
    assert lines == 500_000
    assert peak_bytes(served.broker.program.pid) - before < 32 * 1024 * 1024


def test_rows_as_csv_are_the_same_rows(served: Whole) -> None:
    ended = served.caller.run("numbers", {"count": 100})
    answer = served.caller.get(f"/v1/commands/{ended['id']}/rows", headers={"Accept": "text/csv"})
    table = list(csv.DictReader(io.StringIO(answer.text)))
    assert [int(row["n"]) for row in table] == list(range(1, 101))
    assert [row["price"] for row in table] == [row["price"] for row in served.caller.rows(ended)]


def test_the_outhaul_command_shows_rows_and_tells_by_its_exit_code(served: Whole) -> None:
    environment = {"OUTHAUL_URL": served.broker.url, "OUTHAUL_KEY": served.caller.key}
    done = run(["outhaul", "call", "plant-1", "two-sets", "--format", "ndjson"], environment=environment)
    assert done.exit_code == 0, done.text
    assert '{"n":1,"word":"one"}' in done.out
    refused = run(
        ["outhaul", "call", "plant-1", "create-order", "customer=BLOCKED", "total=1.00"], environment=environment
    )
    assert refused.exit_code == 1
    assert "blocked" in refused.err
    unknown = run(["outhaul", "call", "plant-1", "nope"], environment=environment)
    assert unknown.exit_code == 2
    assert "create-order" in unknown.err


def test_check_finds_everything_in_order(served: Whole) -> None:
    answer = served.agent.cli("check", "--json")
    findings = json.loads(answer.out)["stages"]
    assert answer.exit_code == 0, [finding for finding in findings if finding["ok"] is False]
    subjects = " ".join(finding["subject"] for finding in findings)
    assert findings[0]["detail"].endswith("as the running agent")
    assert {"dns", "tcp", "tls", "upgrade"} <= {finding["stage"] for finding in findings if finding["ok"]}
    for subject in ("connection erp", "connection edi", "connection finance", "secret erp"):
        assert subject in subjects


def test_no_secret_is_in_a_log(served: Whole) -> None:
    logs = served.agent.program.log.read_text() + served.broker.program.log.read_text()
    for secret in (served.postgres.password, served.mariadb.password, "finance-word", served.caller.key):
        assert secret not in logs
