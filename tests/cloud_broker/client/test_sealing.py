"""The caller's side of sealing: what it takes from a broker that lies, what it keeps, which keys it trusts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.journal.base import Claim
from agent.sealing import ResultSeal, Seals
from cloud_broker.client import known_agents
from cloud_broker.client.api import Outhaul
from cloud_broker.client.cli import main
from cloud_broker.client.errors import AgentKeyChanged, ProblemError, ProfileError, ResultCut, SealBroken, WordsError
from cloud_broker.client.known_agents import KnownAgent
from cloud_broker.client.sealing import SealedCall
from protocol import sealing
from protocol.messages import ColumnInfo, Completed, RowSetDone
from tests.cloud_broker.client.raw import RawServer

KEY = X25519PrivateKey.generate()
PUBLIC = sealing.key_text(KEY.public_key().public_bytes_raw())
LINES = b'{"no":"1","total":"1.10"}\n{"no":"2","total":null}\n'
COLUMNS = [ColumnInfo("no", "string"), ColumnInfo("total", "decimal")]


def call_of(operation: str = "rows", params: bytes = b"{}") -> SealedCall:
    return SealedCall.of("acme", "plant-1", operation, params, PUBLIC)


def seal_of(call: SealedCall, *, command_id: str = "cmd_1", epoch: int = 1) -> ResultSeal:
    """What the agent seals an attempt with."""
    claim = Claim(command_id, epoch, "", call.operation, "read", call.text.encode(), "", 0.0, True, call.seal_to)
    seal = Seals(lambda: KEY, lambda: ("acme", "plant-1")).open(claim).seal
    assert seal is not None
    return seal


def rows(seal: ResultSeal, lines: bytes = LINES, index: int = 0) -> bytes:
    first, sealer = seal.row_set(index, COLUMNS)
    return first + sealer.frames(lines) + sealer.frame(b"", last=True)


def ended(seal: ResultSeal | None, *counts: int, state: str = "succeeded", attempts: int = 1, **more: Any) -> bytes:
    """A command as a broker shows it."""
    outputs: Any = None
    if seal is not None:
        done = [RowSetDone(1, count, "00") for count in more.pop("sealed_counts", counts)]
        outcome = more.pop("outcome", "succeeded")
        completed = Completed("cmd_1", attempts, outcome, row_sets=done, warnings=["late"], **more.pop("told", {}))
        outputs = json.loads(seal.end(completed, b'{"total":"3.50"}')[1])
    row_sets = [{"columns": [], "rows": count, "sealed": True} for count in counts]
    facts = {"id": "cmd_1", "state": state, "operation": "rows", "attempts": attempts, "sealed": True}
    return json.dumps(
        {**facts, "outputs": outputs, "row_sets": row_sets, "warnings": [], "error": None, **more}
    ).encode()


def http(body: bytes, kind: str = "application/json", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def octets(body: bytes) -> bytes:
    return http(body, "application/octet-stream")


@pytest.fixture
def client_of() -> Iterator[Callable[[RawServer], Outhaul]]:
    made: list[Outhaul] = []

    def client(server: RawServer) -> Outhaul:
        made.append(Outhaul(server.url, "key", pause=lambda _: None))
        return made[-1]

    yield client
    for one in made:
        one.close()


Client = Callable[[RawServer], Outhaul]


def test_a_result_is_read_as_if_it_were_in_clear(client_of: Client) -> None:
    call = call_of()
    seal = seal_of(call)
    with RawServer([octets(rows(seal)), http(ended(seal, 2))]) as server:
        reading = client_of(server).unsealed(call)
        assert list(reading.rows("cmd_1")) == [{"no": "1", "total": "1.10"}, {"no": "2", "total": None}]
        command = reading.command("cmd_1")
    assert command.outputs == {"total": "3.50"}
    assert command.warnings == ["late"]
    assert [column.name for column in command.row_sets[0].columns] == ["no", "total"]
    document = json.loads(command.raw)
    assert document["outputs"] == {"total": "3.50"}
    assert document["row_sets"][0]["columns"][1]["type"] == "decimal"
    assert len(server.requests) == 2, "the columns are known from the rows"


def test_csv_is_written_here(client_of: Client) -> None:
    call = call_of()
    with RawServer([octets(rows(seal_of(call)))]) as server:
        text = b"".join(client_of(server).unsealed(call).stream("cmd_1", 0, "csv"))
    assert text == b"no,total\r\n1,1.10\r\n2,\r\n"


def test_the_erps_words_are_shown(client_of: Client) -> None:
    call = call_of()
    told = {"error_kind": "business", "error_code": "source_rejected", "error_message": "no C042", "source_code": "P1"}
    error = {"kind": "business", "code": "source_rejected", "message": "sealed", "source_code": ""}
    shown = ended(seal_of(call), state="rejected", outcome="rejected", told=told, error=error)
    with RawServer([http(shown)]) as server:
        command = client_of(server).unsealed(call).command("cmd_1")
    assert command.error is not None
    assert (command.error.code, command.error.message, command.error.source_code) == (
        "source_rejected",
        "no C042",
        "P1",
    )


LIES: dict[str, Callable[[SealedCall], list[bytes]]] = {
    "no end": lambda call: [http(ended(None))],
    "an end in clear": lambda call: [http(ended(None).replace(b'"outputs": null', b'"outputs": {"total": 1}'))],
    "an end of another command": lambda call: [http(ended(seal_of(call, command_id="cmd_2")))],
    "an end of another call": lambda call: [http(ended(seal_of(call_of())))],
    "an end that was no success": lambda call: [http(ended(seal_of(call), outcome="failed"))],
    "a row set left out": lambda call: [http(ended(seal_of(call), sealed_counts=(2,)))],
    "another number of rows": lambda call: [http(ended(seal_of(call), 2, sealed_counts=(3,)))],
    "rows of an earlier attempt": lambda call: [
        http(ended(seal_of(call, epoch=2), 2, attempts=2)),
        octets(rows(seal_of(call, epoch=1))),
    ],
    "an end of a later attempt than it tells, with rows of the earlier": lambda call: [
        http(ended(seal_of(call, epoch=2), 2, attempts=1)),
        octets(rows(seal_of(call, epoch=1))),
    ],
    "that a success has failed": lambda call: [http(ended(seal_of(call), state="failed"))],
    "that what is in doubt has failed": lambda call: [http(ended(seal_of(call), state="failed", outcome="in_doubt"))],
    "rows of another row set": lambda call: [http(ended(seal_of(call), 2)), octets(rows(seal_of(call), index=1))],
    "rows in clear": lambda call: [http(ended(seal_of(call), 2)), octets(LINES * 10)],
    "no rows": lambda call: [http(ended(seal_of(call), 2)), octets(b"")],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_broker_that_lies_is_told(client_of: Client, lie: str) -> None:
    call = call_of()
    with RawServer(LIES[lie](call)) as server, pytest.raises(SealBroken):
        client_of(server).unsealed(call).command("cmd_1")


def test_rows_that_were_given_of_an_attempt_that_failed_later_are_told(client_of: Client) -> None:
    call = call_of()
    first, second = seal_of(call), seal_of(call, epoch=2)
    answers = [octets(rows(first)), http(ended(second, 2, attempts=2)), octets(rows(second))]
    with RawServer([*answers, *answers[1:]]) as server:
        reading = client_of(server).unsealed(call)
        assert len(list(reading.lines("cmd_1"))) == 2
        with pytest.raises(SealBroken, match="is of attempt 1, and the command ended with attempt 2: read it again"):
            reading.command("cmd_1")
        assert reading.command("cmd_1").outputs == {"total": "3.50"}


def test_rows_that_were_given_are_of_the_attempt_that_ended_also_where_they_are_gone_now(client_of: Client) -> None:
    call = call_of()
    gone = http(b'{"title":"gone","code":"result_gone"}', "application/problem+json", "410 Gone")
    second = http(ended(seal_of(call, epoch=2), 2, attempts=2))
    with RawServer([octets(rows(seal_of(call))), second, gone]) as server:
        reading = client_of(server).unsealed(call)
        assert len(list(reading.lines("cmd_1"))) == 2
        with pytest.raises(SealBroken, match="is of attempt 1, and the command ended with attempt 2"):
            reading.command("cmd_1")


def test_a_success_whose_rows_the_broker_lost_is_no_lie(client_of: Client) -> None:
    call = call_of()
    lost = {"kind": "technical", "code": "result_lost", "message": "it ran, but its rows were lost", "source_code": ""}
    with RawServer([http(ended(seal_of(call), state="in_doubt", error=lost))]) as server:
        assert client_of(server).unsealed(call).command("cmd_1").state == "in_doubt"


def test_what_a_person_found_out_has_no_end_of_an_agent(client_of: Client) -> None:
    shown = ended(None, resolution={"found": "happened", "by": "key_1"})
    with RawServer([http(shown)]) as server:
        assert client_of(server).unsealed(call_of()).command("cmd_1").succeeded


def test_one_that_has_not_ended_has_nothing_to_open(client_of: Client) -> None:
    with RawServer([http(ended(None, state="running"))]) as server:
        assert client_of(server).unsealed(call_of()).command("cmd_1").state == "running"


@pytest.mark.parametrize("status", ["410 Gone", "404 Not Found"])
def test_rows_that_were_removed_are_missed_by_who_asks_for_them_only(client_of: Client, status: str) -> None:
    call = call_of()
    gone = http(b'{"title":"gone","code":"result_gone"}', "application/problem+json", status)
    with RawServer([http(ended(seal_of(call), 2)), gone]) as server:
        reading = client_of(server).unsealed(call)
        assert reading.command("cmd_1").outputs == {"total": "3.50"}
        with pytest.raises(ProblemError):
            list(reading.rows("cmd_1"))


def test_a_body_that_is_cut_is_cut_and_not_broken(client_of: Client) -> None:
    call = call_of()
    whole = octets(rows(seal_of(call)))
    with RawServer([whole[:-30]]) as server, pytest.raises(ResultCut):
        list(client_of(server).unsealed(call).rows("cmd_1"))


def test_rows_that_end_inside_a_row_are_cut(client_of: Client) -> None:
    call = call_of()
    with RawServer([octets(rows(seal_of(call), LINES[:-5]))]) as server, pytest.raises(ResultCut, match="row 2"):
        list(client_of(server).unsealed(call).rows("cmd_1"))


def test_the_command_line_says_it_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    call = call_of()
    call.keep(tmp_path / "key")
    seal = seal_of(call)
    broken = rows(seal)[:-1] + b"x"
    with RawServer([http(ended(seal, 2, state="running")), octets(broken)]) as server:
        monkeypatch.setenv("OUTHAUL_URL", server.url)
        monkeypatch.setenv("OUTHAUL_KEY", "key")
        words = ["commands", "rows", "cmd_1", "--format", "ndjson", "--seal-key", str(tmp_path / "key")]
        assert main(words) == 1
    assert "row set 0 of cmd_1 is not what the agent sealed" in capfd.readouterr().err


# --- sealing ------------------------------------------------------------------------------------------------


def agent_answer(**keys: str) -> bytes:
    return http(json.dumps({"name": "plant-1", "tenant": "acme", "keys": keys or None}).encode())


def test_the_agents_key_is_asked_for_and_known_from_then_on(
    client_of: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    other = sealing.key_text(X25519PrivateKey.generate().public_key().public_bytes_raw())
    answers = [agent_answer(sign="ed25519:a", seal=PUBLIC)] * 2 + [agent_answer(sign="ed25519:a", seal=other)]
    with RawServer(answers) as server:
        client = client_of(server)
        for _ in range(2):
            assert client.seal("plant-1", "rows", {"n": 1}).asks("plant-1", "rows", b'{"n":1}')
        with pytest.raises(AgentKeyChanged, match="outhaul-agent identity"):
            client.seal("plant-1", "rows", {"n": 1})
        assert seal_of(client.seal("plant-1", "rows", agent_key=PUBLIC))


def test_an_agent_without_a_key_is_sealed_nothing(client_of: Client) -> None:
    with RawServer([agent_answer()]) as server, pytest.raises(WordsError, match="has shown no keys"):
        client_of(server).seal("plant-1", "rows")


def test_a_call_is_sent_sealed(client_of: Client) -> None:
    call = call_of("rows", b'{"customer":"C042"}')
    with RawServer([http(ended(None, state="queued"))]) as server:
        client_of(server).call(sealed=call)
    (request,) = server.requests
    assert json.loads(request.partition("\r\n\r\n")[2]) == {
        "agent": "plant-1",
        "operation": "rows",
        "sealed": call.text,
        "seal_to": call.seal_to,
    }


def test_nothing_secret_is_shown_of_a_call() -> None:
    call = call_of()
    assert all(name not in repr(call) for name in ("_key", "_secret", "_digest"))


def test_a_kept_call_reads_what_comes_back(tmp_path: Path) -> None:
    call = call_of("rows", b'{"n":1}')
    call.keep(tmp_path / "key")
    kept = SealedCall.kept(tmp_path / "key")
    assert kept == call
    assert kept.asks("plant-1", "rows", b'{"n":1}')
    assert not any(
        kept.asks(*other)
        for other in [("plant-2", "rows", b'{"n":1}'), ("plant-1", "r", b"{}"), ("plant-1", "rows", b"{}")]
    )
    assert kept.end("cmd_1", json.dumps(json.loads(ended(seal_of(call)))["outputs"]).encode()) is not None
    if sys.platform != "win32":
        assert os.stat(tmp_path / "key").st_mode & 0o777 == 0o600
    with pytest.raises(WordsError, match="exists"):
        call_of().keep(tmp_path / "key")
    assert SealedCall.kept(tmp_path / "key") == call


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format":"other"}', "\xff"])
def test_a_file_of_another_kind_is_no_key(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_bytes(text.encode("latin-1"))
    with pytest.raises(WordsError, match="--seal-key"):
        SealedCall.kept(tmp_path / "key")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(WordsError, match="can't be read"):
        SealedCall.kept(tmp_path / "key")
    with pytest.raises(WordsError, match="can't be written"):
        call_of().keep(tmp_path / "no" / "key")


# --- known agents -----------------------------------------------------------------------------------------------

PLANT = KnownAgent("acme", "ed25519:a", "x25519:b")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path), "APPDATA": str(tmp_path)}


def test_an_agent_is_new_once(environ: dict[str, str]) -> None:
    path = known_agents.check("https://a", None, "plant-1", PLANT, environ)
    assert path is not None
    assert path.name == "known_agents.json"
    assert known_agents.check("https://a", None, "plant-1", PLANT, environ) is None


@pytest.mark.parametrize(
    "place", [("https://b", None, "plant-1"), ("https://a", "t", "plant-1"), ("https://a", None, "p")]
)
def test_another_broker_tenant_or_name_is_another_agent(
    environ: dict[str, str], place: tuple[str, str | None, str]
) -> None:
    known_agents.check("https://a", None, "plant-1", PLANT, environ)
    assert known_agents.check(*place, KnownAgent("acme", "ed25519:c", "x25519:d"), environ) is not None


@pytest.mark.parametrize(
    "other",
    [
        KnownAgent("acme", "ed25519:a", "x25519:c"),
        KnownAgent("acme", "ed25519:c", "x25519:b"),
        # A broker that calls the tenant otherwise must not make the agent new.
        KnownAgent("beta", "ed25519:c", "x25519:d"),
    ],
)
def test_a_known_agent_has_the_keys_that_it_had(environ: dict[str, str], other: KnownAgent) -> None:
    known_agents.check("https://a", None, "plant-1", PLANT, environ)
    with pytest.raises(AgentKeyChanged, match="plant-1 shows other keys than before"):
        known_agents.check("https://a", None, "plant-1", other, environ)
    assert known_agents.check("https://a", None, "plant-1", PLANT, environ) is None


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_damaged_file_of_known_agents_is_no_empty_one(environ: dict[str, str], tmp_path: Path, text: str) -> None:
    known_agents.check("https://a", None, "plant-1", PLANT, environ)
    (tmp_path / "outhaul" / "known_agents.json").write_text(text)
    with pytest.raises(ProfileError, match="known_agents"):
        known_agents.check("https://a", None, "plant-1", PLANT, environ)


def test_keys_are_given_in_any_order() -> None:
    assert known_agents.given("x25519:b, ed25519:a") == {"sign": "ed25519:a", "seal": "x25519:b"}
    with pytest.raises(WordsError):
        known_agents.given("x25519:a,x25519:b")
