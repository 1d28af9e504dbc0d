"""That the store of the benchmark is one that the broker could have written, and that its figures are there."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bench import grown
from bench.store import ACME, FAR, REMOVED_EACH, _beside_many, _while_removing
from cloud_broker.audit.trail import AuditFilter
from cloud_broker.store.commands import CommandFilter
from cloud_broker.store.sqlite import SqliteStore
from protocol.states import CommandState

COUNT = 500


def test_a_store_is_grown_once_and_is_like_one_of_the_brokers(tmp_path: Path) -> None:
    path = grown.store(tmp_path, COUNT)
    made = path.stat().st_mtime_ns
    assert grown.store(tmp_path, COUNT) == path
    assert path.stat().st_mtime_ns == made

    async def look() -> None:
        store = SqliteStore(path)
        await store.open()
        try:
            page = await store.commands(ACME, CommandFilter(state=CommandState.SUCCEEDED), None, 3)
            assert [one.id[-3:] for one in page.items] == ["500", "499", "498"]
            assert all(one.finished_at and one.finished_at < time.time() for one in page.items)
            notes = await store.audit_page(ACME.tenant, AuditFilter(), None, 1)
            assert notes.items[0].number == 2 * COUNT
            assert await store.open_commands() == []
            assert await store.forget_before(FAR, REMOVED_EACH) == []
            assert (await store.commands(ACME, CommandFilter(), None, 3)).items == []
        finally:
            await store.close()

    asyncio.run(look())


def test_the_figures_of_a_store_are_there(tmp_path: Path) -> None:
    full = grown.store(tmp_path, COUNT)
    figures = asyncio.run(_beside_many(tmp_path, full, 1, 128, COUNT))
    figures += asyncio.run(_while_removing(tmp_path, 1, 64, COUNT))
    assert len(figures) == 6
    assert all(min(*figure.ours, *figure.peer) > 0 for figure in figures)
