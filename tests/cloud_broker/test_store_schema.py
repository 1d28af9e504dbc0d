"""A store of an earlier release: refused by the way, brought forward where it is asked for, and a copy kept."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections import namedtuple
from pathlib import Path

import pytest

from cloud_broker.settings import ConfigError
from cloud_broker.store import queries, schema
from cloud_broker.store.sqlite import SqliteStore
from tests.contracts.records import ACME, agent, command
from tests.previous import previous


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """An empty store of 0.1.0, as the schema of that release makes it."""
    path = tmp_path / "broker.db"
    first = (previous().source / "cloud_broker" / "store" / "sql" / "schema.sql").read_text("utf-8")
    with sqlite3.connect(path) as connection:
        connection.executescript(first)
        connection.execute("INSERT INTO tenants VALUES ('acme', 'active', 1.0)")
    connection.close()
    return path


def tables(path: Path) -> dict[str, object]:
    connection = sqlite3.connect(path)
    names = connection.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
    # What a column has when nothing is said is needed to add it, and is no part of what the store promises.
    found: dict[str, object] = {
        f"{kind} {name}": [
            (column[0], column[1], column[2], column[3], column[5])
            for column in connection.execute(f"PRAGMA table_info({name})")
        ]
        for kind, name in names
    }
    found["version"] = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return found


async def used(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    if await store.agent(ACME, "plant-1") is None:
        await store.add_agent(agent())
    one = command()
    await store.add_command(ACME, one)
    assert await store.command(ACME, one.id) == one
    await store.close()


async def opened(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()


def test_a_store_that_was_brought_forward_is_as_one_made_now(old: Path, tmp_path: Path) -> None:
    done = schema.migrate(old)
    assert done is not None
    assert (done.found, done.wanted, len(done.steps)) == (1, queries.SCHEMA_VERSION, queries.SCHEMA_VERSION - 1)

    asyncio.run(opened(tmp_path / "new.db"))
    assert tables(old) == tables(tmp_path / "new.db")
    assert tables(done.copy)["version"] == (1,)
    assert done.copy.stat().st_mode & 0o777 == 0o600
    assert schema.migrate(old) is None, "nothing is left to do"

    asyncio.run(used(old))


def test_only_who_is_asked_to_brings_a_store_forward(old: Path) -> None:
    before = old.read_bytes()
    with pytest.raises(ConfigError, match=r"written by release 0\.1\.0 .* `outhaul-broker migrate`"):
        asyncio.run(opened(old))
    planned = schema.planned(old)
    assert planned is not None
    assert planned.found == 1
    assert old.read_bytes()[100:] == before[100:], "only SQLite's own counters in the header may differ"
    assert not planned.copy.exists()


def test_a_step_that_fails_leaves_the_store_as_it_was(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(queries.MIGRATIONS, 2, queries.MIGRATIONS[2] + "\nALTER TABLE nowhere ADD COLUMN x TEXT;")
    before = tables(old)
    with pytest.raises(ConfigError, match="no such table: nowhere"):
        schema.migrate(old)
    assert tables(old) == before


def test_without_room_for_the_copy_nothing_is_changed(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**30, 2**30 - 4096, 4096))
    before = tables(old)
    with pytest.raises(ConfigError, match=r"has 0 MiB left, and a copy of broker\.db needs \d+; nothing was changed"):
        schema.migrate(old)
    assert tables(old) == before
    assert [path.name for path in old.parent.iterdir() if not path.name.endswith(("-wal", "-shm"))] == ["broker.db"]


def test_one_copy_is_kept(old: Path) -> None:
    old.with_name("broker.db.schema-0").write_bytes(b"of long ago")
    done = schema.migrate(old)
    assert done is not None
    assert sorted(path.name for path in old.parent.glob("broker.db.schema-*")) == [done.copy.name]
