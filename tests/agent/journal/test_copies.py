"""The journal through releases: forward with a copy, refused where it is of a later one, and back."""

from __future__ import annotations

import collections
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import RELEASE
from agent.errors import AgentError, JournalOfLaterRelease
from agent.journal import copies, frames, log, records
from agent.journal.file import FOLDER, FileJournal
from agent.journal.reading import HEAD
from tests.agent.journal.commands import claim, command_id
from tests.waiting import until


@pytest.fixture
def another(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """What makes this program another release for a while."""
    with monkeypatch.context() as patched:
        yield patched


def is_release(another: pytest.MonkeyPatch, release: str, version: int = 1) -> None:
    for module in (log, copies):
        another.setattr(module, "RELEASE", release)
    another.setattr("agent.journal.file.RELEASE", release)
    another.setattr(records, "VERSION", version)


async def kept(state_dir: Path, *numbers: int) -> tuple[str, set[str], bool]:
    """Open a journal and begin commands in it; return its mark, what is open in it, and whether it was damaged."""
    journal = await FileJournal.open(state_dir)
    for number in numbers:
        await journal.begin(claim(number))
    found = journal.mark, {entry.claim.id for entry in journal.unacknowledged()}, bool(journal.damages)
    await journal.close()
    return found


def heads(folder: Path) -> list[records.Head]:
    found = []
    for path in sorted(folder.glob("*.log")):
        first = frames.at(path.read_bytes(), 0, int(path.stem))
        assert first is not None
        assert first.sequence == HEAD
        head = records.decode(first.body)
        assert isinstance(head, records.Head)
        found.append(head)
    return found


async def test_another_release_keeps_a_copy_and_goes_on_with_the_same_journal(
    tmp_path: Path, another: pytest.MonkeyPatch
) -> None:
    is_release(another, "0.1.9")
    mark, _, _ = await kept(tmp_path, 1)
    before = {path.name: path.read_bytes() for path in (tmp_path / FOLDER).iterdir()}
    another.undo()

    assert await kept(tmp_path, 2) == (mark, {command_id(1), command_id(2)}, False)
    copy = tmp_path / "journal.backup-0.1.9"
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert heads(tmp_path / FOLDER)[-1].release == RELEASE
    shutil.rmtree(copy)
    await kept(tmp_path)
    assert not copy.exists(), "it is this release's own now"

    is_release(another, "0.1.9")
    assert await kept(tmp_path, 3) == (mark, {command_id(n) for n in (1, 2, 3)}, False), "and back, with all of it"
    assert (tmp_path / f"journal.backup-{RELEASE}").is_dir()


async def test_a_new_format_is_written_after_the_copy_and_the_old_program_refuses_it(
    tmp_path: Path, another: pytest.MonkeyPatch
) -> None:
    mark, _, _ = await kept(tmp_path, 1)
    is_release(another, "9.0.0", version=2)
    assert await kept(tmp_path) == (mark, {command_id(1)}, False)
    assert {(head.version, head.release) for head in heads(tmp_path / FOLDER)} == {(2, "9.0.0")}
    another.undo()

    before = {path.name: path.read_bytes() for path in (tmp_path / FOLDER).iterdir()}
    sentence = rf"written by release 9\.0\.0, in format 2; this is {RELEASE}, which knows format 1.*put-back"
    for _ in range(2):  # it lets go of the lock
        with pytest.raises(JournalOfLaterRelease, match=sentence):
            await FileJournal.open(tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / FOLDER).iterdir()} == before

    copies.put_back(tmp_path / FOLDER, RELEASE, nothing_ran=True)
    assert await kept(tmp_path) == (mark, {command_id(1)}, False)


async def test_without_room_for_the_copy_the_format_stays_and_nothing_runs_until_there_is(
    tmp_path: Path, another: pytest.MonkeyPatch
) -> None:
    await kept(tmp_path, 1)
    is_release(another, "9.0.0", version=2)
    usage = collections.namedtuple("usage", "total used free")
    full = [True]
    real = shutil.disk_usage
    another.setattr(shutil, "disk_usage", lambda path: usage(9, 9, 0) if full[0] else real(path))
    journal = await FileJournal.open(tmp_path)
    assert "no room for a copy of the journal" in (journal.trouble or "")
    assert heads(tmp_path / FOLDER)[-1].version == 1
    full[0] = False
    await until(lambda: journal.trouble is None)
    await journal.begin(claim(2))
    await journal.close()
    assert heads(tmp_path / FOLDER)[-1].version == 2


async def test_a_journal_that_was_put_back_is_doubted_once(tmp_path: Path, another: pytest.MonkeyPatch) -> None:
    mark, _, _ = await kept(tmp_path, 1)
    is_release(another, "9.0.0")
    await kept(tmp_path, 2)
    another.undo()

    copies.put_back(tmp_path / FOLDER, RELEASE)
    doubted, there, damaged = await kept(tmp_path)
    assert (doubted != mark, there, damaged) == (True, {command_id(1)}, True)
    assert await kept(tmp_path) == (doubted, {command_id(1)}, False)
    with pytest.raises(AgentError, match="there is no copy of the journal as release 7"):
        copies.put_back(tmp_path / FOLDER, "7")
