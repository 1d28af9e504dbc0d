"""The journal against a dictionary: any order of calls, crashes, power cuts and failures of the disk."""

from __future__ import annotations

import asyncio
import errno
import random
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from agent.errors import JournalUnavailable
from agent.journal import writer
from agent.journal.base import Entry, Resolution
from agent.journal.file import FileJournal
from agent.journal.records import remembered
from tests.agent.journal.commands import AT, claim, command_id, succeeded
from tests.agent.journal.disks import MemoryDisk

REMEMBERS = 3
IDS = [command_id(number) for number in range(6)]
numbers = st.integers(0, len(IDS) - 1)


class JournalMachine(RuleBasedStateMachine):
    """
    Attributes:
        open: what the broker wants still.
        closed: what it wants no more, oldest first.
        past: for each command, what it may be after a power cut: as it was when something was last answered for, and
            all that it was since.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.disk = MemoryDisk()
        self.open: dict[str, Entry] = {}
        self.closed: dict[str, Entry] = {}
        self.past: dict[str, list[Entry | None]] = {}
        self.mark = ""
        self.position = 0

    @initialize()
    def begins(self) -> None:
        self._open()
        self.mark = self.journal.mark

    def teardown(self) -> None:
        self.runner.run(self.journal.close())
        self.runner.close()
        self.folder.cleanup()

    # --- what may be asked of it --------------------------------------------------------------------

    @rule(number=numbers, epoch=st.integers(1, 3), size=st.sampled_from([2, 300]))
    def begin(self, number: int, epoch: int, size: int) -> None:
        wanted = claim(number, epoch=epoch, params=b" " * size)
        if self._durable(self.journal.begin(wanted)):
            self._forget(wanted.id)
            self.open[wanted.id] = Entry(wanted)
            self._answered()

    @rule(number=numbers, rows=st.binary(max_size=200), spooled=st.integers(0, 1))
    def keep_rows(self, number: int, rows: bytes, spooled: int) -> None:
        command = IDS[number]
        if command in self.open and self._durable(self.journal.keep_rows(command, rows, spooled)):
            self._change(command, rows=rows or None, spooled=spooled)
            self._answered()

    @rule(number=numbers, outputs=st.sampled_from([b"{}", b" " * 5_000]))
    def end(self, number: int, outputs: bytes) -> None:
        command, completed = IDS[number], succeeded(number)
        if command in self.open or command in self.closed:
            if self._durable(self.journal.end(command, completed, outputs, AT)):
                self._change(command, completed=completed, outputs=outputs, ended_at=AT)
                self._answered()
        elif self.journal.trouble is None:
            with pytest.raises((KeyError, JournalUnavailable)):
                self.runner.run(self.journal.end(command, completed, outputs, AT))

    @rule(number=numbers, happened=st.booleans())
    def resolve(self, number: int, happened: bool) -> None:
        command, found = IDS[number], Resolution(happened, "alice", "seen", AT)
        if (command in self.open or command in self.closed) and self._durable(self.journal.resolve(command, found)):
            self._change(command, resolution=found)
            self._answered()

    @rule(number=numbers)
    def acknowledge(self, number: int) -> None:
        self.journal.acknowledge(IDS[number])
        if (entry := self.open.get(IDS[number])) is not None:
            self._remember(entry)

    @rule(number=numbers, epoch=st.integers(1, 3))
    def note(self, number: int, epoch: int) -> None:
        wanted = claim(number, epoch=epoch, effect="read")
        self.journal.note(wanted, succeeded(number), AT)
        if wanted.id not in self.open:
            self._remember(Entry(wanted, succeeded(number), ended_at=AT))

    # --- what may happen to it ----------------------------------------------------------------------

    @rule()
    def stops_and_starts(self) -> None:
        self.runner.run(self.journal.close())
        self._open()
        self._reconcile()

    @rule(seed=st.none() | st.integers(0, 1000))
    def power_cut(self, seed: int | None) -> None:
        chance = None if seed is None else random.Random(seed)  # noqa: S311 - it only has to be the same again
        left = MemoryDisk(self.disk.content.after_power_cut(chance))
        self.runner.run(self.journal.close())
        self.disk = left
        self._open()
        self._reconcile()

    @rule(step=st.sampled_from(["write", "sync", "create", "open", "rename", "sync folder", "remove", "cut"]))
    def fails(self, step: str) -> None:
        self.disk.failing = lambda asked: errno.EIO if asked == step else None

    @rule()
    def works_again(self) -> None:
        self.disk.failing = lambda asked: None

    # --- what must be so ----------------------------------------------------------------------------

    @invariant()
    def knows_what_the_dictionary_knows(self) -> None:
        for command in IDS:
            assert self.journal.find(command) == (self.open.get(command) or self.closed.get(command))
        assert [entry.claim.id for entry in self.journal.unacknowledged()] == list(self.open)

    @invariant()
    def keeps_its_mark_and_never_counts_backwards(self) -> None:
        if self.mark:
            assert self.journal.mark == self.mark
            assert self.journal.damages == ()
        assert self.journal.position >= self.position
        self.position = self.journal.position

    # --- the dictionary ------------------------------------------------------------------------------

    def _open(self) -> None:
        self.journal = self.runner.run(FileJournal.open(Path(self.folder.name), disk=self.disk, remembers=REMEMBERS))

    def _durable(self, call: Coroutine[Any, Any, None]) -> bool:
        failing = self.disk.failing("write") or self.disk.failing("sync")
        try:
            self.runner.run(call)
        except JournalUnavailable:
            assert self.journal.trouble is not None
            return False
        assert not failing
        return True

    def _answered(self) -> None:
        """All before it is on the disk too."""
        self.past = {command: [self.open.get(command) or self.closed.get(command)] for command in IDS}

    def _change(self, command: str, **facts: object) -> None:
        if command in self.open:
            self.open[command] = msgspec.structs.replace(self.open[command], **facts)
        else:
            entry = remembered(msgspec.structs.replace(self.closed.pop(command), **facts))
            self.closed[command] = entry

    def _remember(self, entry: Entry) -> None:
        self._forget(entry.claim.id)
        self.closed[entry.claim.id] = remembered(entry)
        while len(self.closed) > REMEMBERS:
            del self.closed[next(iter(self.closed))]
        for command in IDS:
            self.past.setdefault(command, [None]).append(self.open.get(command) or self.closed.get(command))

    def _forget(self, command: str) -> None:
        self.open.pop(command, None)
        self.closed.pop(command, None)

    def _reconcile(self) -> None:
        """What nobody waited for may be lost; take over what is there, if it may be."""
        for command in IDS:
            assert self.journal.find(command) in self.past.get(command, [None])
        self.open = {entry.claim.id: entry for entry in self.journal.unacknowledged()}
        order = list(self.journal._index.remembered)
        self.closed = {command: entry for command in order if (entry := self.journal.find(command)) is not None}
        self._answered()


@pytest.mark.parametrize(("rewrite_bytes", "soon_s"), [(600, 3600.0), (1_000_000, 0.0)])
def test_the_journal_knows_what_a_dictionary_would(
    rewrite_bytes: int, soon_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "REWRITE_BYTES", rewrite_bytes)
    monkeypatch.setattr(writer, "SOON_S", soon_s)
    monkeypatch.setattr(writer, "PROBE_S", 3600.0)
    run_state_machine_as_test(
        JournalMachine,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
