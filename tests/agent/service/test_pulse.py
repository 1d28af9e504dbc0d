"""The watchdog: fed while event loop, journal and link go on, and not a moment longer."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.errors import LinkError
from agent.journal.disk import Appender, Disk
from agent.journal.file import FileJournal
from agent.link import supervisor
from agent.link.base import Dialer, Ended, Transport
from agent.link.supervisor import Supervisor
from agent.service.base import Notifier
from agent.service.pulse import Pulse, alive_meanwhile
from tests.waiting import until


class Manager(Notifier):
    """A service manager that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def ready(self) -> None:
        self.heard.append("ready")

    def alive(self) -> None:
        self.heard.append("alive")

    def stopping(self) -> None:
        self.heard.append("stopping")

    def status(self, text: str) -> None:
        self.heard.append(text)

    def hears(self, word: str) -> Callable[[], bool]:
        """Forget what was heard, and return whether a word has come since."""
        self.heard.clear()
        return lambda: word in self.heard


class Moody(Disk):
    """A disk that hangs while ``goes_on`` is not set, and is full while ``full``."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.full = False

    def create(self, path: Path) -> Appender:
        self.goes_on.wait()
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().create(path)


@asynccontextmanager
async def felt(
    folder: Path, disk: Disk, link: Callable[[], str | None]
) -> AsyncIterator[tuple[Manager, asyncio.Event]]:
    """A pulse that beats, on a real journal."""
    journal = await FileJournal.open(folder, disk=disk)
    manager, stop = Manager(), asyncio.Event()
    pulse = Pulse(
        manager,
        journal=journal.sign_of_life,
        link=link,
        line=lambda: journal.trouble or "well",
        every_s=0.01,
        journal_s=0.05,
    )
    feeling = asyncio.create_task(pulse.run(stop))
    try:
        yield manager, stop
    finally:
        feeling.cancel()
        await asyncio.gather(feeling, return_exceptions=True)
        await journal.close()


async def test_a_disk_that_hangs_starves_the_watchdog_until_it_answers(tmp_path: Path) -> None:
    disk = Moody()
    async with felt(tmp_path, disk, lambda: None) as (manager, _):
        await until(manager.hears("alive"))
        disk.goes_on.clear()
        try:
            await until(lambda: any("its disk hangs" in one for one in manager.heard))
            await until(manager.hears("the journal has not answered for 0.05 s: its disk hangs"))
            assert "alive" not in manager.heard
        finally:
            disk.goes_on.set()
        await until(manager.hears("alive"))
        await until(manager.hears("well"))


async def test_a_full_disk_is_told_but_another_process_would_find_it_full_too(tmp_path: Path) -> None:
    disk = Moody()
    async with felt(tmp_path, disk, lambda: None) as (manager, _):
        await until(manager.hears("well"))
        disk.full = True
        await until(lambda: any("No space left" in one for one in manager.heard))
        await until(manager.hears("alive"))
        disk.full = False
        await until(manager.hears("well"))


async def test_a_sign_of_life_leaves_nothing_in_the_journal(tmp_path: Path) -> None:
    journal = await FileJournal.open(tmp_path)
    before, files = journal.stand(), sorted((tmp_path / "journal").iterdir())
    await journal.sign_of_life()
    await journal.sign_of_life()
    assert (journal.stand(), sorted((tmp_path / "journal").iterdir())) == (before, files)
    await journal.close()


async def test_a_link_that_hangs_starves_the_watchdog(tmp_path: Path) -> None:
    hangs: list[str] = []
    async with felt(tmp_path, Disk(), lambda: hangs[0] if hangs else None) as (manager, _):
        await until(manager.hears("alive"))
        hangs.append("the link hangs")
        await until(manager.hears("the link hangs"))
        await until(manager.hears("the link hangs"))
        assert "alive" not in manager.heard


async def test_the_wish_to_stop_is_told_at_once_and_the_watchdog_is_fed_until_the_end(tmp_path: Path) -> None:
    async with felt(tmp_path, Disk(), lambda: None) as (manager, stop):
        await until(manager.hears("alive"))
        stop.set()
        await until(lambda: "stopping" in manager.heard)
        await until(manager.hears("alive"))


async def test_what_takes_its_time_is_alive_meanwhile() -> None:
    manager = Manager()
    async with alive_meanwhile(manager):
        await until(lambda: "alive" in manager.heard)


# --- what of the link hangs ----------------------------------------------------------------------


class Dials(Dialer):
    """Dials in vain: a broker that is away, or, with ``hangs``, a dial that never ends."""

    def __init__(self, hangs: bool) -> None:
        self.target = "wss://broker"
        self._hangs = hangs

    async def connect(self) -> Transport:
        if self._hangs:
            await asyncio.Event().wait()
        raise LinkError("the broker is away")


async def serve(transport: Transport) -> Ended:
    return Ended()


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_link_loop_is_stuck_where_a_dial_never_ends_and_not_where_no_broker_is(
    monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    monkeypatch.setattr(supervisor, "DIALLED_S", 0.05)
    kept, stop = Supervisor(Dials(hangs), serve), asyncio.Event()
    keeping = asyncio.create_task(kept.run(stop))
    if hangs:
        await until(lambda: kept.stuck)
    else:
        await until(lambda: kept.state.tries >= 2)
        assert not kept.stuck
    stop.set()
    await keeping
    assert not kept.stuck
