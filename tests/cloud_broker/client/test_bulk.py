"""Many commands through the client: in order, each once, whatever the network does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cloud_broker.client.api import Outhaul
from cloud_broker.client.bulk import LINES_IN_A_REQUEST
from cloud_broker.client.connection import TRIES
from cloud_broker.client.errors import NotReachable, UnknownAnswer, WordsError
from tests.cloud_broker.client.conftest import Here
from tests.cloud_broker.client.raw import RawServer, reply

KEY = "ohk_very-secret"
ECHO = {"agent": "plant-1", "operation": "echo", "params": {"text": "x"}}
FULL = {"status": 429, "problem": {"code": "too_many_open_commands", "title": "Full"}, "retry_after": 1}


def client(server: RawServer) -> Outhaul:
    return Outhaul(server.url, KEY, pause=lambda seconds: None)


def taken(line: int) -> dict[str, Any]:
    return {"line": line, "status": 202, "command": {"id": f"cmd_{line}", "state": "queued"}}


def answers(*lines: dict[str, Any]) -> bytes:
    return reply(200, b"".join(json.dumps(line).encode() + b"\n" for line in lines), "application/x-ndjson")


def keys_of(request: str) -> list[str]:
    return [json.loads(line)["idempotency_key"] for line in request.partition("\r\n\r\n")[2].splitlines()]


def test_what_got_no_answer_is_sent_again_with_the_same_keys() -> None:
    with RawServer([b"", answers(taken(1), taken(2))]) as server, client(server) as outhaul:
        found = list(outhaul.submit_many([ECHO, {**ECHO, "idempotency_key": "mine"}]))
    assert [(one.number, one.command.id if one.command else None) for one in found] == [(1, "cmd_1"), (2, "cmd_2")]
    first, second = map(keys_of, server.requests)
    assert first == second == [one.key for one in found]
    assert found[1].key == "mine"


def test_what_there_is_no_room_for_is_sent_again_and_the_others_are_not() -> None:
    full = {"line": 2, **FULL}
    wrong = {"line": 3, "status": 400, "problem": {"code": "request_invalid", "detail": "no"}}
    pauses: list[float] = []
    with RawServer([answers(taken(1), full, wrong), answers(taken(1))]) as server, client(server) as outhaul:
        found = list(outhaul.submit_many([ECHO] * 3, key_of=lambda number: f"k{number}", pause=pauses.append))
    assert list(map(keys_of, server.requests)) == [["k1", "k2", "k3"], ["k2"]]
    assert [one.number for one in found] == [1, 2, 3]
    assert found[2].problem is not None
    assert found[2].problem.code == "request_invalid"
    assert len(pauses) == 1


def test_what_there_is_never_room_for_is_told_so() -> None:
    with RawServer([answers({"line": 1, **FULL})]) as server, client(server) as outhaul:
        (found,) = outhaul.submit_many([ECHO], pause=lambda seconds: None)
        assert len(server.requests) == TRIES
    assert found.problem is not None
    assert found.problem.status == 429


def test_nothing_is_kept_back_for_long() -> None:
    given: list[int] = []

    def commands() -> Any:
        for number in range(3 * LINES_IN_A_REQUEST):
            given.append(number)
            yield ECHO

    with RawServer([answers(*map(taken, range(1, LINES_IN_A_REQUEST + 1)))]) as server, client(server) as outhaul:
        first = next(iter(outhaul.submit_many(commands())))
    assert first.number == 1
    assert len(given) <= LINES_IN_A_REQUEST + 1


@pytest.mark.parametrize("lines", [[], [taken(2)], [taken(1), taken(2)]])
def test_other_answers_than_were_asked_for_are_no_answer(lines: list[dict[str, Any]]) -> None:
    with (
        RawServer([answers(*lines)]) as server,
        client(server) as outhaul,
        pytest.raises(UnknownAnswer, match="in bulk"),
    ):
        list(outhaul.submit_many([ECHO]))


def test_without_any_answer_it_is_told_so() -> None:
    with RawServer([b""]) as server, client(server) as outhaul, pytest.raises(NotReachable):
        list(outhaul.submit_many([ECHO]))


def test_what_is_no_json_is_told_so() -> None:
    with RawServer([b""]) as server, client(server) as outhaul, pytest.raises(WordsError):
        list(outhaul.submit_many([{**ECHO, "params": {"a": object()}}]))


def test_a_file_of_commands_is_submitted_and_again_without_doubles(here: Here, tmp_path: Path) -> None:
    file = tmp_path / "orders.ndjson"
    wrong = {**ECHO, "operation": "ecko"}
    lines = [ECHO] * 3 + [wrong] + [ECHO] * 2
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "\n", "utf-8")
    first = here("bulk", str(file), "--key-prefix", "order")
    again = here("bulk", str(file), "--key-prefix", "order")

    told = [json.loads(line) for line in first.stdout.splitlines()]
    assert first.returncode == again.returncode == 1
    assert [one["number"] for one in told] == [1, 2, 3, 4, 5, 6]
    assert [one["idempotency_key"] for one in told] == [f"order-{number}" for number in range(1, 7)]
    assert told[3]["problem"]["code"] == "operation_not_found"
    ids = [json.loads(line).get("id") for line in again.stdout.splitlines()]
    assert ids == [one.get("id") for one in told]
    assert "command 4:" in first.stderr
    assert "5 commands are kept, 1 were refused" in first.stderr


def test_a_line_that_is_no_object_is_named(here: Here, tmp_path: Path) -> None:
    file = tmp_path / "orders.ndjson"
    file.write_text(json.dumps(ECHO) + "\n[]\n", "utf-8")
    ran = here("bulk", str(file))
    assert ran.returncode == 2
    assert "line 2: wants an object" in ran.stderr
    assert "--key-prefix idem_" in ran.stderr
