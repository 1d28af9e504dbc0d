"""The audit trail in the embedded store: it only grows, and breaks with no process and on no full disk."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud_broker.audit import lines as audit_lines
from cloud_broker.audit.check import by_chain
from cloud_broker.audit.verify import Chain, of_store
from cloud_broker.store.sqlite import SqliteStore
from tests.cloud_broker.test_store_sqlite import opened
from tests.contracts.audit import AuditContract, records
from tests.contracts.records import ACME, command, finish


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """An open store."""
    made = await opened(tmp_path / "broker.db")
    yield made
    await made.close()


class TestSqliteAudit(AuditContract):
    """The embedded store does what every store must."""


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'key:ff'",
        "DELETE FROM audit WHERE number = 1",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE number = 1",
        "REPLACE INTO audit SELECT tenant, number, at, 'key:ff', action, target, '', '{}', previous, hash FROM audit",
        "INSERT INTO audit SELECT tenant, 9, at, actor, action, target, '', '{}', previous, hash FROM audit LIMIT 1",
    ],
)
async def test_the_database_itself_refuses_to_change_it(store: SqliteStore, statement: str) -> None:
    before = await records(store)
    connection = sqlite3.connect(store.path)
    with pytest.raises(sqlite3.IntegrityError, match="the audit trail only grows"):
        connection.execute(statement)
    connection.close()
    assert await records(store) == before


async def some(store: SqliteStore, count: int = 5) -> None:
    for _ in range(count):
        one = command()
        await store.add_command(ACME, one)
        await store.finish(ACME, one.id, finish())


def tamper(path: Path, *statements: str) -> None:
    """Do what somebody does who owns the machine."""
    connection = sqlite3.connect(path)
    for name in ("audit_is_not_changed", "audit_is_not_removed", "audit_grows_at_its_end"):
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


async def found(path: Path, kept: list[bytes] | None = None) -> dict[str, Chain]:
    store = SqliteStore(path)
    await store.open()
    try:
        return {one.tenant: one for one in await of_store(store, by_chain(audit_lines.kept(kept or [])))}
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("UPDATE audit SET actor = 'key:ff' WHERE tenant = 'acme' AND number = 4", 4),
        ("UPDATE audit SET at = '2020-01-01T00:00:00.000000Z' WHERE tenant = 'acme' AND number = 1", 1),
        ("DELETE FROM audit WHERE tenant = 'acme' AND number = 7", 7),
        ("DELETE FROM audit WHERE tenant = 'acme' AND number < 3", 1),
        ("DELETE FROM audit WHERE tenant = 'acme'", 1),
        ("UPDATE audit SET tenant = 'other', number = 50 WHERE tenant = 'acme' AND number = 5", 5),
    ],
)
async def test_what_somebody_does_who_owns_the_machine_is_named(tmp_path: Path, statement: str, number: int) -> None:
    store = await opened(tmp_path / "broker.db")
    await some(store)
    await store.close()
    tamper(store.path, statement)
    misfit = (await found(store.path))["acme"].misfit
    assert misfit is not None
    assert misfit.number == number


async def test_a_chain_that_was_cut_or_put_back_or_removed_shows_against_an_earlier_export(tmp_path: Path) -> None:
    store = await opened(tmp_path / "broker.db")
    await some(store, 2)
    await store.close()
    backup = tmp_path / "backup.db"
    shutil.copy(store.path, backup)
    await store.open()
    await some(store, 3)
    export = [audit_lines.encode(record) for record in await records(store)]
    await store.close()
    assert (await found(store.path, export))["acme"].misfit is None
    for path, statements, number in (
        (backup, (), 6),
        (store.path, ("DELETE FROM audit WHERE tenant = 'acme' AND number > 8",), 9),
        (store.path, ("DELETE FROM audit WHERE tenant = 'acme'", "DELETE FROM tenants WHERE name = 'acme'"), 1),
    ):
        harmed = tmp_path / "harmed.db"
        shutil.copy(path, harmed)
        tamper(harmed, *statements)
        assert (await found(harmed))["acme" if number > 1 else "other"].misfit is None
        misfit = (await found(harmed, export))["acme"].misfit
        assert misfit is not None
        assert (misfit.number, "cut" in misfit.what) == (number, True)


async def test_a_chain_that_was_written_anew_shows_against_one_hash_that_somebody_kept(tmp_path: Path) -> None:
    store = await opened(tmp_path / "broker.db")
    await some(store)
    anchor = audit_lines.encode((await records(store))[6])
    await store.close()
    forged = await opened(tmp_path / "forged.db")
    await some(forged)
    await forged.close()
    assert (await found(forged.path))["acme"].misfit is None
    misfit = (await found(forged.path, [anchor]))["acme"].misfit
    assert misfit is not None
    assert misfit.number == 7


WRITER = """
import asyncio, sys
from pathlib import Path
from cloud_broker.store.sqlite import SqliteStore
from tests.contracts.records import ACME, command

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    count = int(sys.argv[2])
    async def caller():
        for _ in range(count):
            kept, _ = await store.add_command(ACME, command())
            sys.stdout.write(kept.id + "\\n")
            sys.stdout.flush()
    await asyncio.gather(*(caller() for _ in range(8)))
    await store.close()

asyncio.run(main())
"""


async def test_several_processes_write_one_chain(store: SqliteStore) -> None:
    command_line = [sys.executable, "-c", WRITER, str(store.path), "25"]
    others = [await asyncio.create_subprocess_exec(*command_line, stdout=asyncio.subprocess.PIPE) for _ in range(2)]
    await asyncio.gather(
        *(store.add_command(ACME, command()) for _ in range(200)), *(one.communicate() for one in others)
    )
    assert [one.returncode for one in others] == [0, 0]
    (acme, _) = await of_store(store, {})
    assert (acme.records, acme.misfit) == (1 + 200 + 2 * 200, None)


def test_after_a_kill_every_command_that_was_answered_is_noted_and_the_chain_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    asyncio.run(_made(path))
    words = [sys.executable, "-c", WRITER, str(path), "100000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        answered = [child.stdout.readline().strip() for _ in range(300)]
        child.kill()
        answered += child.stdout.read().split("\n")[:-1]

    async def look() -> tuple[set[str], set[str], list[Chain]]:
        store = await opened(path)
        noted = {record.target.removeprefix("command:") for record in await records(store)}
        there = {one.id for one in await store.open_commands()}
        chains = await of_store(store, {})
        await store.close()
        return noted, there, chains

    noted, there, chains = asyncio.run(look())
    assert set(answered) <= there == noted - {"tenant:acme"}
    assert [one.misfit for one in chains] == [None, None]


async def _made(path: Path) -> None:
    await (await opened(path)).close()


@pytest.mark.skipif(sys.platform == "win32", reason="only POSIX limits the size of files, which plays a full disk")
def test_on_a_full_disk_nothing_happens_that_is_not_noted_and_with_space_the_chain_goes_on(tmp_path: Path) -> None:
    words = [sys.executable, "-c", FULL_DISK, str(tmp_path / "broker.db")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["refused", "same", "accepted", "whole"]


FULL_DISK = """
import asyncio, resource, os, sys
from pathlib import Path
from cloud_broker.audit.trail import Act
from cloud_broker.audit.verify import of_store
from cloud_broker.errors import StoreUnavailable
from tests.cloud_broker.test_store_sqlite import opened
from tests.contracts.audit import records
from tests.contracts.records import ACME, command

async def main():
    store = await opened(Path(sys.argv[1]))
    await store.add_command(ACME, command())
    size = max(os.path.getsize(f"{store.path}{end}") for end in ("", "-wal"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        while True:
            await store.add_command(ACME, command(params=b'"' + b"x" * 5000 + b'"'))
    except StoreUnavailable:
        print("refused")
    store.note_soon(Act("acme", "broker", "approval_asked", "approval:1", 1.0))
    noted = len(await records(store)) - 1
    print("same" if noted == len(await store.open_commands()) else "other")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.add_command(ACME, command())
    print("accepted")
    chains = await of_store(store, {})
    carried = [one.action for one in await records(store)].count("approval_asked")
    print("whole" if carried == 1 and not any(one.misfit for one in chains) else chains)
    await store.close()

import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
asyncio.run(main())
"""
