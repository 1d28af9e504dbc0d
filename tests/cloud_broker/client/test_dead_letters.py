"""``outhaul dead-letters``, ``replay`` and ``resolve`` against a real broker, and the same from Python."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cloud_broker.client.api import Outhaul as Client
from cloud_broker.client.errors import ProblemError
from cloud_broker.client.records import ReplayRun
from tests.cloud_broker.client.broker import Broker
from tests.cloud_broker.client.conftest import Here, Outhaul


@pytest.fixture
def client(broker: Broker) -> Iterator[Client]:
    """The Python client."""
    with Client(broker.url, broker.key) as made:
        yield made


@pytest.fixture
def mark(request: pytest.FixtureRequest) -> str:
    """A correlation id for what this test leaves, so that others do not find it."""
    return f"cor-{request.node.name}"


def dead(client: Client, mark: str, state: str = "failed") -> str:
    """Let a command end in this way and return its id."""
    ended = client.call("plant-1", "ends", {"as": state}, wait_s=20, correlation_id=mark)
    assert ended.state == state
    return ended.id


def ended(client: Client, run: ReplayRun) -> ReplayRun:
    """Wait until a run has ended."""
    deadline = time.monotonic() + 20
    while run.state == "running":
        assert time.monotonic() < deadline
        run = client.replay_run(run.id)
    return run


# --- from Python --------------------------------------------------------------------------------


def test_a_dead_letter_is_found_with_why_and_what_is_safe(client: Client, mark: str) -> None:
    failed, doubtful = dead(client, mark), dead(client, mark, "in_doubt")

    letters = {letter.id: letter for letter in client.dead_letters(correlation_id=mark)}

    assert set(letters) == {failed, doubtful}
    assert letters[failed].dead_letter.why == "customer C042 is blocked"
    assert [attempt.attempt for attempt in letters[failed].dead_letter.attempts] == [1]
    assert (letters[failed].dead_letter.safe, letters[doubtful].dead_letter.safe) == ("replay", "resolve_first")
    assert [step.step for step in client.timeline(failed)] == ["submitted", "dispatched", "started", "finished"]


def test_a_command_is_replayed_once(client: Client, mark: str) -> None:
    failed = dead(client, mark)

    replays = [client.replay(failed, ttl_s=60) for _ in range(2)]

    assert replays[0].id == replays[1].id
    assert replays[0].replay_of == failed
    assert client.command(failed).replayed_by == replays[0].id
    assert client.command(replays[0].id, wait_s=20).state == "failed"
    assert [letter.id for letter in client.dead_letters(correlation_id=mark)] == [replays[0].id]


def test_doubt_is_resolved_before_a_replay(client: Client, mark: str) -> None:
    doubtful = dead(client, mark, "in_doubt")

    with pytest.raises(ProblemError) as refused:
        client.replay(doubtful)
    resolved = client.resolve(doubtful, "not_happened", who="Ada", note="no such order")

    assert (refused.value.status, refused.value.code) == (409, "resolve_first")
    assert resolved.state == "failed"
    assert resolved.resolution is not None
    assert (resolved.resolution.found, resolved.resolution.who) == ("not_happened", "Ada")
    assert client.replay(doubtful).replay_of == doubtful


def test_many_are_replayed_by_the_broker(client: Client, mark: str) -> None:
    made = [dead(client, mark) for _ in range(3)] + [dead(client, mark, "in_doubt")]

    plan = client.count_dead_letters(correlation_id=mark)
    run = ended(client, client.replay_all(correlation_id=mark, rate=1000))

    assert (plan.total, plan.in_doubt) == (4, 1)
    assert (run.state, run.total, run.replayed, run.skipped_count) == ("done", 4, 3, 1)
    assert [skipped.id for skipped in run.skipped] == [made[3]]
    assert run.id in [known.id for known in client.replay_runs()]
    assert client.cancel_replay(run.id).state == "done"


# --- on the command line ------------------------------------------------------------------------


def test_the_list_says_why_and_what_is_safe(here: Here, client: Client, mark: str) -> None:
    failed, doubtful = dead(client, mark), dead(client, mark, "in_doubt")

    done = here("dead-letters", "--correlation-id", mark)

    assert done.returncode == 0
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("cmd_")}
    assert "customer C042 is blocked" in lines[failed]
    assert "resolve first" in lines[doubtful]
    assert "outhaul resolve ID" in done.stderr
    document = json.loads(here("dead-letters", "list", "--correlation-id", mark, "--json").stdout)
    assert [item["id"] for item in document["items"]] == [doubtful, failed]
    assert document["items"][0]["dead_letter"]["safe"] == "resolve_first"
    one = here("dead-letters", "--correlation-id", mark, "--limit", "1")
    assert "more than 1" in one.stderr
    assert "no dead letters" in here("dead-letters", "--correlation-id", mark, "--code", "nonesuch").stderr


def test_a_finding_is_told_with_its_finder(here: Here, client: Client, mark: str) -> None:
    doubtful = dead(client, mark, "in_doubt")

    unsaid = here("resolve", doubtful)
    done = here("resolve", doubtful, "--not-happened", "--note", "no order 4711", "--who", "Ada")
    other = here("resolve", doubtful, "--happened")
    shown = here("commands", "show", doubtful, "--timeline")

    assert (unsaid.returncode, done.returncode, other.returncode) == (2, 0, 1)
    assert "--not-happened" in unsaid.stderr
    assert f"outhaul replay {doubtful}" in done.stderr
    assert "not_happened, by Ada" in other.stderr
    assert "not happened, by Ada: no order 4711" in shown.stdout
    steps = [line for line in shown.stdout.splitlines() if line.startswith("20")]
    assert ["resolved" in line for line in steps] == [False] * 4 + [True]
    document = json.loads(here("commands", doubtful, "--timeline", "--json").stdout)
    assert document["command"]["id"] == doubtful
    assert [step["step"] for step in document["timeline"]][-1] == "resolved"


def test_the_finder_is_whoever_sits_here_unless_told(here: Here, client: Client, mark: str) -> None:
    doubtful = dead(client, mark, "in_doubt")

    done = here("resolve", doubtful, "--happened", "--json", LOGNAME="grace")

    found = json.loads(done.stdout)
    assert (found["state"], found["resolution"]["who"]) == ("succeeded", "grace")


def test_named_commands_are_replayed_and_one_refusal_keeps_no_other(here: Here, client: Client, mark: str) -> None:
    failed, doubtful = dead(client, mark), dead(client, mark, "in_doubt")

    alone = here("replay", doubtful)
    both = here("replay", doubtful, failed)
    again = here("replay", failed, "--json")

    assert (alone.returncode, both.returncode, again.returncode) == (1, 1, 0)
    assert "resolve_first" in alone.stderr
    assert f"{failed}: replayed as cmd_" in both.stderr
    (item,) = json.loads(again.stdout)["items"]
    assert item["replay_of"] == failed
    assert client.command(failed).replayed_by == item["id"]
    assert f"replay of       {failed}" in here("commands", item["id"]).stdout


def test_many_are_counted_first_and_watched_to_the_end(here: Here, client: Client, mark: str) -> None:
    for _ in range(2):
        dead(client, mark)
    doubtful = dead(client, mark, "in_doubt")
    words = ("replay", "--all", "--correlation-id", mark, "--since", "1h", "--rate", "1000")

    asked = here(*words)
    done = here(*words, "--yes")

    assert asked.returncode == 2
    assert "3 dead letters, 1 in doubt, which are left out" in asked.stderr
    assert "--yes" in asked.stderr
    assert done.returncode == 0
    assert "replayed      2" in done.stdout
    assert doubtful in done.stdout
    assert "it is in doubt: resolve it first" in done.stdout
    run = json.loads(here("dead-letters", "replays", "--json").stdout)["items"][0]
    assert (run["state"], run["filter"]["correlation_id"]) == ("done", mark)
    assert run["id"] in here("dead-letters", "replays").stdout
    assert "done" in here("dead-letters", "replays", run["id"]).stdout


def test_no_dead_letters_is_no_failure(here: Here) -> None:
    done = here("replay", "--all", "--operation", "nonesuch")
    assert (done.returncode, done.stderr) == (0, "no dead letters\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "wants the IDs"),
        (("cmd_1", "--all"), "wants the IDs"),
        (("cmd_1", "--operation", "x"), "--operation goes with --all"),
        (("--all", "--ttl", "5min"), "--ttl goes with IDs"),
        (("--all", "--since", "yesterday"), "--since: wants 1h"),
        (("--all", "--state", "succeeded"), "is not one of"),
        (("cmd_nothing",), "command_not_found"),
    ],
)
def test_words_that_can_not_be_meant_are_told(here: Here, words: tuple[str, ...], told: str) -> None:
    done = here("replay", *words)
    assert done.returncode == 2
    assert told in done.stderr


def test_ctrl_c_leaves_the_broker_at_it_and_says_how_to_stop_it(outhaul: Outhaul, client: Client, mark: str) -> None:
    for _ in range(3):
        dead(client, mark)

    with outhaul.start("replay", "--all", "--correlation-id", mark, "--rate", "0.01", "--yes") as process:
        run = _begun(client, mark)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)

    assert process.returncode == 1
    assert f"outhaul dead-letters replays {run['id']}" in told.decode()
    assert f"outhaul dead-letters cancel {run['id']}" in told.decode()
    assert client.replay_run(run["id"]).state == "running"
    stopped = outhaul("dead-letters", "cancel", run["id"], "--json")
    assert json.loads(stopped.stdout)["state"] == "cancelled"
    assert len(list(client.dead_letters(correlation_id=mark))) >= 2


def _begun(client: Client, mark: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while True:
        for run in client.replay_runs():
            document: dict[str, Any] = json.loads(run.raw)
            if document["filter"]["correlation_id"] == mark and document["replayed"]:
                return document
        assert time.monotonic() < deadline
