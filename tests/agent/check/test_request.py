"""A running agent has tried what ``outhaul-agent check`` asks for."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.check import request
from agent.check.request import CheckRequests, Declined, Request, ask

FILE = "agent = 'plant-1'\nstate_dir = 'state'\n[connections.probe]\ntype = 'synthetic'\n"


@contextmanager
def answering(config: Path) -> Iterator[None]:
    """What a running agent does of it, and nothing else."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    task = asyncio.run_coroutine_threadsafe(CheckRequests(config.parent / "state", config).run(), loop)
    try:
        yield
    finally:
        task.cancel()
        asyncio.run_coroutine_threadsafe(_ended(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _ended() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir(mode=0o700)
    path = tmp_path / "agent.toml"
    path.write_text(FILE)
    return path


def test_the_agent_tries_everything_and_the_findings_come_one_by_one(config: Path) -> None:
    with answering(config):
        found = list(ask(config.parent / "state", Request(str(config))))
    assert found[0].subject == "account"
    assert "as the running agent" in found[0].detail
    assert {finding.stage for finding in found} >= {"file", "clock", "state", "secrets", "identity", "connections"}
    assert {finding.subject for finding in found if finding.ok is False} == {"identity"}
    assert list((config.parent / "state" / request.FOLDER).iterdir()) == []


def test_it_reads_its_file_anew(config: Path) -> None:
    with answering(config):
        config.write_text(FILE + "unknown = 1\n")
        found = list(ask(config.parent / "state", Request(str(config), "x")))
    assert [finding.code for finding in found if finding.ok is False] == ["file.broken"]


def test_an_agent_with_another_file_declines_and_names_its_own(config: Path) -> None:
    with answering(config), pytest.raises(Declined, match=rf"has another file: {config}$"):
        list(ask(config.parent / "state", Request(str(config.with_name("other.toml")))))


def test_an_agent_that_does_not_answer_is_not_waited_for(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "TAKEN_S", 0.2)
    with pytest.raises(Declined, match="does not take the check up"):
        list(ask(config.parent / "state", Request(str(config))))
    assert list((config.parent / "state" / request.FOLDER).iterdir()) == []


def test_what_can_not_be_read_and_what_nobody_fetched_is_cleared_away(config: Path) -> None:
    folder = config.parent / "state" / request.FOLDER
    folder.mkdir()
    (folder / "bad.request").write_bytes(b"\xff no request")
    old = folder / "old.answer"
    old.write_bytes(b"")
    os.utime(old, (0, time.time() - request.KEPT_S - 60))
    with answering(config):
        found = list(ask(config.parent / "state", Request(str(config))))
    assert found
    assert list(folder.iterdir()) == []
