"""Names that become something else between a look and a step: real folders, and a thread that swaps all the time."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from agent.connectors.base import Call, DriverSetup, Rows
from agent.connectors.file import held, pick
from agent.connectors.file.driver import FileDriver
from agent.errors import CommandError
from agent.settings import DropOperation, FileConnection, FileFormat, Operation, PickOperation

SWAPPED_FOR_S: Final = 1.0
OURS, SECRET = b"a\nours\n", b"a\nsecret\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.csv").write_bytes(SECRET)
    return made


def driver(root: Path, operation: Operation) -> FileDriver:
    made = FileDriver(DriverSetup("edi", FileConnection(type="file", root=str(root)), {"op": operation}))
    made.open()
    return made


def a_call(number: int, params: bytes = b"{}") -> Call:
    return Call(f"cmd_{number:026}", "op", params, 20.0)


@contextlib.contextmanager
def swapping(swap: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Swap in a thread of its own; yields whether there is time left."""
    until, stop = time.monotonic() + SWAPPED_FOR_S, threading.Event()
    swaps = 0

    def go_on() -> None:
        nonlocal swaps
        while not stop.is_set():
            # What the agent did in between may be in the way of one step.
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                swap()
            swaps += 1

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield lambda: time.monotonic() < until
    finally:
        stop.set()
        thread.join()
    assert swaps > 10


def put(path: Path, content: bytes) -> None:
    """Replace what is at ``path`` by a file."""
    aside = path.with_name("aside")
    aside.write_bytes(content)
    os.replace(aside, path)


def link(path: Path, to: Path) -> None:
    """Replace what is at ``path`` by a link."""
    aside = path.with_name("aside-link")
    aside.symlink_to(to)
    os.replace(aside, path)


def exchange(one: Path, other: Path) -> None:
    """Let two names change places at once."""
    at_here, exchanged = -100, 2
    done = ctypes.CDLL(None, use_errno=True).renameat2(at_here, bytes(one), at_here, bytes(other), exchanged)
    if done != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def test_a_file_that_becomes_a_link_is_never_read_through_it(root: Path) -> None:
    operation = PickOperation(connection="edi", pick="CONF*.csv", format=FileFormat(type="csv"), then="keep")
    picks, name = driver(root, operation), root / "CONF.csv"

    def swap() -> None:
        put(name, OURS)
        link(name, root.parent / "outside" / "secret.csv")

    seen = 0
    with swapping(swap) as time_left:
        while time_left():
            with contextlib.suppress(CommandError):
                pieces = list(picks.run(a_call(1)))
                data = b"".join(piece.data for piece in pieces if isinstance(piece, Rows))
                assert b"secret" not in data
                seen += b"ours" in data
    assert seen > 0


def test_a_file_that_becomes_a_pipe_is_neither_waited_for_nor_read(root: Path) -> None:
    path = root / "CONF.csv"
    os.mkfifo(path)
    operation = PickOperation(connection="edi", pick="CONF*.csv", format=FileFormat(type="raw"))
    picks = driver(root, operation)
    found = pick.matching

    def looked_away(folder: Path, pattern: str) -> list[str]:
        return [*found(folder, pattern), path.name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pick, "matching", looked_away)  # as if it had been a file when the folder was listed
        with pytest.raises(CommandError, match="is no file"):
            list(picks.run(a_call(1)))


def test_an_archive_that_becomes_a_link_takes_nothing_out_of_the_folder(root: Path) -> None:
    operation = PickOperation(connection="edi", pick="CONF*.csv", format=FileFormat(type="csv"), then="archive")
    picks, outside, archive = driver(root, operation), root.parent / "outside", root / "archive"

    archive.mkdir()
    (root / "other").symlink_to(outside)
    kept, number = 0, 0
    receipt = {"name": "CONF.csv", "bytes": len(OURS), "sha256": hashlib.sha256(OURS).hexdigest(), "rows": 1}
    with swapping(lambda: exchange(archive, root / "other")) as time_left:
        while time_left():
            number += 1
            put(root / "CONF.csv", OURS)
            with contextlib.suppress(CommandError):
                picks.settle(a_call(number), {"files": [receipt]})
                kept += 1
    assert os.listdir(outside) == ["secret.csv"]
    assert kept > 0


def test_an_archive_that_is_held_stays_where_it_is(root: Path) -> None:
    archive, outside = root / "archive", root.parent / "outside"
    archive.mkdir()
    with held.held(archive) as there:
        archive.rename(root / "moved")
        archive.symlink_to(outside)
        (there / "a.csv").write_bytes(OURS)
    assert (root / "moved" / "a.csv").read_bytes() == OURS
    with pytest.raises(OSError, match="is a link"), held.held(archive):
        pass
    (root / "file").write_bytes(OURS)
    with pytest.raises(NotADirectoryError), held.held(root / "file"):
        pass


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_name_that_becomes_a_link_is_never_written_through(root: Path, overwrite: bool) -> None:
    operation = DropOperation(
        connection="edi", drop="ORD.csv", format=FileFormat(type="raw"), overwrite=overwrite, effect="once"
    )
    drops, name, victim = driver(root, operation), root / "ORD.csv", root.parent / "outside" / "secret.csv"

    def swap() -> None:
        link(name, victim)
        name.unlink(missing_ok=True)

    dropped, number = 0, 0
    with swapping(swap) as time_left:
        while time_left():
            number += 1
            with contextlib.suppress(CommandError):
                list(drops.run(a_call(number, b'{"content": "b3Vycw=="}')))
                dropped += 1
    assert victim.read_bytes() == SECRET
    assert os.listdir(victim.parent) == [victim.name]
    assert dropped > 0
