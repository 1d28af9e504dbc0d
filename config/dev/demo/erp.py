"""The legacy side of the demo: a database with stored procedures, a SOAP service, an EDI folder; and their truth."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Final

import pyodbc

from config.dev.databases import Postgres, postgres
from config.dev.finance import FinanceService, finance_service

FOLDER: Final = Path(__file__).parent
ACCOUNT: Final = "outhaul_agent"  # what the ERP's administrator made for the agent

GRANTS: Final = """
CREATE ROLE {account} LOGIN PASSWORD '{password}';
GRANT SELECT ON invoices, customers TO {account};
REVOKE ALL ON PROCEDURE create_sales_order FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE create_sales_order TO {account};
REVOKE ALL ON PROCEDURE set_credit_limit FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE set_credit_limit TO {account};
GRANT SELECT, INSERT, UPDATE ON outhaul_ledger TO {account};
"""


@dataclass(frozen=True, slots=True)
class Erp:
    """
    The running parts.

    Attributes:
        password: of the agent's account in the database.
        finance_password: of the SOAP service's user ``svc``.
        edi: the folder that a freight partner fetches from.
    """

    database: Postgres
    password: str
    finance: FinanceService
    finance_password: str
    edi: Path

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the ERP's own tables, as its administrator and past all of Outhaul."""
        connection = pyodbc.connect(self.database.odbc(), autocommit=True)
        try:
            return [tuple(row) for row in connection.execute(sql, *values).fetchall()]
        finally:
            connection.close()

    def value(self, sql: str, *values: object) -> Any:
        """Return the first column of the first row."""
        return self.rows(sql, *values)[0][0]

    @contextlib.contextmanager
    def locked(self, table: str) -> Iterator[None]:
        """Let nobody use a table while the block runs."""
        connection = pyodbc.connect(self.database.odbc(), autocommit=False)
        try:
            connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
        finally:
            connection.rollback()
            connection.close()

    def held_up(self) -> bool:
        """Whether somebody waits for a lock."""
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return int(self.value(waiting)) > 0

    def agent_file(self, head_office: str) -> str:
        """
        Return the operator's file for these parts.

        Args:
            head_office: the public key of the one caller who may change a credit limit.
        """
        return Template((FOLDER / "agent.toml").read_text("utf-8")).substitute(
            erp_port=self.database.port,
            edi=self.edi.as_posix(),
            wsdl=self.finance.wsdl.as_posix(),
            finance_url=self.finance.url,
            head_office=head_office,
        )


@contextlib.contextmanager
def legacy_erp(folder: Path) -> Iterator[Erp]:
    """
    Run it while the block runs.

    Args:
        folder: where the EDI folder is made; the database has a temporary one of its own.
    """
    password, finance_password = secrets.token_urlsafe(18), secrets.token_urlsafe(18)
    edi = folder / "edi"
    edi.mkdir(parents=True)
    with (
        postgres() as database,
        finance_service(auth="wsse", username="svc", password=finance_password) as finance,
    ):
        for name in ("schema.sql", "data.sql"):
            database.execute_script((FOLDER / name).read_text("utf-8"))
        database.execute_script(GRANTS.format(account=ACCOUNT, password=password))
        yield Erp(database, password, finance, finance_password, edi)
