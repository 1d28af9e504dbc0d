"""Driver processes against a real PostgreSQL: what hangs or dies costs one session and not the agent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pyodbc
import pytest

from agent import errors
from agent.connectors import CONNECTORS, sessions
from agent.connectors.base import Call, DriverSetup, Outputs, Piece, Rows
from agent.connectors.sessions import DriverConnector
from agent.settings import OdbcConnection, ProcedureOperation, SqlOperation
from agent.settings_reader import read
from config.dev.databases import Postgres
from tests.waiting import until_seen

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals to the driver's process; wine has its own tests")

OPERATIONS = {
    "document": {"sql": "SELECT 1 AS n, repeat('x', :bytes) AS x UNION ALL SELECT 2, 'y'", "effect": "read"},
    "numbers": {"sql": "SELECT n FROM generate_series(1, :count) n", "effect": "read"},
    "sleep": {"sql": "SELECT pg_sleep(:seconds)", "effect": "read"},
    "slow-write": {"sql": "INSERT INTO written SELECT 1 FROM pg_sleep(:seconds)", "effect": "at-most-once"},
}
PARAMS = {
    "document": {"bytes": {"type": "integer"}},
    "numbers": {"count": {"type": "integer"}},
    "sleep": {"seconds": {"type": "number"}},
    "slow-write": {"seconds": {"type": "number"}},
}


def setup(connection_string: str, tmp_path: Path, **connection: Any) -> DriverSetup:
    return DriverSetup(
        name="erp",
        connection=read({"type": "odbc", "connection_string": connection_string, **connection}, OdbcConnection),
        operations={
            name: read({"connection": "erp", "timeout": "60s", "params": PARAMS[name], **operation}, SqlOperation)
            for name, operation in OPERATIONS.items()
        },
        base_dir=str(tmp_path),
        state_dir=str(tmp_path),
    )


@pytest.fixture
async def erp(postgres: Postgres, tmp_path: Path) -> AsyncIterator[DriverConnector]:
    postgres.execute_script("CREATE TABLE IF NOT EXISTS written (a int); TRUNCATE written")
    # What an earlier test killed may still run at the server, which sees only late that its client is gone.
    end_sessions(postgres)
    connector = DriverConnector(setup(postgres.odbc(), tmp_path), CONNECTORS["odbc"])
    yield connector
    await connector.close()


def end_sessions(server: Postgres) -> None:
    with pyodbc.connect(server.odbc(), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = user"
        )


def call(operation: str, timeout_s: float = 30.0, **params: Any) -> Call:
    return Call("cmd_test", operation, json.dumps(params).encode(), timeout_s)


async def all_of(connector: DriverConnector, wanted: Call) -> list[Piece]:
    return [piece async for piece in connector.run(wanted)]


def running(server: Postgres, text: str) -> int:
    with pyodbc.connect(server.odbc(), autocommit=True) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE ?",
            f"%{text}%",
        ).fetchone()
    assert found is not None
    return int(found[0])


def only_session(connector: DriverConnector) -> sessions.Session:
    (session,) = [*connector._running.values(), *connector._idle]
    return session


async def test_a_process_is_used_again(erp: DriverConnector) -> None:
    await all_of(erp, call("numbers", count=3))
    first = only_session(erp).pid
    pieces = await all_of(erp, call("numbers", count=3))
    assert only_session(erp).pid == first
    assert [piece.data for piece in pieces if isinstance(piece, Rows)] == [b'{"n":1}\n{"n":2}\n{"n":3}\n']


async def test_no_secret_is_in_the_command_line_or_the_environment(erp: DriverConnector, postgres: Postgres) -> None:
    await all_of(erp, call("numbers", count=1))
    pid = only_session(erp).pid
    for place in ("cmdline", "environ"):
        with contextlib.suppress(PermissionError):  # its environment can be read by root only, which is as good
            seen = await asyncio.to_thread(Path(f"/proc/{pid}/{place}").read_bytes)
            assert seen
            assert postgres.password.encode() not in seen


async def test_a_driver_killed_in_the_middle_costs_one_command(erp: DriverConnector, postgres: Postgres) -> None:
    running_call = asyncio.ensure_future(all_of(erp, call("sleep", seconds=30)))
    await until_seen(lambda: running(postgres, "pg_sleep"))
    os.kill(only_session(erp).pid, signal.SIGKILL)
    with pytest.raises(errors.DriverCrashed, match="signal 9"):
        await running_call
    assert await all_of(erp, call("numbers", count=1))


async def test_a_driver_killed_while_rows_come_is_told(erp: DriverConnector) -> None:
    async def kill_at_the_first_rows() -> None:
        async for piece in erp.run(call("numbers", count=5_000_000)):
            if isinstance(piece, Rows) and only_session(erp).alive:
                os.kill(only_session(erp).pid, signal.SIGKILL)

    with pytest.raises(errors.DriverCrashed):
        await kill_at_the_first_rows()


@pytest.mark.parametrize(("operation", "error"), [("sleep", errors.TimedOut), ("slow-write", errors.OutcomeUnknown)])
async def test_a_driver_that_hangs_past_its_deadline_is_ended(
    erp: DriverConnector, postgres: Postgres, operation: str, error: type[errors.CommandError]
) -> None:
    await all_of(erp, call("numbers", count=1))
    pid = only_session(erp).pid
    running_call = asyncio.ensure_future(all_of(erp, call(operation, timeout_s=0.5, seconds=30)))
    await until_seen(lambda: running(postgres, "pg_sleep"))
    # Stopped, it answers nothing: neither its own timeout nor our asking helps.
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(error, match="its process was ended"):
        await running_call
    await until_seen(lambda: not Path(f"/proc/{pid}").exists())
    assert await all_of(erp, call("numbers", count=1))


async def test_an_operation_past_its_timeout_is_stopped_at_the_source(erp: DriverConnector, postgres: Postgres) -> None:
    with pytest.raises(errors.TimedOut):
        await all_of(erp, call("sleep", timeout_s=1.0, seconds=30))
    assert running(postgres, "pg_sleep") == 0


async def test_a_consumer_that_goes_away_stops_the_work(erp: DriverConnector, postgres: Postgres) -> None:
    pieces = erp.run(call("numbers", count=50_000_000))
    async for piece in pieces:
        if isinstance(piece, Rows):
            break
    await pieces.aclose()
    await until_seen(lambda: running(postgres, "generate_series") == 0)
    assert await all_of(erp, call("numbers", count=1))


async def test_cancel_ends_a_running_statement_soon(erp: DriverConnector, postgres: Postgres) -> None:
    running_call = asyncio.ensure_future(all_of(erp, call("slow-write", seconds=30)))
    await until_seen(lambda: running(postgres, "pg_sleep"))
    erp.cancel("cmd_test")
    with pytest.raises(errors.CommandError):
        await running_call
    assert running(postgres, "pg_sleep") == 0
    with pyodbc.connect(postgres.odbc()) as connection:
        assert connection.execute("SELECT count(*) FROM written").fetchval() == 0


async def test_a_cancel_while_the_driver_connects_is_not_lost(erp: DriverConnector, postgres: Postgres) -> None:
    # The words are read in order: that there is a process means that it has not yet connected.
    running_call = asyncio.ensure_future(all_of(erp, call("slow-write", seconds=30)))
    await until_seen(lambda: erp._running)
    erp.cancel("cmd_test")
    with pytest.raises(errors.Cancelled) as caught:
        await running_call
    assert "its process was ended" not in caught.value.message
    assert running(postgres, "pg_sleep") == 0


async def test_a_slow_consumer_makes_the_source_wait(erp: DriverConnector) -> None:
    pieces = erp.run(call("numbers", count=5_000_000))
    rows = 0
    async for piece in pieces:
        if isinstance(piece, Rows):
            rows += piece.count
            session = only_session(erp)
            # What is read ahead is bounded: our buffer, the pipe, and one batch in the driver.
            assert len(session._stdout._buffer) <= 2 * sessions.PIPE_BYTES + 65_536  # type: ignore[attr-defined]  # asyncio does not show it
            if rows > 100_000:
                break
    await pieces.aclose()


async def test_an_unused_process_ends(postgres: Postgres, tmp_path: Path) -> None:
    connector = DriverConnector(setup(postgres.odbc(), tmp_path, idle="100ms"), CONNECTORS["odbc"])
    await all_of(connector, call("numbers", count=1))
    pid = only_session(connector).pid
    await until_seen(lambda: not Path(f"/proc/{pid}").exists())
    await connector.close()


async def test_a_session_that_the_database_closed_is_replaced_before_use(
    erp: DriverConnector, postgres: Postgres
) -> None:
    await all_of(erp, call("numbers", count=1))
    end_sessions(postgres)
    assert await all_of(erp, call("numbers", count=1))


async def test_a_database_that_is_not_there_is_unavailable_and_untouched(tmp_path: Path) -> None:
    connector = DriverConnector(
        setup("Driver={PostgreSQL Unicode};Server=127.0.0.1;Port=1;Database=x;Uid=x;Pwd=hidden-word", tmp_path),
        CONNECTORS["odbc"],
    )
    with pytest.raises(errors.SourceUnavailable) as caught:
        await all_of(connector, call("numbers", count=1))
    assert not caught.value.touched
    assert "hidden-word" not in caught.value.message
    (finding,) = await connector.check()
    assert finding.ok is False
    await connector.close()


async def test_a_driver_that_can_not_be_loaded_says_why_and_touched_nothing(tmp_path: Path) -> None:
    connector = DriverConnector(setup("x", tmp_path), "agent.connectors.nowhere:Driver")
    with pytest.raises(errors.SourceUnavailable, match=r"No module named 'agent\.connectors\.nowhere'") as caught:
        await all_of(connector, call("slow-write", seconds=1))
    assert not caught.value.touched
    await connector.close()


async def test_a_process_that_dies_at_once_says_where_its_reason_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As an installation that is not whole: Python tells that there is no such module, and ends.
    broken = [sys.executable, "-P", "-m", "agent.connectors.nowhere"]
    monkeypatch.setattr(sessions, "worker_command", lambda: broken)
    connector = DriverConnector(setup("x", tmp_path), CONNECTORS["odbc"])
    with pytest.raises(errors.DriverCrashed, match=r"exit code 1.*stands in the agent's log"):
        await all_of(connector, call("numbers", count=1))
    await connector.close()


async def test_a_process_that_said_that_it_dies_is_given_no_other_command(tmp_path: Path) -> None:
    connector = DriverConnector(setup("x", tmp_path), "fractions:Fraction")  # breaks in a way that is no CommandError
    with pytest.raises(errors.DriverCrashed, match="TypeError in the driver"):
        await all_of(connector, call("slow-write", seconds=1))
    assert connector._idle == []
    await connector.close()


async def test_a_process_that_can_not_be_started_touched_nothing_and_names_the_place(tmp_path: Path) -> None:
    connector = DriverConnector(setup("x", tmp_path / "missing"), CONNECTORS["odbc"])
    with pytest.raises(errors.SourceUnavailable, match=r"could not be started: .*missing") as caught:
        await all_of(connector, call("slow-write", seconds=1))
    assert not caught.value.touched
    await connector.close()


async def test_the_process_ends_with_the_agent(erp: DriverConnector) -> None:
    await all_of(erp, call("numbers", count=1))
    session = only_session(erp)
    session._stdin.close()
    await until_seen(lambda: not Path(f"/proc/{session.pid}").exists())


async def test_ctrl_c_on_the_agents_terminal_reaches_no_driver(erp: DriverConnector) -> None:
    await all_of(erp, call("numbers", count=1))
    assert os.getsid(only_session(erp).pid) != os.getsid(0)
    assert os.getpgid(only_session(erp).pid) != os.getpgid(0)


async def test_outputs_and_findings_come_through(erp: DriverConnector) -> None:
    pieces = await all_of(erp, call("numbers", count=1))
    assert isinstance(pieces[-1], Outputs)
    findings = await erp.check()
    assert findings
    assert all(finding.ok is not False for finding in findings)


async def test_a_document_of_some_megabytes_comes_in_one_row(erp: DriverConnector) -> None:
    pieces = [piece for piece in await all_of(erp, call("document", bytes=5_000_000)) if isinstance(piece, Rows)]

    rows = [json.loads(line) for line in b"".join(piece.data for piece in pieces).splitlines()]
    assert [(row["n"], len(row["x"])) for row in rows] == [(1, 5_000_000), (2, 1)]
    assert sum(piece.count for piece in pieces) == 2


async def test_outputs_that_are_too_large_are_told_as_such(postgres: Postgres, tmp_path: Path) -> None:
    postgres.execute_script(
        "CREATE OR REPLACE PROCEDURE large_out(OUT t text) LANGUAGE sql AS $$ SELECT repeat('x', 3000000) $$"
    )
    procedure = read(
        {
            "connection": "erp",
            "procedure": "large_out",
            "effect": "read",
            "params": {"t": {"type": "string", "direction": "out"}},
        },
        ProcedureOperation,
    )
    made = msgspec.structs.replace(setup(postgres.odbc(), tmp_path), operations={"large-out": procedure})
    connector = DriverConnector(made, CONNECTORS["odbc"])
    try:
        with pytest.raises(errors.OutcomeUnknown, match="its outputs of 30000"):
            await all_of(connector, call("large-out"))
    finally:
        await connector.close()


async def test_a_cancel_while_the_process_starts_is_not_lost(erp: DriverConnector, postgres: Postgres) -> None:
    pieces = erp.run(call("slow-write", seconds=0))
    beginning = asyncio.ensure_future(anext(pieces))
    await asyncio.sleep(0)
    erp.cancel("cmd_test")
    with pytest.raises(errors.Cancelled):
        await beginning
    with pyodbc.connect(postgres.odbc(), autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM written").fetchval() == 0
    assert only_session(erp).alive


GARBAGE = [b"\0\0\0\2\0\0\0\0{}", b"\xff" * 8, b"Welcome to the driver, version 3.1!\n"]


@pytest.mark.parametrize("said", GARBAGE)
@pytest.mark.parametrize("asked", ["run", "check"])
async def test_a_process_that_says_what_can_not_be_read_is_ended(
    erp: DriverConnector, monkeypatch: pytest.MonkeyPatch, said: bytes, asked: str
) -> None:
    program = f"import sys, time; sys.stdout.buffer.write({said!r}); sys.stdout.flush(); time.sleep(60)"
    monkeypatch.setattr(sessions, "worker_command", lambda: [sys.executable, "-c", program])
    if asked == "run":
        with pytest.raises(errors.CommandError, match="can't be read"):
            await all_of(erp, call("numbers", count=1))
    else:
        (finding,) = await erp.check()
        assert finding.ok is False
        assert "can't be read" in finding.detail
    assert (erp._idle, erp._running) == ([], {})


async def test_a_question_that_is_given_up_is_not_answered_to_the_next(erp: DriverConnector) -> None:
    await all_of(erp, call("numbers", count=1))
    asking = asyncio.ensure_future(erp.check())
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    pieces = await all_of(erp, call("numbers", count=2))
    assert [piece.data for piece in pieces if isinstance(piece, Rows)] == [b'{"n":1}\n{"n":2}\n']
