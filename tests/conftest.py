"""
For every test: real database servers, started once a session when first asked for; nothing may block an event loop.

`make test` sets PYTHONASYNCIODEBUG for the loops of the tests; the programs that tests start are to run as they do
at a site, so they don't inherit it.
"""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from blockbuster import BlockBuster

from config.dev import databases

ASYNCIO_DEBUG: Final = "PYTHONASYNCIODEBUG"
WANTED_DEBUG: Final = os.environ.get(ASYNCIO_DEBUG)
# What waits for others, for as long as they like. Small files are read where they are needed.
BLOCKING: Final = ("time.", "socket.", "ssl.", "sqlite3.", "threading.")
PROGRAMS: Final = tuple(
    Path(__file__).parent / name for name in ("installer", "whole", "faults", "adversary", "config", "bench")
)
AS_AT_A_SITE: Final = (
    Path(__file__).parent / "whole",
    Path(__file__).parent / "config",
    Path(__file__).parent / "bench",
    Path(__file__).parent / "faults",
    Path(__file__).parent / "installer",
)


def pytest_configure() -> None:
    """Let programs that tests start hear Ctrl-C, also where we run in the background of a shell, which ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that start programs: what takes minutes must not be what several workers wait for last."""
    items.sort(key=lambda item: not any(folder in item.path.parents for folder in PROGRAMS))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave the debug mode of asyncio out where memory and speed are as at a site, or programs are started."""
    if any(folder in item.path.parents for folder in AS_AT_A_SITE) or item.get_closest_marker("slow"):
        os.environ.pop(ASYNCIO_DEBUG, None)
    elif WANTED_DEBUG is not None:
        os.environ[ASYNCIO_DEBUG] = WANTED_DEBUG


@pytest.fixture(scope="session")
def _blocking_calls() -> BlockBuster:
    found = BlockBuster(["protocol", "agent", "cloud_broker"])
    found.functions = {name: call for name, call in found.functions.items() if name.startswith(BLOCKING)}
    return found


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop(request: pytest.FixtureRequest, _blocking_calls: BlockBuster) -> Iterator[None]:
    """Fail a test in which our code, on an event loop, calls what waits."""
    if not inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        yield
        return
    _blocking_calls.activate()
    try:
        yield
    finally:
        _blocking_calls.deactivate()


@pytest.fixture(scope="session")
def postgres() -> Iterator[databases.Postgres]:
    """A PostgreSQL server with an empty database; a test makes what it needs under names of its own."""
    with databases.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[databases.MariaDB]:
    """A MariaDB server with an empty database; a test makes what it needs under names of its own."""
    with databases.mariadb() as server:
        yield server
