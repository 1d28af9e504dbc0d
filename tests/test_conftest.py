"""What watches over all tests does so."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import BlockingError

from cloud_broker.store.schema import make_or_check


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """An empty file."""
    made = sqlite3.connect(tmp_path / "broker.db", isolation_level=None)
    yield made
    made.close()


async def test_our_code_that_waits_on_the_event_loop_fails_its_test(
    tmp_path: Path, connection: sqlite3.Connection
) -> None:
    with pytest.raises(BlockingError, match="sqlite3"):
        make_or_check(connection, tmp_path)


def test_without_an_event_loop_it_may_wait(tmp_path: Path, connection: sqlite3.Connection) -> None:
    make_or_check(connection, tmp_path)


async def test_a_tests_own_code_may_wait() -> None:
    time.sleep(0)  # noqa: ASYNC251 - that it may is what is tested
