"""Contents too large for JSON, both ways, through both programs."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import shutil
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from config.dev.demo.programs import Answer, run
from tests.faults.proxy import Proxy, Toxics
from tests.waiting import until_so
from tests.whole.site import AgentSite, Broker, Caller, agent, broker, peak_bytes

MIB = 1_048_576
FILES = """
[link]
proxy = "none"
urls = ["wss://127.0.0.1:{port}"]

[connections.edi]
type = "file"
root = "edi"

[operations.drop]
connection = "edi"
drop = "{{name}}"
format = {{ type = "raw" }}
effect = "once"
timeout = "5min"
[operations.drop.params]
name = {{ type = "string" }}

[operations.drop-small]
connection = "edi"
drop = "{{name}}"
format = {{ type = "raw" }}
max_bytes = 1000
[operations.drop-small.params]
name = {{ type = "string" }}

[operations.drop-rows]
connection = "edi"
drop = "rows.csv"
format = {{ type = "csv", columns = ["a"] }}

[operations.pick]
connection = "edi"
pick = "*.bin"
format = {{ type = "raw" }}
timeout = "5min"
"""


def content(size: int) -> bytes:
    """Return bytes that nothing compresses, the same for the same size."""
    return random.Random(size).randbytes(size)  # noqa: S311 - it keeps no secret


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Caller]]:
    """A broker of these tests' own, and a tenant."""
    with broker(tmp_path_factory.mktemp("broker")) as made, made.tenant("acme") as caller:
        yield made, caller


@pytest.fixture(scope="module")
def way(platform: tuple[Broker, Caller]) -> Iterator[Proxy]:
    with Proxy(platform[0].link_port) as made:
        yield made


@pytest.fixture(scope="module")
def linked(
    tmp_path_factory: pytest.TempPathFactory, platform: tuple[Broker, Caller], way: Proxy
) -> Iterator[AgentSite]:
    """An agent of these tests' own, online, that dials through the proxy."""
    folder = tmp_path_factory.mktemp("agent")
    with agent(AgentSite(folder, FILES.format(port=way.port)), *platform) as made:
        yield made


@pytest.fixture
def proxy(way: Proxy) -> Iterator[Proxy]:
    yield way
    way.clear()


@pytest.fixture
def site(linked: AgentSite) -> AgentSite:
    """The agent, with an empty folder."""
    shutil.rmtree(linked.folder / "edi", ignore_errors=True)
    (linked.folder / "edi").mkdir()
    return linked


def grown(file: Path, size: int) -> bool:
    return file.exists() and file.stat().st_size > size


def send(caller: Caller, data: bytes, **headers: str) -> dict[str, Any]:
    answer = caller.post("/v1/blobs", content=data, headers=headers)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_large_file_is_dropped_in_little_memory(platform: tuple[Broker, Caller], site: AgentSite) -> None:
    made, caller = platform
    send(caller, content(MIB))
    before = peak_bytes(made.program.pid), peak_bytes(site.program.pid)
    data = content(48 * MIB)
    blob = send(caller, data)
    assert blob == {"blob": blob["blob"], "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    ended = caller.run("drop", {"name": "big.bin", "content": {"blob": blob["blob"]}})
    assert ended["state"] == "succeeded", ended
    assert ended["outputs"] == {"name": "big.bin", "bytes": len(data), "sha256": blob["sha256"]}
    assert (site.folder / "edi" / "big.bin").read_bytes() == data
    grown = [peak_bytes(pid) - peak for pid, peak in zip((made.program.pid, site.program.pid), before, strict=True)]
    assert max(grown) < 16 * MIB, grown
    assert not list((site.folder / "state" / "blobs").iterdir())


def test_a_large_file_is_picked_in_little_memory(platform: tuple[Broker, Caller], site: AgentSite) -> None:
    made, caller = platform
    # The first one is no small one either: what is compared is what the size of a file adds.
    data, small = content(40 * MIB + 1), content(8 * MIB)
    (site.folder / "edi" / "a.bin").write_bytes(small)
    first = caller.run("pick")
    assert caller.get(f"/v1/commands/{first['id']}/content").content == small
    assert len(caller.rows(first)) == 1
    before = peak_bytes(made.program.pid), peak_bytes(site.program.pid)
    (site.folder / "edi" / "b.bin").write_bytes(data)
    (site.folder / "edi" / "c.bin").write_bytes(b"")
    ended = caller.run("pick")
    assert ended["state"] == "succeeded", ended
    assert [(one["name"], one["bytes"], one["sha256"]) for one in ended["outputs"]["files"]] == [
        (name, len(one), hashlib.sha256(one).hexdigest())
        for name, one in (("a.bin", small), ("b.bin", data), ("c.bin", b""))
    ]
    for name, one in (("a.bin", small), ("b.bin", data), ("c.bin", b"")):
        answer = caller.get(f"/v1/commands/{ended['id']}/content", params={"file": name})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
        assert answer.content == one
    assert caller.get(f"/v1/commands/{ended['id']}/content").content == small
    rows = caller.rows(ended)
    assert [row["file"] for row in rows] == ["a.bin", "b.bin", "c.bin"]
    assert base64.b64decode(rows[1]["content"]) == data
    unknown = caller.get(f"/v1/commands/{ended['id']}/content", params={"file": "d.bin"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "content_not_found")
    grown = [peak_bytes(pid) - peak for pid, peak in zip((made.program.pid, site.program.pid), before, strict=True)]
    assert max(grown) < 16 * MIB, grown


def test_what_is_no_blob_is_refused_before_anything_is_kept(platform: tuple[Broker, Caller], site: AgentSite) -> None:
    made, caller = platform
    blob = send(caller, b"x" * 2_000)["blob"]
    with made.tenant("other") as other:
        theirs = send(other, b"theirs")["blob"]
    for wrong in ("blob_" + "0" * 26, theirs, "", "../" + blob, blob + "\0", 5, None):
        answer = caller.submit("drop", {"name": "x", "content": {"blob": wrong}})
        assert answer.status_code in (404, 422), answer.text
        if isinstance(wrong, str):
            assert answer.json()["code"] == "blob_not_found", wrong
    for reference in ({"blob": blob, "sha256": "0" * 64}, {"blob": blob, "bytes": 1}, {}, {"sha256": "0" * 64}):
        assert caller.submit("drop", {"name": "x", "content": reference}).status_code == 422, reference
    rows = caller.submit("drop-rows", {"rows": {"blob": blob}})
    assert (rows.status_code, "raw" in rows.text) == (422, True), rows.text


def test_the_operators_limit_is_held_before_a_byte_is_fetched(
    platform: tuple[Broker, Caller], site: AgentSite, proxy: Proxy
) -> None:
    caller = platform[1]
    blob = send(caller, content(8 * MIB))["blob"]
    before = proxy.carried["down"]
    ended = caller.run("drop-small", {"name": "x", "content": {"blob": blob}})
    assert (ended["state"], ended["error"]["code"]) == ("failed", "parameters_invalid"), ended
    assert "max_bytes" in ended["error"]["message"]
    assert proxy.carried["down"] - before < MIB
    large = caller.run("drop-small", {"name": "x", "content": base64.b64encode(b"x" * 1_001).decode()})
    assert (large["state"], large["error"]["code"]) == ("failed", "content_invalid"), large
    assert os.listdir(site.folder / "edi") == []


def test_a_blob_goes_on_where_a_link_was_cut(platform: tuple[Broker, Caller], site: AgentSite, proxy: Proxy) -> None:
    caller = platform[1]
    data = content(24 * MIB)
    blob = send(caller, data)
    proxy.set("down", Toxics(bytes_per_s=8 * MIB))
    command = caller.submit("drop", {"name": "cut.bin", "content": {"blob": blob["blob"]}}).json()
    there = site.folder / "state" / "blobs" / command["id"]
    for so_far in (4, 10, 16):
        until_so(partial(grown, there, so_far * MIB))
        proxy.cut(reset=True)
    ended = caller.final(command)
    assert (ended["state"], ended["attempts"]) == ("succeeded", 1), ended
    assert (site.folder / "edi" / "cut.bin").read_bytes() == data


@pytest.mark.parametrize("who", ["agent", "broker"])
def test_a_blob_goes_on_after_a_program_died(
    platform: tuple[Broker, Caller], site: AgentSite, proxy: Proxy, who: str
) -> None:
    made, caller = platform
    data = content(16 * MIB)
    blob = send(caller, data)
    proxy.set("down", Toxics(bytes_per_s=8 * MIB))
    command = caller.submit("drop", {"name": "died.bin", "content": {"blob": blob["blob"]}}).json()
    there = site.folder / "state" / "blobs" / command["id"]
    until_so(partial(grown, there, 6 * MIB))
    if who == "agent":
        site.kill()
        site.start(caller)
    else:
        made.kill()
        made.start()
    assert there.stat().st_size > 6 * MIB
    ended = caller.final(command)
    assert ended["state"] == "succeeded", ended
    assert (site.folder / "edi" / "died.bin").read_bytes() == data


def test_bytes_that_were_changed_on_the_agents_disk_are_fetched_again(
    platform: tuple[Broker, Caller], site: AgentSite, proxy: Proxy
) -> None:
    caller = platform[1]
    data = content(8 * MIB)
    blob = send(caller, data)
    proxy.set("down", Toxics(bytes_per_s=4 * MIB))
    command = caller.submit("drop", {"name": "again.bin", "content": {"blob": blob["blob"]}}).json()
    there = site.folder / "state" / "blobs" / command["id"]
    until_so(partial(grown, there, 2 * MIB))
    with there.open("r+b") as file:
        file.write(b"someone else's")
    ended = caller.final(command)
    assert (ended["state"], ended["attempts"]) == ("succeeded", 2), ended
    assert "content_damaged" in caller.get(f"/v1/commands/{command['id']}/timeline").text
    assert (site.folder / "edi" / "again.bin").read_bytes() == data


def half_a_body(made: Broker, caller: Caller) -> socket.socket:
    """Return a connection on which half of a blob was sent."""
    sent = content(3 * MIB)
    head = (
        f"POST /v1/blobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {caller.key}\r\nContent-Length: {2 * len(sent)}"
    )
    connection = socket.create_connection(("127.0.0.1", made.api_port))
    connection.sendall(head.encode() + b"\r\n\r\n" + sent)
    return connection


def unfinished(made: Broker) -> list[Path]:
    return list((made.folder / "data" / "blobs").glob("*/coming/*"))


def test_a_sender_who_breaks_off_leaves_nothing(platform: tuple[Broker, Caller]) -> None:
    made, caller = platform
    with half_a_body(made, caller):
        until_so(lambda: unfinished(made))
    until_so(lambda: not unfinished(made))


def test_a_broker_that_dies_in_the_middle_of_a_body_keeps_no_half_of_it(
    platform: tuple[Broker, Caller], site: AgentSite
) -> None:
    made, caller = platform
    with half_a_body(made, caller):
        until_so(lambda: unfinished(made))
        made.kill()
    assert unfinished(made)
    made.start()
    assert not unfinished(made)


def test_the_agent_removes_a_blob_whose_command_was_cancelled(
    platform: tuple[Broker, Caller], site: AgentSite, proxy: Proxy
) -> None:
    caller = platform[1]
    blob = send(caller, content(16 * MIB))["blob"]
    proxy.set("down", Toxics(bytes_per_s=MIB))
    command = caller.submit("drop", {"name": "never.bin", "content": {"blob": blob}}).json()
    there = site.folder / "state" / "blobs" / command["id"]
    until_so(there.exists)
    proxy.clear()
    caller.post(f"/v1/commands/{command['id']}/cancel")
    ended = caller.final(command)
    assert ended["state"] in ("cancelled", "succeeded"), ended
    until_so(lambda: not there.exists())


def outhaul(made: Broker, caller: Caller, home: Path, *words: str) -> Answer:
    environment = {"OUTHAUL_URL": made.url, "OUTHAUL_KEY": caller.key, "XDG_CONFIG_HOME": str(home)}
    return run(["outhaul", *words], environment=environment)


def test_the_command_line_sends_and_fetches_large_files(
    platform: tuple[Broker, Caller], site: AgentSite, tmp_path: Path
) -> None:
    made, caller = platform
    data = content(5 * MIB)
    (tmp_path / "big.bin").write_bytes(data)
    words = (
        "call",
        "plant-1",
        "drop",
        "name=big.bin",
        f"content=@{tmp_path / 'big.bin'}",
        "--idempotency-key",
        "k1",
        "--correlation-id",
        "c1",
    )
    for _ in range(2):
        answer = outhaul(made, caller, tmp_path, *words)
        assert answer.exit_code == 0, answer.text
    assert (site.folder / "edi" / "big.bin").read_bytes() == data
    assert len(caller.get("/v1/commands", params={"correlation_id": "c1"}).json()["items"]) == 1

    for more in ((), ("--seal",)):
        to = tmp_path / f"back{len(more)}.bin"
        answer = outhaul(made, caller, tmp_path, "call", "plant-1", "pick", *more, "-o", str(to))
        assert answer.exit_code == 0, answer.text
        assert to.read_bytes() == data
    (site.folder / "edi" / "small.bin").write_bytes(b"small")
    several = outhaul(made, caller, tmp_path, "call", "plant-1", "pick", "-o", str(tmp_path / "none.bin"))
    assert (several.exit_code, "--file" in several.text) == (2, True), several.text
    named = outhaul(
        made, caller, tmp_path, "call", "plant-1", "pick", "--file", "small.bin", "-o", str(tmp_path / "small.bin")
    )
    assert (named.exit_code, (tmp_path / "small.bin").read_bytes()) == (0, b"small"), named.text
    there = outhaul(made, caller, tmp_path, "call", "plant-1", "pick", "-o", str(tmp_path / "small.bin"))
    assert (there.exit_code, "is there already" in there.text) == (2, True), there.text
    sealed = outhaul(made, caller, tmp_path, *words[:-4], "--seal")
    assert (sealed.exit_code, "sealed" in sealed.text) == (2, True), sealed.text
