"""Contents too large for JSON, both ways, through both programs."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.faults.proxy import Proxy, Toxics
from tests.waiting import until
from tests.whole.site import AgentSite, Broker, Caller, agent, broker, children, peak_bytes

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
    return random.Random(size).randbytes(size)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[tuple[Broker, Caller]]:
    """A broker of the test's own, and a tenant."""
    with broker(tmp_path / "broker") as made, made.tenant("acme") as caller:
        yield made, caller


@pytest.fixture
def proxy(platform: tuple[Broker, Caller]) -> Iterator[Proxy]:
    with Proxy(platform[0].link_port) as made:
        yield made


@pytest.fixture
def site(tmp_path: Path, platform: tuple[Broker, Caller], proxy: Proxy) -> Iterator[AgentSite]:
    """An agent of the test's own, online, that dials through the proxy."""
    folder = tmp_path / "agent"
    (folder / "edi").mkdir(parents=True)
    with agent(AgentSite(folder, FILES.format(port=proxy.port)), *platform) as made:
        yield made


def send(caller: Caller, data: bytes, **headers: str) -> dict[str, Any]:
    answer = caller.post("/v1/blobs", content=data, headers=headers)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_large_file_is_dropped_in_little_memory(platform: tuple[Broker, Caller], site: AgentSite) -> None:
    made, caller = platform
    send(caller, content(MIB))
    before = peak_bytes(made.program.pid), peak_bytes(site.program.pid)
    data = content(96 * MIB)
    blob = send(caller, data)
    assert blob == {"blob": blob["blob"], "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    ended = caller.run("drop", {"name": "big.bin", "content": {"blob": blob["blob"]}})
    assert ended["state"] == "succeeded", ended
    assert ended["outputs"] == {"name": "big.bin", "bytes": len(data), "sha256": blob["sha256"]}
    assert (site.folder / "edi" / "big.bin").read_bytes() == data
    grown = [peak_bytes(pid) - peak for pid, peak in zip((made.program.pid, site.program.pid), before, strict=True)]
    assert max(grown) < 24 * MIB, grown
    assert not list((site.folder / "state" / "blobs").iterdir())
