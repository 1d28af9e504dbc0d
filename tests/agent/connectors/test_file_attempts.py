"""A file that is to appear once, and attempts at it that died, froze or were late: the folder is the truth."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent import errors
from agent.connectors.base import Call
from agent.connectors.file.attempts import Attempt, Receipt
from agent.connectors.file.driver import FileDriver
from agent.connectors.file.drop import Drop
from agent.connectors.file.publish import Way
from agent.settings import DropOperation
from agent.settings_reader import read
from tests.agent.connectors.conftest import COMMAND, MakeFileDriver, call
from tests.agent.connectors.file_victim import CONTENT, NAME, POINTS, TOLD

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills and freezes by POSIX signals")

WAYS: tuple[Way, ...] = ("rename", "link", "replace")
PLACES = [(point, way) for way in WAYS for point in POINTS if point != "within the link" or way == "link"]
HAPPENED = ("within the link", "after the name")


def attempt(folder: Path, number: int) -> Attempt:
    return Attempt(folder, NAME, COMMAND, number)


def write(folder: Path, number: int, way: Way = "rename") -> Receipt:
    return Drop(attempt(folder, number), way, once=True, max_bytes=len(CONTENT)).write([CONTENT])


@contextmanager
def started(point: str, way: Way, name: str, folder: Path, number: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-m", "tests.agent.connectors.file_victim", point, way, name, str(folder), str(number)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as process:
        try:
            yield process
        finally:
            process.kill()


def whole(folder: Path) -> bool:
    """Whether the file is there, and not in parts."""
    path = folder / NAME
    assert not path.exists() or path.read_bytes() == CONTENT
    return path.exists()


@pytest.mark.parametrize(("point", "way"), PLACES)
def test_a_process_killed_anywhere_is_found_out(tmp_path: Path, point: str, way: Way) -> None:
    with started(point, way, "SIGKILL", tmp_path) as victim:
        assert victim.wait(30) == -signal.SIGKILL
    if (point, way) == ("before the name", "link"):
        # By what a link leaves, this and a file that was fetched in that moment look the same.
        for _ in range(2):
            with pytest.raises(errors.OutcomeUnknown, match="never there, or was fetched since"):
                attempt(tmp_path, 1).found()
        return
    happened = point in HAPPENED
    for _ in range(2):
        assert (attempt(tmp_path, 1).found() is not None) is happened
    assert whole(tmp_path) is happened
    assert write(tmp_path, 2, way).bytes == len(CONTENT)
    assert whole(tmp_path)


@pytest.mark.parametrize(("point", "way"), PLACES)
def test_what_was_found_out_stays_true_for_a_process_that_was_only_frozen(tmp_path: Path, point: str, way: Way) -> None:
    with started(point, way, "SIGSTOP", tmp_path) as victim:
        os.waitpid(victim.pid, os.WUNTRACED)
        try:
            found = attempt(tmp_path, 1).found()
        except errors.OutcomeUnknown:
            assert (point, way) == ("before the name", "link")
            found = None
        victim.send_signal(signal.SIGCONT)
        said, _ = victim.communicate(timeout=30)
    assert (found is not None) is (point in HAPPENED)
    assert whole(tmp_path) is (found is not None)
    assert (victim.returncode, said) == ((0, b"") if found is not None else (TOLD, b"NotHappened"))


def test_a_frozen_attempt_does_not_spoil_a_later_one(tmp_path: Path) -> None:
    with started("before the claim", "rename", "SIGSTOP", tmp_path) as victim:
        os.waitpid(victim.pid, os.WUNTRACED)
        assert attempt(tmp_path, 1).found() is None
        receipt = write(tmp_path, 2)
        (tmp_path / NAME).unlink()  # the ERP has fetched it
        victim.send_signal(signal.SIGCONT)
        said, _ = victim.communicate(timeout=30)
    assert said == b"NotHappened"
    assert not (tmp_path / NAME).exists()
    assert write(tmp_path, 3) == receipt
    assert not (tmp_path / NAME).exists()


def test_a_later_attempt_asks_no_person_where_the_folder_tells(tmp_path: Path) -> None:
    first = write(tmp_path, 1)
    (tmp_path / NAME).unlink()
    assert write(tmp_path, 2) == first
    assert not (tmp_path / NAME).exists()


def test_a_link_without_its_second_name_is_told_by_the_digest(tmp_path: Path) -> None:
    with started("before the name", "link", "SIGKILL", tmp_path) as victim:
        victim.wait(30)
    (tmp_path / NAME).write_bytes(CONTENT)  # a backup was put back: no link, the same bytes
    found = attempt(tmp_path, 1).found()
    assert found is not None
    assert found.bytes == len(CONTENT)


def test_a_file_of_that_name_and_content_without_a_claim_is_another_ones(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    with pytest.raises(errors.FileExists):
        write(tmp_path, 1)
    assert attempt(tmp_path, 1).found() is None


# --- the driver -----------------------------------------------------------------------------------------


ONCE = read(
    {
        "connection": "edi",
        "drop": "ORD-{order_no}.json",
        "format": {"type": "json"},
        "effect": "once",
        "params": {"order_no": {"type": "string"}},
    },
    DropOperation,
)
ORDER = {"order_no": "7", "document": {"order": 1}}


def wanted(epoch: int) -> Call:
    plain = call(ORDER)
    return Call(plain.command_id, plain.operation, plain.params, plain.timeout_s, epoch)


@pytest.fixture
def driver(file_driver: MakeFileDriver) -> FileDriver:
    return file_driver(ONCE)


def test_the_driver_finds_the_receipt(driver: FileDriver, tmp_path: Path) -> None:
    (written,) = driver.run(wanted(1))
    assert driver.find(wanted(1)) == written
    driver.settle(wanted(1), {"name": "ORD-7.json"})
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["ORD-7.json"]


def test_what_never_began_is_found_so_and_can_never_begin(driver: FileDriver, tmp_path: Path) -> None:
    assert driver.find(wanted(1)) is None
    with pytest.raises(errors.NotHappened) as caught:
        list(driver.run(wanted(1)))
    assert not caught.value.touched
    assert list(driver.run(wanted(2)))
    assert (tmp_path / "root" / "ORD-7.json").exists()


@pytest.mark.parametrize("fetched", [False, True])
def test_what_a_link_left_still_tells_after_days(
    file_driver: MakeFileDriver, driver: FileDriver, tmp_path: Path, fetched: bool
) -> None:
    (written,) = driver.run(wanted(1))
    root = tmp_path / "root"
    made = Attempt(root, "ORD-7.json", COMMAND, 1)
    # As a crash leaves it between the link and the removal of the part.
    made.claim.write_bytes(made.claim.read_bytes().replace(b'"rename"', b'"link"'))
    os.link(root / "ORD-7.json", made.part)
    if fetched:
        (root / "ORD-7.json").unlink()
    days_ago = time.time() - 3 * 86_400
    os.utime(made.part, (days_ago, days_ago))
    again = file_driver(ONCE)
    if fetched:
        with pytest.raises(errors.OutcomeUnknown):
            again.find(wanted(1))
    else:
        assert again.find(wanted(1)) == written


def test_a_folder_that_is_not_there_can_not_tell(driver: FileDriver, tmp_path: Path) -> None:
    (tmp_path / "root").rmdir()
    with pytest.raises(errors.SourceUnavailable):
        driver.find(wanted(1))


def test_other_effects_keep_no_record(file_driver: MakeFileDriver) -> None:
    driver = file_driver(replace(ONCE, effect="at-most-once"))
    with pytest.raises(errors.OutcomeUnknown):
        driver.find(wanted(1))
