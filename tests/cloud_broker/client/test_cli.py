"""The ``outhaul`` command as a process against a real broker: what goes where, and with which exit code."""

from __future__ import annotations

import csv
import io
import json
import signal
import sys
import time
from pathlib import Path

import pytest

from cloud_broker.client.connection import TRIES
from cloud_broker.tenants import Scope
from tests.cloud_broker.client.broker import Broker
from tests.cloud_broker.client.conftest import PROGRAM, Here, Outhaul
from tests.cloud_broker.client.raw import RawServer, chunked, reply

# --- what came back -----------------------------------------------------------------------------


def test_outputs_come_back_exact(outhaul: Outhaul) -> None:
    done = outhaul("call", "plant-1", "echo", "text=7", "big:=123456789012345678901234567890", "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["command"]["outputs"] == {"text": "7", "big": 123456789012345678901234567890}
    assert document["rows"] == []
    assert "done in" in done.stderr


def test_a_table_shows_every_value_as_it_is(here: Here) -> None:
    done = here("call", "plant-1", "open-invoices", "customer=C042")
    assert done.returncode == 0
    assert "12345678901234567890" in done.stdout
    assert "NULL" in done.stdout
    assert '{"x": 1.10}' in done.stdout
    assert "ü" * 200 in done.stdout, "nothing is shortened in a file"
    assert r'a,"b"\x1b[31m\nc' in done.stdout, "an ERP's text moves no cursor"
    assert "\x1b" not in done.stdout + done.stderr
    assert "2 rows in" in done.stderr
    assert "rows" not in done.stdout


def test_numbers_stand_at_the_right(here: Here) -> None:
    lines = here("call", "plant-1", "rows", "count=11").stdout.splitlines()
    assert lines[0].split() == ["n", "text"]
    assert lines[-2:] == [" 9  row number 9 of many ", "10  row number 10 of many"]


def test_several_row_sets_come_one_after_the_other(outhaul: Outhaul) -> None:
    done = outhaul("call", "plant-1", "two-sets")
    assert done.returncode == 0
    places = [done.stdout.index(text) for text in ("order_no", "4711", "row set 0", "row set 1", "y")]
    assert places == sorted(places)
    only = outhaul("call", "plant-1", "two-sets", "--set", "1", "--json")
    assert json.loads(only.stdout)["rows"] == [{"b": "x"}, {"b": "y"}]


def test_a_stream_has_one_row_set_and_names_the_others(here: Here) -> None:
    done = here("call", "plant-1", "two-sets", "--format", "ndjson")
    assert (done.returncode, done.stdout) == (0, '{"a": 1}\n')
    assert "--set gives the others: 1" in done.stderr
    assert "output order_no: 4711" in done.stderr
    assert here("call", "plant-1", "two-sets", "--set", "1", "--format", "csv").stdout.split() == ["b", "x", "y"]


@pytest.mark.parametrize("output_format", ["table", "csv", "ndjson", "json"])
def test_a_row_set_that_is_not_there_is_a_wrong_word(here: Here, output_format: str) -> None:
    done = here("call", "plant-1", "two-sets", "--set", "2", "--format", output_format)
    assert done.returncode == 2
    assert "row_set_not_found" in done.stderr


@pytest.mark.parametrize("output_format", ["csv", "ndjson"])
def test_an_operation_without_rows_gives_an_empty_stream(here: Here, output_format: str) -> None:
    done = here("call", "plant-1", "echo", "a=1", "--format", output_format)
    assert (done.returncode, done.stdout) == (0, "")
    assert "output a: 1" in done.stderr


def test_csv_and_ndjson_are_the_brokers_own_bytes(here: Here) -> None:
    rows = list(
        csv.DictReader(io.StringIO(here("call", "plant-1", "open-invoices", "customer=x", "--format", "csv").stdout))
    )
    assert [row["no"] for row in rows] == ["12345678901234567890", "2"]
    lines = here("call", "plant-1", "open-invoices", "customer=x", "--format", "ndjson").stdout.splitlines()
    assert lines[0].endswith('"doc": {"x": 1.10}}')


def test_a_table_has_a_limit_and_says_so(here: Here) -> None:
    done = here("call", "plant-1", "rows", "count=50", "--max-rows", "3")
    assert "row number 2 of" in done.stdout
    assert "row number 3 of" not in done.stdout
    assert "3 of 50 rows shown" in done.stderr


def test_parameters_come_from_a_pipe_and_files(here: Here, tmp_path: Path) -> None:
    done = here("call", "plant-1", "echo", "--params", "-", "more=x", "--json", stdin='{"a": {"b": [1]}}')
    assert json.loads(done.stdout)["command"]["outputs"] == {"a": {"b": [1]}, "more": "x"}
    (tmp_path / "lines.csv").write_text("sku;qty\nA1;2\n")
    done = here("call", "plant-1", "echo", "order_no=4711", "--rows", f"@{tmp_path / 'lines.csv'}", "--json")
    assert json.loads(done.stdout)["command"]["outputs"] == {"order_no": "4711", "rows": [{"sku": "A1", "qty": "2"}]}


def test_a_group_stands_for_any_of_its_agents(here: Here) -> None:
    done = here("call", "--group", "plants", "rows", "count=1", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["command"]["agent"] == "plant-1"


def test_the_same_key_gives_the_same_command(here: Here) -> None:
    words = ("call", "plant-1", "echo", "a=1", "--idempotency-key", "twice-1", "--correlation-id", "cor-1", "--json")
    first, second = here(*words), here(*words)
    assert json.loads(first.stdout)["command"]["id"] == json.loads(second.stdout)["command"]["id"]
    other = here("call", "plant-1", "echo", "a=2", "--idempotency-key", "twice-1")
    assert other.returncode == 2
    assert "idempotency_key_reused" in other.stderr


def test_not_waiting_prints_the_id_alone(here: Here) -> None:
    done = here("call", "plant-2", "echo", "a=1", "--no-wait", "--ttl", "5min")
    assert done.returncode == 0
    command_id = done.stdout.strip()
    assert "waiting for the agent plant-2 to connect" in done.stderr
    shown = here("commands", command_id)
    assert shown.returncode == 0
    assert "waiting for the agent plant-2 to connect" in shown.stdout
    cancelled = here("commands", "cancel", command_id, "--json")
    assert json.loads(cancelled.stdout)["state"] == "cancelled"


@pytest.mark.parametrize("output_format", ["table", "ndjson"])
def test_waiting_has_an_end_if_one_was_given(outhaul: Outhaul, output_format: str) -> None:
    done = outhaul("call", "plant-2", "echo", "a=1", "--wait", "0.3", "--ttl", "5min", "--format", output_format)
    assert done.returncode == 1
    assert "not ended yet: waiting for the agent plant-2 to connect; look again: outhaul commands cmd_" in done.stderr
    assert done.stdout == ""


# --- what failed --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        ("rejected", "rejected by the ERP: source_rejected (P0001): customer C042 is blocked"),
        ("failed", "failed: source_failed (P0001): customer C042 is blocked"),
        (
            "in_doubt",
            "in doubt: outcome_unknown (P0001): customer C042 is blocked\nIt may have happened or not: look in the ERP",
        ),
        ("expired", "expired: source_failed (P0001): customer C042 is blocked"),
        ("cancelled", "cancelled: source_failed (P0001): customer C042 is blocked"),
    ],
)
@pytest.mark.parametrize("output_format", ["table", "csv", "json"])
def test_each_bad_end_is_told_in_a_line(here: Here, outcome: str, told: str, output_format: str) -> None:
    done = here("call", "plant-1", "ends", f"as={outcome}", "--format", output_format)
    assert done.returncode == 1
    assert told in done.stderr
    if output_format == "json":
        assert json.loads(done.stdout)["command"]["state"] == outcome
    else:
        assert done.stdout == ""


@pytest.mark.parametrize("output_format", ["table", "csv", "ndjson"])
def test_a_failure_after_some_rows_is_a_failure(here: Here, output_format: str) -> None:
    done = here("call", "plant-1", "breaks-off", "--format", output_format)
    assert done.returncode == 1
    assert "failed: source_unavailable: the database went away" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["call", "plant-1", "open-invoices", "custmer=x"], "has no parameter 'custmer'. Did you mean customer?"),
        (["call", "plant-1", "open-invoices"], "customer"),
        (["call", "plant-1", "open-invoices", "customer=012345678901234567890"], "  customer: "),
        (["call", "plant-1", "rows", "count=many"], "count: wants a whole number, found 'many'"),
        (["call", "plant-1", "rows", "count=-1"], "  count: "),
        (["call", "plant-1", "open-invoice", "customer=x"], "Did you mean open-invoices?"),
        (["call", "plnt-1", "rows", "count=1"], "Did you mean plant-1?"),
        (["call", "--group", "plant", "rows", "count=1"], "no group 'plant'"),
        (["call", "plant-1"], "wants AGENT OPERATION [NAME=VALUE]..., found plant-1"),
        (["call", "plant-1", "a=1"], "wants AGENT OPERATION"),
        (["call", "plant-1", "rows", "--params", "[1]"], "--params: wants a JSON object"),
        (["call", "plant-1", "rows", "--params", "@nowhere.json"], "nowhere.json can't be read"),
        (["call", "plant-1", "rows", "count=1", "--ttl", "soon"], "wants a duration such as 30s, 5min or 1h"),
        (["call", "plant-1", "rows", "count=1", "--idempotency-key", "ä b"], "idempotency key: wants visible ASCII"),
        (["call", "plant-1", "rows", "count=1", "--format", "parquet"], "'parquet' is not one of"),
        (["call", "plant-1", "rows", "count=1", "--format", "arrow", "--seal"], "come as NDJSON"),
        (["commands", "cmd_none"], "there is no command 'cmd_none'"),
        (["commands", "list", "--state", "lost"], "'lost' is not one of"),
        (["commands", "list", "--since", "yesterday"], "--since: wants 1h, 2026-01-31"),
        (["agents", "plnt-1"], "Did you mean plant-1?"),
        (["operations", "plant-1", "row"], "Did you mean rows?"),
        (["operations", ".."], "wants a name or an id"),
        (["dead-letters", "lost"], "No such command 'lost'"),
        (["call", "plant-1", "rows", "--profile", "test"], "there is no profile 'test'"),
    ],
)
def test_wrong_words_end_with_2_and_say_what_would_be_right(here: Here, words: list[str], told: str) -> None:
    done = here(*words)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stdout == ""


def test_a_users_mistake_shows_no_inside(outhaul: Outhaul) -> None:
    done = outhaul("call", "plant-1", "rows", "count=-1")
    assert done.returncode == 2
    assert [line[:9] for line in done.stderr.splitlines()] == ["error: Th", "  count: "]


def test_a_broker_that_is_not_there_ends_with_3(outhaul: Outhaul) -> None:
    done = outhaul("agents", OUTHAUL_URL="http://127.0.0.1:9")
    assert done.returncode == 3
    assert "no answer from http://127.0.0.1:9" in done.stderr


def test_something_that_is_no_broker_ends_with_3(here: Here) -> None:
    with RawServer([reply(200, b"<html>", "text/html")]) as server:
        done = here("agents", OUTHAUL_URL=server.url)
    assert done.returncode == 3
    assert "wanted a list from the broker" in done.stderr


def test_a_key_that_may_not_ends_with_4_and_is_not_shown(here: Here, broker: Broker) -> None:
    unknown = here("agents", OUTHAUL_KEY="ohk_wrong-key")
    assert unknown.returncode == 4
    assert "ohk_wrong-key" not in unknown.stderr
    reads = broker.add_key("commands:read")
    done = here("agents", OUTHAUL_KEY=reads)
    assert done.returncode == 4
    assert "agents:read" in done.stderr
    assert reads not in done.stderr


def test_a_key_that_may_only_call_sends_values_as_text(here: Here, broker: Broker) -> None:
    writes = broker.add_key("commands:write", "commands:read")
    done = here("call", "plant-1", "echo", "a=1", "--json", OUTHAUL_KEY=writes)
    assert done.returncode == 0
    assert json.loads(done.stdout)["command"]["outputs"] == {"a": "1"}
    assert "every value is sent as text" in done.stderr


@pytest.mark.parametrize("output_format", ["csv", "ndjson"])
def test_rows_that_were_cut_are_never_a_success(here: Here, output_format: str) -> None:
    command = b'{"id": "cmd_1", "state": "succeeded", "row_sets": [{"columns": [{"name": "n"}], "rows": 2}]}'
    answers = [reply(200, command), chunked(b'{"n": 1}\n', whole=False), reply(200, command)]
    with RawServer(answers) as server:
        done = here("call", "plant-1", "rows", "--format", output_format, OUTHAUL_URL=server.url)
    assert done.returncode == 1
    assert "the rows are not whole" in done.stderr
    assert "outhaul commands rows cmd_1" in done.stderr


def test_a_broker_that_is_started_anew_is_waited_for(here: Here) -> None:
    queued, ended = b'{"id": "cmd_1", "state": "queued"}', b'{"id": "cmd_1", "state": "succeeded"}'
    with RawServer([reply(202, queued), *[b""] * (TRIES + 1), reply(200, ended)]) as server:
        assert here("call", "plant-1", "echo", OUTHAUL_URL=server.url).returncode == 0


def test_a_broker_that_is_gone_leaves_the_commands_id(here: Here) -> None:
    queued = b'{"id": "cmd_1", "state": "queued"}'
    with RawServer([reply(202, queued), b""]) as server:
        done = here("call", "plant-1", "echo", "--format", "csv", OUTHAUL_URL=server.url)
    assert done.returncode == 3
    assert "no answer from" in done.stderr
    assert "outhaul commands cmd_1" in done.stderr


# --- large and slow -----------------------------------------------------------------------------


# Started by a small process: a child's peak counts from before its exec, when it still was this large one.
MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def test_a_large_result_streams_in_flat_memory(outhaul: Outhaul) -> None:
    peaks_kib = []
    for count in (10_000, 100_000):
        words = ("call", "plant-1", "rows", f"count={count}", "fill=500", "--format", "csv")
        with outhaul.start(*words, program=(sys.executable, "-c", MEASURED, PROGRAM)) as running:
            assert running.stdout is not None
            assert running.stderr is not None
            assert sum(1 for _ in running.stdout) == count + 1
            told = running.stderr.read().decode()
            assert running.wait(30) == 0
        assert f"{count:,} rows in" in told
        peaks_kib.append(int(told.rpartition("peak ")[2]))
    # The larger result has 48 MB more.
    assert peaks_kib[1] - peaks_kib[0] < 8 * 1024, peaks_kib


def test_rows_come_while_the_command_still_runs_and_ctrl_c_leaves_it_running(outhaul: Outhaul) -> None:
    with outhaul.start("call", "plant-1", "stuck", "--format", "ndjson") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == b'{"n": 1}\n'
        running.send_signal(signal.SIGINT)
        told = running.stderr.read().decode()
        assert running.wait(30) == 1
    assert "interrupted; the command goes on: outhaul commands cmd_" in told
    command_id = next(word for word in told.split() if word.startswith("cmd_"))
    assert json.loads(outhaul("commands", command_id, "--json").stdout)["state"] == "running"
    outhaul("commands", "cancel", command_id)
    ended = outhaul("commands", "rows", command_id)
    assert ended.returncode == 1
    assert "cancelled" in ended.stderr


def test_ctrl_c_cancels_where_that_is_wished(outhaul: Outhaul) -> None:
    with outhaul.start("call", "plant-1", "stuck", "--format", "ndjson", "--cancel-on-interrupt") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.send_signal(signal.SIGINT)
        told = running.stderr.read().decode()
        assert running.wait(30) == 1
    assert "asked to cancel: cancelled" in told


def test_a_reader_that_leaves_is_no_drama(outhaul: Outhaul) -> None:
    with outhaul.start("call", "plant-1", "rows", "count=100000", "--format", "csv") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == b"n,text\r\n"
        running.stdout.close()
        told = running.stderr.read()
        assert running.wait(30) == 1
    assert told == b""


# --- lists --------------------------------------------------------------------------------------


def test_commands_are_found_again(here: Here) -> None:
    for number in range(3):
        here("call", "plant-1", "echo", f"n={number}", "--correlation-id", "find-me")
    found = here("commands", "list", "--correlation-id", "find-me", "--state", "succeeded", "--since", "1h", "--json")
    assert [item["outputs"]["n"] for item in json.loads(found.stdout)["items"]] == ["2", "1", "0"]
    table = here("commands", "list", "--correlation-id", "find-me", "--limit", "2")
    assert table.stdout.count("find-me") == 2
    assert "more than 2: --limit" in table.stderr
    assert here("commands", "--agent", "plant-1", "--limit", "1").stdout.count("cmd_") == 1
    none = here("commands", "list", "--correlation-id", "none")
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "no commands\n")


def test_a_command_is_shown_whole(here: Here) -> None:
    document = json.loads(here("call", "plant-1", "two-sets", "--json").stdout)
    shown = here("commands", "show", document["command"]["id"])
    for text in ("succeeded", "two-sets", "plant-1", "row set 1", "2 rows", "order_no", "4711"):
        assert text in shown.stdout
    again = here("commands", document["command"]["id"], "--json")
    assert json.loads(again.stdout) == document["command"]


def test_the_rows_of_an_earlier_command_are_given_again(here: Here) -> None:
    command_id = here("call", "plant-1", "rows", "count=2", "--no-wait").stdout.strip()
    done = here("commands", "rows", command_id, "--format", "csv")
    assert (done.returncode, done.stdout.count("\n")) == (0, 3)


def test_an_agent_is_drained_and_taken_back(here: Here) -> None:
    assert "drained at" in here("agents", "drain", "plant-2").stdout
    assert "drained since" in here("agents").stdout
    assert "drained at" not in here("agents", "undrain", "plant-2").stdout
    assert here("agents", "empty", "plant-2").returncode == 2


def test_agents_and_their_operations_are_listed(here: Here) -> None:
    table = here("agents").stdout
    assert "plant-1" in table
    assert "online" in table
    assert "offline" in table
    assert {item["name"] for item in json.loads(here("agents", "--json").stdout)["items"]} == {"plant-1", "plant-2"}
    assert json.loads(here("agents", "plant-1", "--json").stdout)["group"] == "plants"
    assert "plants" in here("agents", "plant-1").stdout
    operations = here("operations", "plant-1").stdout
    assert "Unpaid invoices of a customer." in operations
    assert "customer [since] [total]" in operations
    assert len(json.loads(here("operations", "plant-1", "--json").stdout)["items"]) == 8


def test_the_parameters_of_an_operation_are_a_table(here: Here) -> None:
    lines = here("operations", "plant-1", "open-invoices").stdout.splitlines()
    found = [line.split() for line in lines]
    assert ["customer", "text", "yes", "Its", "number."] in found
    assert ["since", "date", "2000-01-01"] in found
    assert ["total", "a", "decimal"] in found
    one = json.loads(here("operations", "plant-1", "open-invoices", "--json").stdout)
    assert one["params"]["required"] == ["customer"]
    assert "takes any parameters" in here("operations", "plant-1", "echo").stderr
    assert "no parameters" in here("operations", "plant-1", "wide").stderr


# --- login --------------------------------------------------------------------------------------


def test_login_keeps_what_later_commands_use(outhaul: Outhaul, broker: Broker, tmp_path: Path) -> None:
    for name in ("OUTHAUL_URL", "OUTHAUL_KEY"):
        del outhaul.environ[name]
    assert outhaul("agents").returncode == 2
    done = outhaul("login", "--url", broker.url, stdin=f"{broker.key}\n")
    assert done.returncode == 0, done.stderr
    assert broker.key not in done.stdout + done.stderr
    assert outhaul("agents").returncode == 0
    done = outhaul("login", "--profile", "test", stdin=f"{broker.url}\n{broker.key}\n")
    assert done.returncode == 0, done.stderr
    assert outhaul("agents", "--profile", "test").returncode == 0
    assert (tmp_path / "outhaul" / "profiles.json").exists()


@pytest.mark.parametrize(
    ("url", "key", "code"),
    [
        (None, "ohk_wrong", 4),
        ("http://127.0.0.1:9", "ohk_wrong", 3),
        ("http://broker.example.com", "ohk_wrong", 2),
        ("no address", "ohk_wrong", 2),
        (None, "", 2),
        (None, "two words", 2),
    ],
)
def test_login_keeps_nothing_that_does_not_work(
    here: Here, broker: Broker, tmp_path: Path, url: str | None, key: str, code: int
) -> None:
    done = here("login", "--url", url or broker.url, stdin=f"{key}\n")
    assert done.returncode == code, done.stderr
    assert not (tmp_path / "outhaul" / "profiles.json").exists()


def test_a_key_for_few_things_is_still_a_good_key(here: Here, broker: Broker) -> None:
    assert here("login", "--url", broker.url, stdin=broker.add_key("commands:read")).returncode == 0


# --- the rest -----------------------------------------------------------------------------------


def test_the_version_is_told(here: Here) -> None:
    assert here("version").stdout.startswith("outhaul ")
    assert "version" in json.loads(here("version", "--json").stdout)


def test_help_is_quick_and_loads_nothing_heavy(outhaul: Outhaul) -> None:
    done = outhaul("call", "--help", PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert {"click", "cloud_broker.client.arguments"} & loaded
    assert not loaded & {"httpx2", "rich", "asyncio", "cloud_broker.store.base"}


def test_an_agent_that_refuses_work_says_why(here: Here, broker: Broker) -> None:
    async def complain(*problems: str, shut_s: float = 0.0) -> None:
        line = broker.router.line(Scope("acme"), "plant-1")
        assert line is not None
        line.problems, line.shut = problems, {"erp": time.monotonic() + shut_s}

    broker.run(complain("the journal can't be written", shut_s=3600.0))
    try:
        listed, shown = here("agents").stdout, here("agents", "plant-1").stdout
    finally:
        broker.run(complain())

    (line,) = [line for line in listed.splitlines() if line.startswith("plant-1 ")]
    assert "degraded" in line
    assert "the journal can't be written; erp is outside of its hours until 20" in line
    assert "problem           the journal can't be written" in shown
    assert "erp               is outside of its hours until 20" in shown
    assert "online" in here("agents", "plant-1").stdout
