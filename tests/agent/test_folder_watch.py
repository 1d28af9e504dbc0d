"""What changes in a folder is noticed at once, and nothing is looked at meanwhile."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agent.folder_watch import POLL_S, FolderWatch

FAR_S = 60.0  # longer than any of these takes


@pytest.fixture
async def watch(tmp_path: Path) -> AsyncIterator[FolderWatch]:
    watch = FolderWatch(tmp_path / "watched")
    await asyncio.wait_for(watch.changed(FAR_S), 5.0)  # the first time it does not wait
    yield watch
    watch.close()


def replaced(folder: Path) -> None:
    (folder.parent / "new").write_text("x")
    (folder.parent / "new").replace(folder / "a")


@pytest.mark.parametrize("change", [replaced, lambda folder: (folder / "a").write_text("x")])
async def test_a_change_is_noticed_also_when_nobody_waited(
    watch: FolderWatch, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    change(tmp_path / "watched")
    await asyncio.wait_for(watch.changed(FAR_S), 10.0)
    (tmp_path / "watched" / "a").unlink()
    await asyncio.wait_for(watch.changed(FAR_S), 10.0)


async def test_who_waits_can_be_woken(watch: FolderWatch) -> None:
    waiting = asyncio.create_task(watch.changed(FAR_S))
    watch.wake()
    await asyncio.wait_for(waiting, 10.0)


async def test_no_change_is_no_news(watch: FolderWatch) -> None:
    waiting = asyncio.create_task(watch.changed(FAR_S))
    assert await asyncio.wait((waiting,), timeout=3 * POLL_S) == (set(), {waiting})
    waiting.cancel()


async def test_a_folder_that_was_replaced_is_watched_again(watch: FolderWatch, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "watched")
    for _ in range(3):  # the end of the old one is told, and the new one made
        await asyncio.wait_for(watch.changed(1.0), 10.0)
    (tmp_path / "watched" / "a").write_text("x")
    await asyncio.wait_for(watch.changed(FAR_S), 10.0)


async def test_what_can_not_be_watched_is_looked_at_again_and_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    watch = FolderWatch(tmp_path / "file")
    for _ in range(2):
        await asyncio.wait_for(watch.changed(FAR_S), 10.0)
