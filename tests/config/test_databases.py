"""Throw-away database servers: there, guarded by a password, restarted, gone."""

from __future__ import annotations

import signal
from pathlib import Path

import pyodbc
import pytest

from config.dev import databases
from config.dev.databases import MariaDB, Postgres, Server, ServerError


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


BOTH = pytest.mark.parametrize("server", ["postgres", "mariadb"], indirect=True)


@BOTH
def test_a_script_runs_and_odbc_sees_what_it_did(server: Server) -> None:
    server.execute_script("CREATE TABLE scripted (a int); INSERT INTO scripted VALUES (1);")
    connection = pyodbc.connect(server.odbc())
    assert connection.execute("SELECT a FROM scripted").fetchval() == 1
    connection.close()


@BOTH
def test_a_script_that_fails_says_why(server: Server) -> None:
    with pytest.raises(ServerError, match="nowhere"):
        server.execute_script("SELECT * FROM nowhere;")


@BOTH
def test_nobody_gets_in_without_the_password(server: Server) -> None:
    for password in ("wrong", ""):
        with pytest.raises(pyodbc.Error):
            pyodbc.connect(server.odbc(password=password or "{}"))


@pytest.mark.parametrize("durable", [False, True])
def test_data_outlive_a_restart_and_an_ordered_stop(durable: bool) -> None:
    with databases.postgres(durable=durable) as server:
        server.execute_script("CREATE TABLE kept (a int)")
        port = server.port
        server.stop(signal.SIGINT)
        with pytest.raises(ServerError, match="not running"):
            _ = server.pid
        server.start()
        assert server.port == port
        server.execute_script("SELECT * FROM kept")


@pytest.mark.parametrize("kind", [Postgres, MariaDB])
def test_the_folder_of_a_throw_away_server_is_removed(kind: type[Server]) -> None:
    with databases.postgres() if kind is Postgres else databases.mariadb() as server:
        folder: Path = server.folder
        assert folder.exists()
        assert "running" in repr(server)
    assert not folder.exists()
