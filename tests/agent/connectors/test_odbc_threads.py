"""A session at work in one thread that another thread would stop: no cursor is freed, or stopped, behind its back."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from msgspec.structs import replace

from agent.connectors.base import Rows
from agent.connectors.odbc.driver import OdbcDriver
from agent.connectors.odbc.stop import Stop
from agent.errors import CommandError
from tests.agent.connectors.ledger_cases import Erp, call

MANY = """WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 150)
    SELECT a.n, b.n AS m, 'some text of an order' AS t FROM r a, r b"""


@pytest.fixture
def unraised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Python could raise nowhere: pyodbc's errors of a cursor that was freed while its session closed."""
    found: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: found.append(repr(lost.exc_value)))
    return found


def test_a_session_that_closes_right_after_its_statement_is_alone(erp: Erp, unraised: list[str]) -> None:
    before = threading.active_count()
    for n in range(30):
        driver = OdbcDriver(erp.setup())
        driver.open()
        list(driver.run(call(command=f"cmd_{n}", n=n)))
        assert threading.active_count() == before  # whoever watched over the statement's time is gone
        driver.close()
    assert not unraised
    assert erp.orders() == list(range(30))


def test_cancels_at_any_moment_neither_lose_the_process_nor_half_an_order(erp: Erp, unraised: list[str]) -> None:
    kept = set()
    for n in range(30):
        driver = OdbcDriver(erp.setup())
        driver.open()
        with _again_and_again(driver.cancel):
            with suppress(CommandError):
                list(driver.run(call(command=f"cmd_{n}", n=n)))
                kept.add(n)
            driver.close()
    assert not unraised
    assert kept <= set(erp.orders())


def test_cancels_at_any_moment_do_not_take_rows_from_who_reads_them(erp: Erp, unraised: list[str]) -> None:
    erp.operations["many"] = {"sql": MANY, "params": {}, "effect": "read"}
    for n in range(15):
        driver = OdbcDriver(erp.setup())
        driver.open()
        rows = 0
        with suppress(CommandError):
            for piece in driver.run(replace(call("many"), params=b"{}")):
                if isinstance(piece, Rows):
                    rows += piece.count
                    if rows > n * 1000:
                        driver.cancel()
                        break
        with _again_and_again(driver.cancel), suppress(CommandError):
            for _ in driver.run(replace(call("many"), params=b"{}")):
                pass
        driver.close()
    assert not unraised


def test_who_ends_a_statement_waits_for_who_is_stopping_it() -> None:
    stop, order = Stop(), list[str]()
    stopping, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        stopping.set()
        go_on.wait(10)
        order.append("stopped")

    def end() -> None:
        stop.not_any_more()
        order.append("ended")

    stop.by(slowly)
    threads = [threading.Thread(target=stop.now), threading.Thread(target=end)]
    threads[0].start()
    assert stopping.wait(10)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert order == ["stopped", "ended"]
    stop.now()  # nothing runs any more
    assert order == ["stopped", "ended"]


@contextmanager
def _again_and_again(act: Callable[[], None]) -> Iterator[None]:
    """Do it from another thread as long as the block runs."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(0.0005):
            act()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
