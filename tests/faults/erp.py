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
from typing import Final, Literal

import pyodbc

from config.dev.databases import MariaDB, Postgres, Server, mariadb, postgres
from config.dev.finance import FinanceService, finance_service
from tests.faults.proxy import Proxy

System = Literal["postgres", "mariadb", "files", "soap"]
FETCH_S: Final = 0.02  # seconds between two looks into the folder

POSTGRES: Final = """
CREATE TABLE orders (number bigserial PRIMARY KEY, order_no text NOT NULL);
CREATE TABLE stock (sku text PRIMARY KEY, written int NOT NULL);
CREATE PROCEDURE place_order(wanted text, mode text, INOUT document text DEFAULT NULL) LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO orders (order_no) VALUES (wanted) RETURNING 'DOC-' || number INTO document;
  IF mode = 'reject' THEN RAISE EXCEPTION 'no credit' USING ERRCODE = 'P0001'; END IF;
  IF mode = 'fail' THEN PERFORM 1 / 0; END IF;
END $$;
CREATE FUNCTION place_order_rows(wanted text, many int) RETURNS TABLE (n int, text text) LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO orders (order_no) VALUES (wanted);
  RETURN QUERY SELECT i, wanted || ' line ' || i FROM generate_series(1, many) i;
END $$;
CREATE PROCEDURE write_stock(wanted text) LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO stock VALUES (wanted, 1) ON CONFLICT (sku) DO UPDATE SET written = stock.written + 1;
END $$;
"""
MARIADB: Final = """
CREATE TABLE orders (number bigint AUTO_INCREMENT PRIMARY KEY, order_no varchar(40) NOT NULL);
DELIMITER //
CREATE PROCEDURE place_order(IN wanted varchar(40), IN mode varchar(10), OUT document varchar(40))
BEGIN
  INSERT INTO orders (order_no) VALUES (wanted);
  SET document = concat('DOC-', last_insert_id());
  IF mode = 'reject' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no credit'; END IF;
  IF mode = 'fail' THEN SIGNAL SQLSTATE 'HY000' SET MESSAGE_TEXT = 'broken'; END IF;
END //
CREATE PROCEDURE place_order_rows(IN wanted varchar(40), IN many int)
BEGIN
  INSERT INTO orders (order_no) VALUES (wanted);
  WITH RECURSIVE series AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM series WHERE n < many)
  SELECT n, concat(wanted, ' line ', n) AS text FROM series;
END //
DELIMITER ;
"""

OPERATIONS: Final = """
[connections.pg]
type = "odbc"
connection_string = "{postgres}"
max_concurrent = 2
login_timeout = "2s"
ledger = "outhaul_ledger"
breaker = {{ failures = 5, cool_down = "300ms" }}

[operations.pg-once]
connection = "pg"
procedure = "place_order"
effect = "once"
timeout = "4s"
business_errors = ["P0001"]
[operations.pg-once.params]
order_no = {{ type = "string" }}
mode = {{ type = "string" }}
document = {{ type = "string", direction = "inout", required = false }}

[operations.pg-maybe]
connection = "pg"
procedure = "place_order"
timeout = "4s"
business_errors = ["P0001"]
[operations.pg-maybe.params]
order_no = {{ type = "string" }}
mode = {{ type = "string" }}
document = {{ type = "string", direction = "inout", required = false }}

[operations.pg-verified]
connection = "pg"
procedure = "place_order"
timeout = "4s"
business_errors = ["P0001"]
verify = "pg-find"
[operations.pg-verified.params]
order_no = {{ type = "string" }}
mode = {{ type = "string" }}
document = {{ type = "string", direction = "inout", required = false }}

[operations.pg-find]
connection = "pg"
sql = "SELECT order_no, 'DOC-' || number AS document FROM orders WHERE order_no = :order_no"
effect = "read"
timeout = "4s"
[operations.pg-find.params]
order_no = {{ type = "string" }}

[operations.pg-rows-once]
connection = "pg"
sql = "SELECT * FROM place_order_rows(:order_no, :count::int)"
effect = "once"
timeout = "6s"
[operations.pg-rows-once.params]
order_no = {{ type = "string" }}
count = {{ type = "integer" }}

[operations.pg-stock]
connection = "pg"
procedure = "write_stock"
effect = "idempotent"
timeout = "4s"
[operations.pg-stock.params]
order_no = {{ type = "string" }}

[operations.pg-read]
connection = "pg"
sql = "SELECT n, 'line ' || n AS text FROM generate_series(1, :count::int) n"
effect = "read"
timeout = "20s"
[operations.pg-read.params]
count = {{ type = "integer" }}

[operations.pg-nap]
connection = "pg"
sql = "SELECT pg_sleep(:seconds)"
effect = "read"
timeout = "4s"
[operations.pg-nap.params]
seconds = {{ type = "number" }}

[connections.my]
type = "odbc"
connection_string = "{mariadb}"
max_concurrent = 2
login_timeout = "2s"
ledger = "outhaul_ledger"
breaker = {{ failures = 5, cool_down = "300ms" }}

[operations.my-once]
connection = "my"
procedure = "place_order"
effect = "once"
timeout = "4s"
business_errors = ["45000"]
[operations.my-once.params]
order_no = {{ type = "string" }}
mode = {{ type = "string" }}
document = {{ type = "string", direction = "out" }}

[operations.my-maybe]
connection = "my"
procedure = "place_order"
timeout = "4s"
business_errors = ["45000"]
[operations.my-maybe.params]
order_no = {{ type = "string" }}
mode = {{ type = "string" }}
document = {{ type = "string", direction = "out" }}

[operations.my-rows-once]
connection = "my"
procedure = "place_order_rows"
effect = "once"
timeout = "6s"
[operations.my-rows-once.params]
order_no = {{ type = "string" }}
count = {{ type = "integer" }}

[connections.edi]
type = "file"
root = "edi"
max_concurrent = 2

[operations.drop-once]
connection = "edi"
drop = "{{order_no}}.csv"
effect = "once"
format = {{ type = "csv", delimiter = ";", columns = ["sku", "qty"] }}
[operations.drop-once.params]
order_no = {{ type = "string" }}

[operations.drop-maybe]
connection = "edi"
drop = "{{order_no}}.csv"
format = {{ type = "csv", delimiter = ";", columns = ["sku", "qty"] }}
[operations.drop-maybe.params]
order_no = {{ type = "string" }}

[connections.finance]
type = "soap"
wsdl = "{wsdl}"
endpoint = "{endpoint}"
max_concurrent = 2
breaker = {{ failures = 5, cool_down = "300ms" }}

[operations.post-maybe]
connection = "finance"
call = "PostInvoice"
timeout = "4s"
business_faults = ["PeriodClosed"]

[operations.post-verified]
connection = "finance"
call = "PostInvoice"
timeout = "4s"
business_faults = ["PeriodClosed"]
verify = "find-invoice"

[operations.find-invoice]
connection = "finance"
call = "FindInvoice"
effect = "read"
timeout = "4s"
"""


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
        return OPERATIONS.format(
            postgres=_through(self.pg, self.links["postgres"], "{secret:pg}"),
            mariadb=_through(self.my, self.links["mariadb"], "{secret:my}"),
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
def erp(root: Path, *, durable: bool = False) -> Iterator[Erp]:
    """
    Start all four.

    Args:
        root: the folder of the files.
        durable: whether the databases force their writes to disk.
    """
    with contextlib.ExitStack() as stack:
        pg, my = stack.enter_context(postgres(durable=durable)), stack.enter_context(mariadb(durable=durable))
        finance = stack.enter_context(finance_service())
        pg.execute_script(POSTGRES)
        my.execute_script(MARIADB)
        ports: dict[System, int] = {"postgres": pg.port, "mariadb": my.port, "soap": finance.port}
        links = {system: stack.enter_context(Proxy(port)) for system, port in ports.items()}
        folder = Folder(root)
        stack.callback(folder.close)
        yield Erp(pg, my, finance, folder, links)
