"""
Four legacy systems that keep count of what was done to them: two databases, a folder, a SOAP service.

None of them notices a repeat: an order that comes twice is there twice.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final, Literal

import pyodbc

from agent.connectors.odbc.ledger_tables import script
from config.dev.databases import MariaDB, Postgres, Server, mariadb, postgres
from config.dev.finance import FinanceService, finance_service
from tests.faults.proxy import Proxy

System = Literal["postgres", "mariadb", "files", "soap"]
HERE: Final = Path(__file__).parent
LEDGER: Final = "outhaul_ledger"
FETCH_S: Final = 0.02  # seconds between two looks into the folder


@dataclass(frozen=True, slots=True)
class Effect:
    """
    Something that was done.

    Attributes:
        number: its place among the effects of its system.
        document: what the system calls it; "" if it gives no name.
    """

    system: System
    order_no: str
    number: int
    document: str = ""


class Folder:
    """The folder, and who fetches files from it as soon as they are there, as ERPs do."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self._fetched: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fetch, name="fetch files", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Fetch no more."""
        self._stop.set()
        self._thread.join()

    def effects(self) -> list[Effect]:
        """Return what was fetched, and what is still there."""
        there = [*self._fetched, *(found.stem for found in self._waiting())]
        return [Effect("files", order_no, number) for number, order_no in enumerate(there)]

    def _waiting(self) -> list[Path]:
        return sorted(self.root.glob("[!.]*.csv"), key=lambda path: path.stat().st_mtime_ns)

    def _fetch(self) -> None:
        while not self._stop.wait(FETCH_S):
            with contextlib.suppress(FileNotFoundError):
                for path in self._waiting():
                    os.unlink(path)
                    self._fetched.append(path.stem)


class Erp:
    """
    All four, with a proxy before each that has a network.

    Attributes:
        links: the proxies, by system.
    """

    def __init__(self, pg: Postgres, my: MariaDB, finance: FinanceService, folder: Folder, links: dict[System, Proxy]):
        self.pg, self.my, self.finance, self.folder, self.links = pg, my, finance, folder, links

    @property
    def servers(self) -> dict[System, Server]:
        """The databases."""
        return {"postgres": self.pg, "mariadb": self.my}

    def operator_file(self) -> str:
        """Return the connections and operations of an agent's file."""
        return Template((HERE / "operations.toml").read_text()).substitute(
            postgres=_through(self.pg, self.links["postgres"], "{secret:pg}"),
            mariadb=_through(self.my, self.links["mariadb"], "{secret:my}"),
            folder=self.folder.root,
            ledger=LEDGER,
            wsdl=self.finance.wsdl,
            endpoint=self.finance.url.replace(str(self.finance.port), str(self.links["soap"].port)),
        )

    def effects(self) -> list[Effect]:
        """Return all that was ever done, in the order of each system."""
        invoices = self.finance.posted()["invoices"]
        return [
            *_orders("postgres", self.pg),
            *_orders("mariadb", self.my),
            *self.folder.effects(),
            *(
                Effect("soap", str(invoice["invoiceNo"]), number, str(4_900_000_001 + number))
                for number, invoice in enumerate(invoices)
            ),
        ]

    def stock(self) -> set[str]:
        """Return what was written at least once by the idempotent operation."""
        with contextlib.closing(pyodbc.connect(self.pg.odbc(), autocommit=True)) as session:
            return {sku for (sku,) in session.execute("SELECT sku FROM stock")}


def _orders(system: System, server: Server) -> Iterator[Effect]:
    with contextlib.closing(pyodbc.connect(server.odbc(), autocommit=True)) as session:
        for number, order_no in session.execute("SELECT number, order_no FROM orders ORDER BY number").fetchall():
            yield Effect(system, order_no, number, f"DOC-{number}")


def _through(server: Server, link: Proxy, password: str) -> str:
    return server.odbc(password=password).replace(f"Port={server.port}", f"Port={link.port}")


@contextlib.contextmanager
def erp(root: Path) -> Iterator[Erp]:
    """
    Start all four.

    Args:
        root: the folder of the files.
    """
    with contextlib.ExitStack() as stack:
        # Else they would forget what they have confirmed when they crash.
        pg = stack.enter_context(postgres(durable=True))
        my = stack.enter_context(mariadb(durable=True))
        finance = stack.enter_context(finance_service())
        pg.execute_script((HERE / "postgres.sql").read_text())
        my.execute_script((HERE / "mariadb.sql").read_text())
        ports: dict[System, int] = {"postgres": pg.port, "mariadb": my.port, "soap": finance.port}
        links = {system: stack.enter_context(Proxy(port)) for system, port in ports.items()}
        pg.execute_script(script("postgresql", LEDGER))
        my.execute_script(script("mariadb", LEDGER))
        folder = Folder(root)
        stack.callback(folder.close)
        yield Erp(pg, my, finance, folder, links)
