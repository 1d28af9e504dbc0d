"""Databases with a ledger, an order table and procedures that write into it, for the tests of ``once``."""

from __future__ import annotations

import json
import sqlite3
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Final

import pyodbc
import pytest

from agent.connectors.base import Call, DriverSetup
from agent.connectors.odbc.ledger_tables import script
from agent.settings import OdbcConnection, Operation
from agent.settings_reader import read
from config.dev.databases import MariaDB, Postgres, Server

LEDGER: Final = "test_ledger"
ORDERS: Final = "test_orders"
NUMBER: Final = {"n": {"type": "integer"}}
INSERT: Final = f"INSERT INTO {ORDERS} VALUES (n);"  # noqa: S608 # names of ours
WITH_ANSWER: Final = {**NUMBER, "order_no": {"type": "string", "direction": "out"}}


class Erp(ABC):
    """
    A database with table ``test_orders(n)`` and the operation ``order``, which adds a row to it once.

    Attributes:
        operations: by name, as in the operator's file.
    """

    dialect: str

    def __init__(self) -> None:
        self.operations: dict[str, dict[str, Any]] = {
            "order": {"procedure": "test_order", "params": WITH_ANSWER},
            "slow-order": {"procedure": "test_slow_order", "params": {**NUMBER, "seconds": {"type": "number"}}},
        }

    @abstractmethod
    def odbc(self) -> str:
        """Return the connection string."""

    @abstractmethod
    def script(self, sql: str) -> None:
        """Run a script as the administrator."""

    def ask(self, sql: str, *values: Any) -> list[Any]:
        """Return the rows of a query, on a session of its own."""
        connection = pyodbc.connect(self.odbc(), autocommit=True)
        try:
            return [tuple(row) for row in connection.execute(sql, *values).fetchall()]
        finally:
            connection.close()

    def orders(self) -> list[int]:
        """Return what is in the order table."""
        return sorted(int(n) for (n,) in self.ask(f"SELECT n FROM {ORDERS}"))  # noqa: S608 # a name of ours

    def ledger(self) -> dict[str, str]:
        """Return the state of each command in the ledger."""
        found = self.ask(f"SELECT command_id, state FROM {LEDGER}")  # noqa: S608 # a name of ours
        return {str(command): str(state) for command, state in found}

    def setup(self, odbc: str | None = None, **connection: Any) -> DriverSetup:
        """Return what a driver is told; all operations are ``once`` unless they say otherwise."""
        keys = {"type": "odbc", "connection_string": odbc or self.odbc(), "ledger": LEDGER, **connection}
        return DriverSetup(
            name="erp",
            connection=read(keys, OdbcConnection),
            operations={
                name: read({"connection": "erp", "effect": "once", **body}, Operation)
                for name, body in self.operations.items()
            },
        )


class PostgresErp(Erp):
    dialect = "postgresql"

    def __init__(self, server: Postgres) -> None:
        super().__init__()
        self.server = server
        server.execute_script(f"""
            DROP TABLE IF EXISTS {LEDGER}, {ORDERS};
            {script("postgresql", LEDGER)}
            CREATE TABLE {ORDERS} (n int);
            CREATE OR REPLACE PROCEDURE test_order(n int, OUT order_no text) LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO {ORDERS} VALUES (n); order_no := 'PÖ-' || n; END $$;
            CREATE OR REPLACE PROCEDURE test_slow_order(n int, seconds float8) LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO {ORDERS} VALUES (n); PERFORM pg_sleep(seconds); END $$;
        """)  # noqa: S608 # names of ours
        self.operations["order-rows"] = {
            "sql": f"INSERT INTO {ORDERS} VALUES (:n); SELECT n FROM {ORDERS} ORDER BY n",  # noqa: S608 # names of ours
            "params": NUMBER,
        }

    def odbc(self) -> str:
        return self.server.odbc()

    def script(self, sql: str) -> None:
        self.server.execute_script(sql)


class MariaErp(Erp):
    dialect = "mariadb"

    def __init__(self, server: MariaDB) -> None:
        super().__init__()
        self.server = server
        server.execute_script(f"""
            DROP TABLE IF EXISTS {LEDGER}, {ORDERS};
            {script("mariadb", LEDGER)}
            CREATE TABLE {ORDERS} (n int) ENGINE = InnoDB;
            DELIMITER //
            CREATE OR REPLACE PROCEDURE test_order(n int, OUT order_no text)
            BEGIN INSERT INTO {ORDERS} VALUES (n); SET order_no = CONCAT('PÖ-', n); END //
            CREATE OR REPLACE PROCEDURE test_slow_order(n int, seconds double)
            BEGIN DO (SELECT COUNT(*) FROM {ORDERS}); INSERT INTO {ORDERS} VALUES (n); DO SLEEP(seconds); END //
            DELIMITER ;
        """)  # noqa: S608 # names of ours
        self.operations["order-rows"] = {
            "sql": f"INSERT INTO {ORDERS} VALUES (:n); SELECT n FROM {ORDERS} ORDER BY n",  # noqa: S608 # names of ours
            "params": NUMBER,
        }

    def odbc(self) -> str:
        return self.server.odbc()

    def script(self, sql: str) -> None:
        self.server.execute_script(sql)


class SqliteErp(Erp):
    """One file; without procedures, ``order`` is two statements."""

    dialect = "sqlite"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "erp.db"
        self.script(f"{script('sqlite', LEDGER)} CREATE TABLE {ORDERS} (n int);")
        order = f"INSERT INTO {ORDERS} VALUES (:n); SELECT n FROM {ORDERS} ORDER BY n"  # noqa: S608 # names of ours
        self.operations = {
            "order": {"sql": f"INSERT INTO {ORDERS} VALUES (:n)", "params": NUMBER},  # noqa: S608 # a name of ours
            "order-rows": {"sql": order, "params": NUMBER},
        }

    def odbc(self) -> str:
        return f"Driver={{SQLite3}};Database={self.path}"

    def script(self, sql: str) -> None:
        connection = sqlite3.connect(self.path)
        connection.executescript(sql)
        connection.close()


def erp_of(dialect: str, server: Server | Path) -> Erp:
    """Return a fresh ERP in a database."""
    if isinstance(server, Postgres):
        return PostgresErp(server)
    return MariaErp(server) if isinstance(server, MariaDB) else SqliteErp(Path(str(server)))


def erp_in(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> Erp:
    """Return a fresh ERP in the tests' own server of a dialect, or in a file."""
    names = {"postgresql": "postgres", "mariadb": "mariadb"}
    return erp_of(dialect, request.getfixturevalue(names[dialect]) if dialect in names else tmp_path)


def call(
    operation: str = "order",
    *,
    command: str = "cmd_1",
    epoch: int = 1,
    fingerprint: str = "f1",
    timeout_s: float = 20.0,
    **params: Any,
) -> Call:
    """Return a call; ``n`` is 1 unless told."""
    given = {"n": 1, **params}
    return Call(command, operation, json.dumps(given).encode(), timeout_s, epoch, fingerprint)
