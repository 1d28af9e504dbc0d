"""What somebody sees who has all of the broker: its wires, inside of TLS too, its files, its logs and its memory."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import secrets
import socket
import sqlite3
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from config.dev.demo.programs import Answer, Program, run
from tests.whole import recording
from tests.whole.site import AgentSite, Broker, Caller, agent

RUN: Final = 8  # bytes; so many in a row of what was sealed are in no capture
ROWS: Final = 4_000  # of some 100 bytes: more than the store keeps, so that there is a file of rows
COLUMN: Final = "c" + secrets.token_hex(4)
FILE: Final = """
[link]
proxy = "none"
[connections.erp]
type = "odbc"
connection_string = "Driver=SQLite3;Database={database}"
[operations.ledger]
connection = "erp"
sql = "SELECT no, {column} FROM ledger WHERE owner = :owner ORDER BY no"
effect = "read"
[operations.ledger.params]
owner = {{ type = "string" }}
[policy]
trusted_signers = {{ {signer} }}
[operations.order]
connection = "probe"
synthetic = "echo"
effect = "at-most-once"
allow = ["web-shop"]
[connections.probe]
type = "synthetic"
[operations.echo]
connection = "probe"
synthetic = "echo"
[operations.fail]
connection = "probe"
synthetic = "fail"
effect = "at-most-once"
"""


class Wire:
    """A relay to the API that keeps every byte of both directions."""

    def __init__(self, to: int) -> None:
        self.seen = bytearray()
        self._to = to
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, name="relay")
        self._accepting.start()

    def close(self) -> None:
        """Take no more connections, and end those there are."""
        # A close alone does not wake who waits for the next one.
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._server.close()

    def _accept(self) -> None:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            while True:
                caller, _ = self._server.accept()
                broker = socket.create_connection(("127.0.0.1", self._to))
                for source, target in ((caller, broker), (broker, caller)):
                    stack.enter_context(source)
                    pump = threading.Thread(target=self._pump, args=(source, target), name="relay")
                    pump.start()
                    stack.callback(pump.join)
                    stack.callback(_end, source)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self.seen += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@dataclass
class Place:
    """Both programs, and a caller whose way to the broker is tapped."""

    folder: Path
    broker: Broker
    site: AgentSite
    caller: Caller
    wire: Wire
    messages: Path
    environment: dict[str, str] = field(default_factory=dict)

    def outhaul(self, *words: str) -> Answer:
        return run(["outhaul", *words], environment=self.environment)

    def captured(self) -> bytes:
        """Return all that was seen and kept on the broker's side."""
        parts = [bytes(self.wire.seen), self.messages.read_bytes(), self.broker.program.log.read_bytes()]
        files = (path for path in (self.folder / "broker" / "data").rglob("*") if path.is_file())
        return b"\0".join([*parts, *(path.read_bytes() for path in files)])

    def in_memory(self, words: list[bytes]) -> list[bytes]:
        """Return those of ``words`` that are in the broker's memory."""
        found = set()
        pid = self.broker.program.pid
        with open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                place, rights, *_ = line.split()
                if not rights.startswith("rw"):
                    continue
                start, end = (int(word, 16) for word in place.split("-"))
                with contextlib.suppress(OSError, OverflowError):
                    memory.seek(start)
                    data = memory.read(end - start)
                    found |= {word for word in words if word in data}
        return sorted(found)


def rows_of(owner: str) -> list[dict[str, Any]]:
    return [{"no": f"{owner}-{n}-{secrets.token_urlsafe(12)}", COLUMN: secrets.token_urlsafe(40)} for n in range(ROWS)]


@pytest.fixture(scope="module")
def owners() -> dict[str, list[dict[str, Any]]]:
    """What the ERP has of two customers, nothing of which anybody could guess."""
    return {owner: rows_of(owner) for owner in (f"own-{secrets.token_urlsafe(12)}" for _ in range(2))}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, owners: dict[str, list[dict[str, Any]]]) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("sealed")
    with contextlib.closing(sqlite3.connect(folder / "erp.db")) as erp, erp:
        erp.execute(f'CREATE TABLE ledger (owner TEXT, no TEXT, "{COLUMN}" TEXT)')
        for owner, rows in owners.items():
            erp.executemany("INSERT INTO ledger VALUES (?, ?, ?)", [(owner, row["no"], row[COLUMN]) for row in rows])
    made = Broker(folder / "broker")
    made.facts("init")
    messages = folder / "messages"
    words = [sys.executable, str(Path(recording.__file__)), str(messages), "serve", "--config", str(made.file)]
    made.program = Program(words, made.folder / "broker.log")
    made.start()
    made_key = run(
        ["outhaul", "keygen", "web-shop", "--no-passphrase", "--out", str(folder / "web-shop.key"), "--json"]
    )
    signer = json.loads(made_key.out)["line"]
    site = AgentSite(folder / "agent", FILE.format(database=folder / "erp.db", column=COLUMN, signer=signer))
    try:
        with made.tenant("acme") as caller, agent(site, made, caller):
            wire = Wire(made.api_port)
            environment = {
                "OUTHAUL_URL": f"http://127.0.0.1:{wire.port}",
                "OUTHAUL_KEY": caller.key,
                "XDG_CONFIG_HOME": str(folder / "home"),
            }
            yield Place(folder, made, site, caller, wire, messages, environment)
            wire.close()
    finally:
        made.program.stop()


def ndjson(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def runs(*texts: str) -> set[bytes]:
    """Return every run of some bytes of what must not be seen."""
    return {data[at : at + RUN] for data in (text.encode() for text in texts) for at in range(len(data) - RUN + 1)}


def shown(wanted: set[bytes], capture: bytes) -> list[bytes]:
    """Return those runs that are in a capture."""
    return sorted(wanted & {capture[at : at + RUN] for at in range(len(capture) - RUN + 1)})


def test_no_run_of_a_sealed_command_or_its_result_is_seen_at_the_broker(
    place: Place, owners: dict[str, list[dict[str, Any]]]
) -> None:
    sealed, clear = owners
    answer = place.outhaul("call", "plant-1", "ledger", f"owner={sealed}", "--seal", "--format", "ndjson")
    assert answer.exit_code == 0, answer.text
    assert sorted(ndjson(answer.out), key=lambda row: str(row["no"])) == sorted(
        owners[sealed], key=lambda row: str(row["no"])
    )
    word = secrets.token_urlsafe(24)
    told = place.outhaul("call", "plant-1", "echo", f"word={word}", "--seal", "--json")
    assert json.loads(told.out)["command"]["outputs"] == {"word": word}
    refused = place.outhaul("call", "plant-1", "fail", "kind=rejected", f"message=no-{word}", "--seal")
    assert refused.exit_code == 1
    assert f"no-{word}" in refused.err

    capture = place.captured()
    assert len(capture) > 3 * len(answer.out), "rows passed the wires, and were kept"
    # Of values: a few digits and the punctuation of JSON after them stand elsewhere by chance.
    values = [value for row in owners[sealed] for value in row.values()]
    assert shown(runs(*values, COLUMN, word, sealed), capture) == []
    words = [sealed.encode(), word.encode(), COLUMN.encode(), *(row["no"].encode() for row in owners[sealed][::400])]
    assert place.in_memory(words) == []

    # The same in clear is everywhere: what is looked into is what matters.
    place.outhaul("call", "plant-1", "ledger", f"owner={clear}", "--format", "ndjson")
    for part in (bytes(place.wire.seen), place.messages.read_bytes(), place.captured()):
        assert clear.encode() in part
        assert owners[clear][-1]["no"].encode() in part
    assert place.in_memory([clear.encode()]) == [clear.encode()]


def test_a_kept_key_reads_the_result_later_in_every_format(
    place: Place, owners: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    owner = next(iter(owners))
    key = tmp_path / "key.json"
    words = ("call", "plant-1", "ledger", f"owner={owner}", "--seal-key", str(key), "--idempotency-key", owner)
    submitted = place.outhaul(*words, "--no-wait")
    assert submitted.exit_code == 0, submitted.text
    command_id = submitted.out.strip()
    assert key.stat().st_mode & 0o077 == 0
    assert place.outhaul(*words, "--no-wait").out.strip() == command_id, "the same call again is the same command"

    reading = ("commands", "rows", command_id, "--seal-key", str(key))
    table = place.outhaul(*reading, "--max-rows", "3")
    assert table.exit_code == 0, table.text
    assert COLUMN in table.out
    found = list(csv.DictReader(io.StringIO(place.outhaul(*reading, "--format", "csv").out)))
    assert sorted(row["no"] for row in found) == sorted(row["no"] for row in owners[owner])
    document = json.loads(place.outhaul(*reading, "--format", "json").out)
    assert [column["name"] for column in document["command"]["row_sets"][0]["columns"]] == ["no", COLUMN]
    assert len(document["rows"]) == ROWS
    assert len(ndjson(place.outhaul(*reading, "--format", "ndjson").out)) == ROWS

    without = place.outhaul("commands", "rows", command_id, "--format", "csv")
    assert without.exit_code == 2
    assert "--seal-key" in without.err
    assert not without.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--no-wait", "--seal"), "add --seal-key FILE"),
        (("--seal", "--agent-keys", "ed25519:AAAA"), "wants the agent's key that begins with x25519:"),
        (("--seal", "--agent-keys", "x25519:AAAA"), "wants x25519: and 32 bytes"),
        (("--seal", "--agent-keys", "rsa:AAAA"), "--agent-keys: wants ed25519:KEY,x25519:KEY"),
    ],
)
def test_words_that_can_not_be_meant_are_told(place: Place, words: tuple[str, ...], said: str) -> None:
    answer = place.outhaul("call", "plant-1", "echo", "a=1", *words)
    assert answer.exit_code == 2
    assert said in answer.err


def test_a_group_has_no_key_to_seal_to(place: Place) -> None:
    answer = place.outhaul("call", "--group", "plants", "echo", "a=1", "--seal")
    assert answer.exit_code == 2
    assert "name the agent instead of --group" in answer.err


def test_a_file_is_for_one_call(place: Place, tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    words = ("call", "plant-1", "echo", "--seal-key", str(key))
    assert place.outhaul(*words, "a=1", "--idempotency-key", "one-call").exit_code == 0
    again = place.outhaul(*words, "a=1")
    assert (again.exit_code, "name another file" in again.err) == (2, True)
    other = place.outhaul(*words, "a=2", "--idempotency-key", "one-call")
    assert (other.exit_code, "is of another call" in other.err) == (2, True)
    wrong = place.outhaul("call", "plant-1", "echo", "a=3", "--seal", "--json")
    command_id = json.loads(wrong.out)["command"]["id"]
    broken = place.outhaul("commands", "rows", command_id, "--seal-key", str(key))
    assert broken.exit_code == 1
    assert "is not what the agent sealed" in broken.err


def test_another_key_for_a_known_agent_is_an_error(place: Place) -> None:
    assert place.outhaul("call", "plant-1", "echo", "a=1", "--seal").exit_code == 0
    known = Path(place.environment["XDG_CONFIG_HOME"]) / "outhaul" / "known_agents.json"
    kept = json.loads(known.read_text())
    (name,) = kept
    assert name.endswith(" plant-1")
    mine = kept[name]["seal"]
    assert place.outhaul("call", "plant-1", "echo", "a=1", "--agent-keys", mine, "--seal").exit_code == 0
    known.write_text(json.dumps({name: {**kept[name], "seal": "x25519:" + "A" * 43 + "="}}))
    try:
        answer = place.outhaul("call", "plant-1", "echo", "a=1", "--seal")
    finally:
        known.write_text(json.dumps(kept))
    assert answer.exit_code == 1
    assert "outhaul-agent identity" in answer.err


def test_what_is_sealed_may_be_signed_too_and_its_proof_is_checked_without_a_key(
    place: Place, owners: dict[str, list[dict[str, Any]]]
) -> None:
    signed = ("--sign-with", str(place.folder / "web-shop.key"))
    done = place.outhaul("call", "plant-1", "order", "no=4711", "--seal", *signed, "--json")
    assert done.exit_code == 0, done.text
    command = json.loads(done.out)["command"]
    assert command["outputs"] == {"no": "4711"}
    assert place.outhaul("commands", "verify", command["id"]).exit_code == 0
    unsigned = place.outhaul("call", "plant-1", "order", "no=4711", "--seal")
    assert unsigned.exit_code == 1

    rows = place.outhaul("call", "plant-1", "ledger", f"owner={next(iter(owners))}", "--seal", *signed, "--json")
    verified = place.outhaul("commands", "verify", json.loads(rows.out)["command"]["id"])
    assert verified.exit_code == 0, verified.text


def test_an_agent_that_was_started_anew_opens_what_waited_for_it(
    place: Place, owners: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    owner = next(iter(owners))
    place.site.kill()
    words = ("call", "plant-1", "ledger", f"owner={owner}", "--seal-key", str(tmp_path / "k"), "--no-wait")
    command_id = place.outhaul(*words).out.strip()
    place.site.start(place.caller)
    read = place.outhaul("commands", "rows", command_id, "--seal-key", str(tmp_path / "k"), "--format", "ndjson")
    assert read.exit_code == 0, read.text
    assert len(ndjson(read.out)) == ROWS
