"""The embedded store: its contract, group commit, crashes, a full disk, files of other releases."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule

from cloud_broker.settings import ConfigError, Settings
from cloud_broker.store import queries
from cloud_broker.store.answers import IdempotencyConflict
from cloud_broker.store.commands import Command, CommandFilter
from cloud_broker.store.open import open_store
from cloud_broker.store.sqlite import SqliteStore
from protocol.states import FINAL, CommandState
from tests.contracts.records import ACME, command, finish, settled
from tests.contracts.store import StoreContract


async def opened(path: Path) -> SqliteStore:
    store = SqliteStore(path)
    await store.open()
    if not await store.tenants():
        for name in ("acme", "other"):
            await store.create_tenant(name, 0.0)
    return store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """An open store."""
    made = await opened(tmp_path / "broker.db")
    yield made
    await made.close()


class TestSqliteStore(StoreContract):
    """The embedded store does what every store must."""


async def test_what_waits_together_is_committed_together(store: SqliteStore) -> None:
    before = store.commits

    await asyncio.gather(*(store.add_command(ACME, command()) for _ in range(300)))

    assert store.commits - before <= 20


async def test_changes_nobody_waits_for_are_kept_in_their_order(store: SqliteStore) -> None:
    one = command()
    await store.add_command(ACME, one)
    for epoch in range(1, 200):
        await store.dispatched(ACME, one.id, epoch, "plant-1", "b", 1.0, durable=False)
        await store.running(ACME, one.id, 1.0)
    await store.close()

    again = await opened(store.path)
    found = await again.command(ACME, one.id)
    await again.close()

    assert found is not None
    assert (found.epoch, found.state) == (199, CommandState.RUNNING)


async def test_a_caller_that_gives_up_takes_nobody_with_it(store: SqliteStore) -> None:
    asked = [asyncio.create_task(store.add_command(ACME, command())) for _ in range(20)]
    await asyncio.sleep(0)  # a turn of the loop, in which all of them ask
    for task in asked[::2]:
        task.cancel()

    answers = await asyncio.gather(*asked, return_exceptions=True)

    assert all(not isinstance(answer, BaseException) for answer in answers[1::2])


CHILD = """
import asyncio, sys
from pathlib import Path
from cloud_broker.store.sqlite import SqliteStore
from tests.contracts.records import ACME, command

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    await store.create_tenant("acme", 0.0)
    async def caller():
        while True:
            kept, _ = await store.add_command(ACME, command())
            sys.stdout.write(kept.id + "\\n")
            sys.stdout.flush()
    await asyncio.gather(*(caller() for _ in range(16)))

asyncio.run(main())
"""


def test_a_command_that_was_answered_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    with subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        answered = [child.stdout.readline().strip() for _ in range(500)]
        child.kill()
        # What was written between our last line and the kill was answered too; its last line may be cut.
        answered += child.stdout.read().split("\n")[:-1]

    async def look() -> set[str]:
        store = await opened(path)
        found = await store.open_commands()
        await store.close()
        return {one.id for one in found}

    kept = asyncio.run(look())
    assert len(answered) >= 500
    assert set(answered) <= kept


@pytest.mark.skipif(sys.platform == "win32", reason="only POSIX limits the size of files, which plays a full disk")
def test_on_a_full_disk_nothing_is_accepted_and_with_space_it_goes_on(tmp_path: Path) -> None:
    script = FULL_DISK.format(path=str(tmp_path / "broker.db"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["refused", "not-healthy", "readable", "accepted", "healthy"]


FULL_DISK = """
import asyncio, resource, os
from pathlib import Path
from cloud_broker.errors import StoreUnavailable
from cloud_broker.store.commands import CommandFilter
from cloud_broker.store.sqlite import SqliteStore
from tests.contracts.records import ACME, command, settled

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

async def main():
    path = Path({path!r})
    store = SqliteStore(path)
    await store.open()
    await store.create_tenant("acme", 0.0)
    first = command()
    await store.add_command(ACME, first)
    assert await store.command(ACME, first.id) == first
    wal = path.with_name(path.name + "-wal")
    room(os.path.getsize(wal) + 8192)
    refused = [command(params=b"x" * 100_000) for _ in range(3)]
    answers = await asyncio.gather(*(store.add_command(ACME, one) for one in refused), return_exceptions=True)
    assert all(isinstance(answer, StoreUnavailable) for answer in answers), answers
    assert answers[0].retry_after_s
    print("refused")
    await store.dispatched(ACME, first.id, 1, "plant-2", "b", 1.0, durable=False)
    room(1)
    assert not await store.healthy()
    print("not-healthy")
    assert await store.command(ACME, first.id) == first
    print("readable")
    await store.running(ACME, first.id, 1.0)
    room(resource.RLIM_INFINITY)
    accepted = command(params=b"x" * 100_000)
    await store.add_command(ACME, accepted)
    print("accepted")
    assert await store.healthy()
    kept = (await store.commands(ACME, CommandFilter(), None, 10)).items
    assert [(one.id, one.state) for one in kept] == [(accepted.id, "queued"), (first.id, "running")]
    print("healthy")
    await store.close()

asyncio.run(main())
"""


async def test_a_store_of_a_later_release_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    await (await opened(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {queries.SCHEMA_VERSION + 1}")
    connection.close()
    before = path.read_bytes()

    with pytest.raises(ConfigError, match=r"later release \(schema 3; this is \S+, which knows 2\)"):
        await SqliteStore(path).open()
    assert path.read_bytes() == before


async def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    path.write_bytes(b"not a database, but a letter to somebody" * 100)

    with pytest.raises(ConfigError, match="can't be opened as the broker's store"):
        await SqliteStore(path).open()
    with pytest.raises(ConfigError, match="can't be opened"):
        await SqliteStore(tmp_path / "nowhere" / "broker.db").open()


async def test_two_programs_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    stores = [SqliteStore(tmp_path / "broker.db") for _ in range(6)]
    await asyncio.gather(*(store.open() for store in stores))

    await stores[0].create_tenant("acme", 0.0)
    one = command()
    await stores[1].add_command(ACME, one)
    assert await stores[2].command(ACME, one.id) == one
    await asyncio.gather(*(store.close() for store in stores))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps rights in the folder, not in a mode")
async def test_the_file_is_its_owners_alone(store: SqliteStore) -> None:
    await store.add_command(ACME, command())
    for path in store.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


async def test_a_list_ends_early_where_its_outputs_are_large(store: SqliteStore) -> None:
    made = [command() for _ in range(12)]
    for one in made:
        await store.add_command(ACME, one)
        await store.finish(ACME, one.id, finish(outputs=b"x" * 1_048_576))

    page = await store.commands(ACME, CommandFilter(), None, 100)
    rest = await store.commands(ACME, CommandFilter(), page.next, 100)

    assert 0 < len(page.items) < len(made)
    assert [one.id for one in (*page.items, *rest.items)] == [one.id for one in reversed(made)]


def test_an_index_serves_every_list(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "plans.db")
    connection.executescript(queries.SCHEMA)
    wanted = [field.name for field in dataclasses.fields(CommandFilter)]
    bound = dict.fromkeys(["tenant", "cursor", "limit", *wanted])
    indexes = {
        "list_commands": "commands_id",
        "list_open_commands": "commands_open",
        "list_dead_letters": "commands_dead",
        "list_commands_by_correlation_id": "commands_correlation",
        "dead_letters_after": "commands_dead",
        "command_by_id": "commands_id",
        "command_by_replay_of": "commands_replay",
        "command_by_idempotency_key": "commands_idempotency",
    }
    for name, index in indexes.items():
        everything = bound | {"id": None, "idempotency_key": None, "replay_of": None}
        plan = connection.execute(f"EXPLAIN QUERY PLAN {queries.QUERIES[name]}", everything).fetchall()
        assert len(plan) == 1, (name, plan)
        assert f"USING INDEX {index} " in plan[0][3], (name, plan)
    connection.close()


def test_only_sqlite_is_there_yet(tmp_path: Path) -> None:
    assert repr(open_store(Settings(data_dir=tmp_path))).endswith("broker.db closed>")
    later = Settings(data_dir=tmp_path).model_copy(update={"store": "postgresql://db"})
    with pytest.raises(ConfigError, match="later release"):
        open_store(later)


def test_no_two_queries_share_a_name() -> None:
    assert queries.named("-- a --\nSELECT 1;\n-- b --\nSELECT 2;\n") == {"a": "SELECT 1;", "b": "SELECT 2;"}
    assert queries.named("-- a --\nid, at\n-- b --\nSELECT {a} FROM b;\n")["b"] == "SELECT id, at FROM b;"
    with pytest.raises(ValueError, match="same name"):
        queries.named("-- a --\nSELECT 1;\n-- a --\nSELECT 2;\n")


class Life(RuleBasedStateMachine):
    """Any calls in any order leave the store as a plain dictionary would be."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._runner = asyncio.Runner()
        self._store = self._runner.run(opened(Path(self._folder.name) / "broker.db"))
        self._kept: dict[str, Command] = {}

    @rule(target=ids, key=st.sampled_from([None, "k1", "k2"]), fingerprint=st.sampled_from(["f1", "f2"]))
    def submit(self, key: str | None, fingerprint: str) -> str:
        one = command(idempotency_key=key, fingerprint=fingerprint)
        earlier = next((kept for kept in self._kept.values() if key and kept.idempotency_key == key), None)
        try:
            kept, new = self._runner.run(self._store.add_command(ACME, one))
        except IdempotencyConflict:
            assert earlier is not None
            assert earlier.fingerprint != fingerprint
            return earlier.id
        assert new == (earlier is None)
        assert kept == (earlier or one)
        self._kept[kept.id] = kept
        return kept.id

    @rule(one=ids, epoch=st.integers(1, 9), durable=st.booleans())
    def dispatch(self, one: str, epoch: int, durable: bool) -> None:
        self._runner.run(self._store.dispatched(ACME, one, epoch, "plant-2", "b", 1.0, durable=durable))
        self._change(one, state=CommandState.DISPATCHED, epoch=epoch, agent="plant-2", journal="b", dispatched_at=1.0)

    @rule(one=ids)
    def run(self, one: str) -> None:
        self._runner.run(self._store.running(ACME, one, 5.0))
        self._change(one, state=CommandState.RUNNING, started_at=5.0)

    @rule(one=ids)
    def requeue(self, one: str) -> None:
        self._runner.run(self._store.requeue(ACME, one))
        self._change(one, state=CommandState.QUEUED)

    @rule(one=ids)
    def cancel(self, one: str) -> None:
        found = self._runner.run(self._store.request_cancel(ACME, one))
        self._change(one, cancel_requested=True)
        assert found == self._kept[one]

    @rule(one=ids, state=st.sampled_from(sorted(FINAL)))
    def finish(self, one: str, state: CommandState) -> None:
        was_open = self._kept[one].state not in FINAL

        async def finished() -> bool:
            return await self._store.finish(ACME, one, finish(state))

        assert self._runner.run(finished()) == was_open
        self._change(one, state=state, finished_at=finish().finished_at)

    @rule()
    def restart(self) -> None:
        self._runner.run(self._store.close())
        self._runner.run(self._store.open())

    @rule()
    def compare(self) -> None:
        self._runner.run(settled(self._store))
        still_open = [one for one in self._kept.values() if one.state not in FINAL]
        assert self._runner.run(self._store.open_commands()) == still_open
        for one in self._kept.values():
            assert self._runner.run(self._store.command(ACME, one.id)) == one

    def _change(self, one: str, **changes: object) -> None:
        if self._kept[one].state not in FINAL:
            self._kept[one] = msgspec.structs.replace(self._kept[one], **changes)

    def teardown(self) -> None:
        self.compare()
        self._runner.run(self._store.close())
        self._runner.close()
        self._folder.cleanup()


Life.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLife = Life.TestCase


async def test_what_is_removed_is_given_back_to_the_disk_while_others_write(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    store = await opened(path)
    for _ in range(40):
        made = [command(params=b'{"a": "' + b"x" * 20_000 + b'"}') for _ in range(10)]
        await store.add_commands(ACME, made)
        await asyncio.gather(*(store.finish(ACME, one.id, finish(at=1_000.0)) for one in made))

    async def submit() -> None:
        for _ in range(50):
            await store.add_command(ACME, command())

    submitting = asyncio.create_task(submit())
    assert await store.forget_before(2_000.0, 7) == []
    before = store.commits
    await store.shrink()
    # Of about 2,000 pages some are given back in each transaction; the others are those that write meanwhile.
    assert store.commits - before < 150
    await submitting

    assert len((await store.commands(ACME, CommandFilter(), None, 200)).items) == 50
    await store.close()  # the last connection writes the log into the file
    assert path.stat().st_size < 2_000_000
