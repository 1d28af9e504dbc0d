"""``effect = "once"`` over ODBC: the ledger in real databases."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent import errors
from agent.connectors.base import Call, Outputs, Piece, Ready
from agent.connectors.odbc.driver import OdbcDriver
from config.dev.databases import Server
from tests.agent.connectors.commit_proxy import What, commit_proxy
from tests.agent.connectors.ledger_cases import INSERT, ORDERS, Erp, MariaErp, PostgresErp, call, erp_in
from tests.agent.connectors.ledger_victim import POINTS, TOLD
from tests.waiting import until_so


@pytest.fixture(params=["postgresql", "mariadb"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Erp:
    """The databases that are servers."""
    return erp_in(request.param, request, tmp_path)


Open = Callable[..., OdbcDriver]


@pytest.fixture
def session() -> Iterator[Open]:
    """Open any number of sessions."""
    made: list[OdbcDriver] = []

    def make(erp: Erp, odbc: str | None = None, **connection: Any) -> OdbcDriver:
        driver = OdbcDriver(erp.setup(odbc, **connection))
        driver.open()
        made.append(driver)
        return driver

    yield make
    for driver in made:
        driver.close()


def outputs(driver: OdbcDriver, wanted: Call) -> dict[str, object]:
    pieces: list[Piece] = list(driver.run(wanted))
    last = pieces[-1]
    assert isinstance(last, Outputs)
    return plain(last)


def plain(found: Outputs) -> dict[str, object]:
    told: dict[str, object] = msgspec.json.decode(msgspec.json.encode(found.values))
    return told


def answer(erp: Erp, n: int = 1) -> dict[str, object]:
    """Return what ``order`` returns."""
    return {} if erp.dialect == "sqlite" else {"order_no": f"PÖ-{n}"}


def in_thread(work: Callable[[], Any]) -> Future[Any]:
    """Run something beside the test."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


# --- repeats ------------------------------------------------------------------------------------------


def test_a_repeat_is_given_the_first_outcome(erp: Erp, session: Open) -> None:
    one, other = session(erp), session(erp)
    found = [outputs(one, call()), outputs(one, call()), outputs(other, call(epoch=2))]
    assert found == [answer(erp)] * 3
    assert erp.orders() == [1]
    assert erp.ledger() == {"cmd_1": "done"}


def test_another_command_runs_of_course(erp: Erp, session: Open) -> None:
    driver = session(erp)
    outputs(driver, call())
    assert outputs(driver, call(command="cmd_2", fingerprint="f2", n=2)) == answer(erp, 2)
    assert erp.orders() == [1, 2]


def test_the_same_id_with_other_parameters_is_a_conflict(erp: Erp, session: Open) -> None:
    driver = session(erp)
    outputs(driver, call())
    with pytest.raises(errors.JournalConflict, match="other parameters") as caught:
        outputs(driver, call(fingerprint="f2", n=2))
    assert not caught.value.touched
    with pytest.raises(errors.OutcomeUnknown, match="other parameters"):
        driver.find(call(fingerprint="f2", n=2))
    assert erp.orders() == [1]


def test_of_many_at_once_one_runs(served: Erp, session: Open) -> None:
    drivers = [session(served) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda driver: outputs(driver, call()), drivers))
    assert found == [answer(served)] * 6
    assert served.orders() == [1]


def test_a_failed_run_leaves_nothing_and_may_be_tried_again(served: Erp, session: Open) -> None:
    driver = session(served)
    served.script(f"ALTER TABLE {ORDERS} ADD CONSTRAINT one_only UNIQUE (n)")
    served.script(f"INSERT INTO {ORDERS} VALUES (1)")  # noqa: S608 # names of ours
    with pytest.raises(errors.SourceFailed):
        outputs(driver, call())
    assert served.ledger() == {}
    served.script(f"DELETE FROM {ORDERS}")  # noqa: S608 # names of ours
    assert outputs(driver, call(epoch=2)) == answer(served)


def test_outputs_that_no_link_carries_are_refused_before_the_commit(served: Erp, session: Open) -> None:
    if isinstance(served, PostgresErp):
        served.script(
            "CREATE OR REPLACE PROCEDURE test_order(n int, OUT order_no text) LANGUAGE plpgsql AS "
            f"$$ BEGIN {INSERT} order_no := repeat('ж', n); END $$"
        )
    else:
        served.script(
            "DELIMITER //\nCREATE OR REPLACE PROCEDURE test_order(n int, OUT order_no longtext) "
            f"BEGIN {INSERT} SET order_no = REPEAT('ж', n); END //\n"
        )
    driver = session(served)
    with pytest.raises(errors.SourceFailed, match="it was rolled back"):
        outputs(driver, call(n=600_000))
    assert (served.orders(), served.ledger()) == ([], {})
    assert outputs(driver, call(n=400_000)) == {"order_no": "ж" * 400_000}
    found = driver.find(call(n=400_000))
    assert found is not None
    assert plain(found) == {"order_no": "ж" * 400_000}


# --- rows ---------------------------------------------------------------------------------------------


def test_rows_can_be_kept_before_the_commit(erp: Erp, session: Open) -> None:
    driver, pieces = session(erp), []
    for piece in driver.run(call("order-rows")):
        pieces.append(piece)
        if isinstance(piece, Ready) and erp.dialect != "sqlite":
            assert erp.orders() == []
    assert [type(piece).__name__ for piece in pieces] == ["RowSet", "Rows", "Ready", "Outputs"]
    assert erp.orders() == [1]


def test_who_leaves_before_the_commit_rolls_back(erp: Erp, session: Open) -> None:
    run = session(erp).run(call("order-rows"))
    assert any(isinstance(piece, Ready) for piece in run)
    run.close()  # type: ignore[attr-defined] # a generator
    assert erp.orders() == []
    assert erp.ledger() == {}


def test_a_repeat_of_what_had_rows_is_told_that_they_are_gone(erp: Erp, session: Open) -> None:
    driver = session(erp)
    list(driver.run(call("order-rows")))
    with pytest.raises(errors.OutcomeUnknown, match=r"it is done.* 1 row"):
        outputs(driver, call("order-rows", epoch=2))
    found = driver.find(call("order-rows"))
    assert found is not None
    assert found.rows == 1
    assert erp.orders() == [1]


def test_reads_and_idempotent_operations_know_of_no_ledger(erp: Erp, session: Open) -> None:
    erp.operations["count"] = {"sql": f"SELECT COUNT(*) AS c FROM {ORDERS}", "effect": "read"}  # noqa: S608 # a name of ours
    erp.operations["again"] = {
        "sql": f"INSERT INTO {ORDERS} VALUES (7); SELECT 7 AS n",  # noqa: S608 # a name of ours
        "effect": "idempotent",
    }
    driver = session(erp)
    for name in ("count", "again"):
        pieces = list(driver.run(Call("cmd_1", name, b"{}", 20.0)))
        assert not any(isinstance(piece, Ready) for piece in pieces)
    with pytest.raises(errors.OutcomeUnknown):
        driver.find(Call("cmd_1", "again", b"{}", 20.0))
    assert erp.ledger() == {}


# --- what became of it --------------------------------------------------------------------------------


def test_what_is_done_is_found_with_its_outcome(erp: Erp, session: Open) -> None:
    outputs(session(erp), call())
    found = session(erp).find(call())
    assert found is not None
    assert plain(found) == answer(erp)


def test_what_never_began_is_found_so_and_can_never_begin(erp: Erp, session: Open) -> None:
    driver = session(erp)
    assert driver.find(call()) is None
    assert driver.find(call()) is None
    with pytest.raises(errors.NotHappened) as caught:
        outputs(driver, call())
    assert not caught.value.touched
    assert erp.orders() == []
    assert outputs(driver, call(epoch=2)) == answer(erp)
    assert erp.ledger() == {"cmd_1": "done"}


def test_a_tombstone_grows_with_the_attempt_that_was_looked_for(erp: Erp, session: Open) -> None:
    driver = session(erp)
    assert driver.find(call(epoch=1)) is None
    assert driver.find(call(epoch=3)) is None
    for late in (1, 2, 3):
        with pytest.raises(errors.NotHappened):
            outputs(driver, call(epoch=late))
    assert driver.find(call(epoch=2)) is None
    with pytest.raises(errors.NotHappened):
        outputs(driver, call(epoch=3))
    assert outputs(driver, call(epoch=4)) == answer(erp)


HAPPENED = ("after the COMMIT",)
PLACES = [*((point, False) for point in POINTS), ("after the INSERT", True)]  # taken_over: after a tombstone


@pytest.mark.skipif(os.name == "nt", reason="kills and freezes by POSIX signals")
@pytest.mark.parametrize(("point", "taken_over"), PLACES)
def test_a_process_killed_anywhere_is_found_out(erp: Erp, session: Open, point: str, taken_over: bool) -> None:
    driver = session(erp)
    if taken_over:
        assert driver.find(call(epoch=1)) is None
    with started(erp, point, "SIGKILL", call(epoch=2)) as victim:
        assert victim.wait(30) == -9
    found = asked_until_told(driver, call(epoch=2))
    assert (found is not None) == (point in HAPPENED)
    assert found is None or plain(found) == answer(erp)
    assert erp.orders() == ([1] if point in HAPPENED else [])
    assert outputs(driver, call(epoch=3)) == answer(erp)
    assert erp.orders() == [1]


@pytest.mark.skipif(os.name == "nt", reason="kills and freezes by POSIX signals")
@pytest.mark.parametrize(("point", "taken_over"), PLACES)
def test_what_was_found_out_stays_true_for_a_process_that_was_only_frozen(
    erp: Erp, session: Open, point: str, taken_over: bool
) -> None:
    driver = session(erp)
    if taken_over:
        assert driver.find(call(epoch=1)) is None
    with started(erp, point, "SIGSTOP", call(epoch=2)) as victim:
        os.waitpid(victim.pid, os.WUNTRACED)
        try:
            found = driver.find(call(epoch=2, timeout_s=1.0))
            told = True
        except errors.SourceUnavailable:
            # Its transaction is open: nobody knows.
            found, told = None, False
        assert told == (point in ("before the INSERT", "after the COMMIT"))
        victim.send_signal(signal.SIGCONT)
        said = victim.communicate(timeout=30)[0].strip()
    if told and found is None:
        assert (victim.returncode, said) == (TOLD, b"NotHappened")
        assert erp.orders() == []
    else:
        assert victim.returncode == 0
        assert erp.orders() == [1]
        assert driver.find(call(epoch=2)) is not None


@contextmanager
def started(erp: Erp, point: str, signal_name: str, wanted: Call) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.agent.connectors.ledger_victim", point, signal_name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    with process:
        assert process.stdin is not None
        pickle.dump((erp.setup(), wanted), process.stdin)
        process.stdin.flush()
        try:
            yield process
        finally:
            process.kill()


def asked_until_told(driver: OdbcDriver, wanted: Call) -> Outputs | None:
    deadline = time.monotonic() + 20
    while True:
        try:
            return driver.find(msgspec.structs.replace(wanted, timeout_s=2.0))
        except errors.SourceUnavailable:
            assert time.monotonic() < deadline, "it was never told"


def test_while_the_lost_transaction_works_it_is_not_known(served: Erp, session: Open) -> None:
    worker, finder = session(served), session(served)
    work = in_thread(lambda: outputs(worker, call("slow-order", seconds=3)))
    until_so(lambda: at_work(served))
    with pytest.raises(errors.SourceUnavailable, match="can't tell yet"):
        finder.find(call("slow-order", timeout_s=1.0, seconds=3))
    found = finder.find(call("slow-order", seconds=3))
    assert found is not None
    assert work.result() == {}
    assert served.orders() == [1]


def at_work(erp: Erp) -> bool:
    if isinstance(erp, PostgresErp):
        sql = (
            "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%slow_order%' "
            "AND pid <> pg_backend_pid()"
        )
    else:
        sql = "SELECT id FROM information_schema.PROCESSLIST WHERE INFO LIKE 'DO SLEEP(%' AND id <> CONNECTION_ID()"
    return bool(erp.ask(sql))


def test_a_session_cut_by_the_server_is_found_out(served: Erp, session: Open) -> None:
    worker, finder = session(served), session(served)
    work = in_thread(lambda: outputs(worker, call("slow-order", seconds=20)))
    until_so(lambda: at_work(served))
    if isinstance(served, PostgresErp):
        served.ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%slow_order%' "
            "AND pid <> pg_backend_pid()"
        )
    else:
        assert isinstance(served, MariaErp)
        ((number,),) = served.ask(
            "SELECT id FROM information_schema.PROCESSLIST WHERE INFO LIKE 'DO SLEEP(%' AND id <> CONNECTION_ID()"
        )
        served.script(f"KILL {int(number)}")
    with pytest.raises(errors.OutcomeUnknown) as caught:
        work.result()
    assert caught.value.touched
    assert asked_until_told(finder, call("slow-order", seconds=20)) is None
    assert served.orders() == []


@pytest.mark.parametrize(("what", "happened"), [("drop the reply", True), ("cut before it", False)])
def test_a_lost_commit_is_settled_both_ways(served: Erp, session: Open, what: What, happened: bool) -> None:
    with commit_proxy(port_of(served), what) as proxy:
        driver = session(served, through(served, proxy.port))
        proxy.armed.set()
        first = in_thread(lambda: outputs(driver, call()))
        with pytest.raises(errors.OutcomeUnknown, match="while its work was being committed"):
            first.result(30)
    finder = session(served)
    found = asked_until_told(finder, call())
    assert (found is not None) is happened
    assert found is None or plain(found) == answer(served)
    assert served.orders() == ([1] if happened else [])
    assert outputs(finder, call(epoch=2)) == answer(served)
    assert served.orders() == [1]


def test_a_commit_that_is_still_on_its_way_is_waited_for(served: Erp, session: Open) -> None:
    with commit_proxy(port_of(served), "hold it") as proxy:
        driver = session(served, through(served, proxy.port))
        proxy.armed.set()
        first = in_thread(lambda: outputs(driver, call()))
        assert proxy.met.wait(20)
        finder = session(served)
        with pytest.raises(errors.SourceUnavailable):
            finder.find(call(timeout_s=1.0))
        found = in_thread(lambda: finder.find(call()))
        proxy.let_go.set()
        told = found.result(20)
        assert told is not None
        assert plain(told) == answer(served)
        assert first.result(20) == answer(served)
    assert served.orders() == [1]


def port_of(erp: Erp) -> int:
    assert isinstance(erp, PostgresErp | MariaErp)
    server: Server = erp.server
    return server.port


def through(erp: Erp, port: int) -> str:
    return erp.odbc().replace(f"Port={port_of(erp)}", f"Port={port}")
