"""One site for the tests that break nothing: every kind of connection on real servers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from config.dev.databases import MariaDB, Postgres
from config.dev.finance import FinanceService, finance_service
from tests.whole.site import AgentSite, Broker, Caller, agent, broker

POSTGRES = """
CREATE TABLE IF NOT EXISTS orders (order_no text PRIMARY KEY, customer text, total numeric(12,2));
CREATE OR REPLACE PROCEDURE create_order(customer text, total numeric, INOUT order_no text DEFAULT NULL)
LANGUAGE plpgsql AS $$
BEGIN
  IF customer = 'BLOCKED' THEN RAISE EXCEPTION 'customer % is blocked', customer USING ERRCODE = 'P0001'; END IF;
  INSERT INTO orders SELECT 'SO-' || (SELECT count(*) + 1 FROM orders), customer, total RETURNING orders.order_no
  INTO order_no;
END $$;
CREATE OR REPLACE FUNCTION two_sets() RETURNS SETOF refcursor LANGUAGE plpgsql AS $$
DECLARE a refcursor := 'a'; b refcursor := 'b';
BEGIN
  OPEN a FOR SELECT 1 AS n, 'one' AS word UNION ALL SELECT 2, 'two'; RETURN NEXT a;
  OPEN b FOR SELECT 3.50::numeric AS price; RETURN NEXT b;
END $$;
CREATE OR REPLACE PROCEDURE hang() LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); END $$;
"""
MARIADB = """
CREATE OR REPLACE TABLE orders (order_no varchar(20) PRIMARY KEY, customer varchar(20), total decimal(12,2));
DELIMITER //
CREATE OR REPLACE PROCEDURE create_order(IN customer varchar(20), INOUT total decimal(12,2), OUT order_no varchar(20))
BEGIN
  IF customer = 'BLOCKED' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'customer is blocked'; END IF;
  SELECT concat('SO-', count(*) + 1) INTO order_no FROM orders;
  INSERT INTO orders VALUES (order_no, customer, total);
  SET total = total * 1.19;
  SELECT 1 AS n, 'one' AS word UNION ALL SELECT 2, 'two';
  SELECT 3.50 AS price;
END //
CREATE OR REPLACE PROCEDURE hang() BEGIN DO SLEEP(600); END //
DELIMITER ;
"""

SITE = """
[link]
proxy = "none"

[connections.erp]
type = "odbc"
connection_string = "{postgres}"
max_concurrent = 8

[operations.create-order]
connection = "erp"
procedure = "create_order"
business_errors = ["P0001"]
[operations.create-order.params]
customer = {{ type = "string", max_length = 2000000 }}
total = {{ type = "decimal", min = 0, scale = 2 }}
order_no = {{ type = "string", direction = "inout", required = false }}

[operations.two-sets]
connection = "erp"
procedure = "two_sets"
effect = "read"

[operations.hang]
connection = "erp"
procedure = "hang"
timeout = "1s"

[operations.numbers]
connection = "erp"
sql = '''SELECT n, 'row ' || n AS text, n * 1.25 AS price, now() AS at, n % 2 = 0 AS even,
md5(n::text) AS hash, date '2026-01-01' + (n % 365)::int AS day, n::bigint * 1000000 AS big
FROM generate_series(1, :count) n'''
effect = "read"
timeout = "300s"
[operations.numbers.params]
count = {{ type = "integer", min = 0 }}

[operations.look]
connection = "erp"
sql = "SELECT :text::text AS text"
effect = "read"
[operations.look.params]
text = {{ type = "string" }}

[operations.nap]
connection = "erp"
sql = "SELECT pg_sleep(:seconds)"
effect = "read"
[operations.nap.params]
seconds = {{ type = "number" }}

[connections.shop]
type = "odbc"
connection_string = "{mariadb}"

[operations.shop-order]
connection = "shop"
procedure = "create_order"
business_errors = ["45000"]
[operations.shop-order.params]
customer = {{ type = "string", max_length = 20 }}
total = {{ type = "decimal", direction = "inout", scale = 2 }}
order_no = {{ type = "string", direction = "out" }}

[operations.shop-hang]
connection = "shop"
procedure = "hang"
timeout = "1s"

[connections.local]
type = "odbc"
connection_string = "Driver=SQLite3;Database=local.db"

[operations.local-read]
connection = "local"
sql = "SELECT 1 AS n, 'a' AS word"
effect = "read"

[connections.edi]
type = "file"
root = "edi"

[operations.drop-order]
connection = "edi"
drop = "ORD-{{order_no}}.csv"
format = {{ type = "csv", delimiter = ";", columns = ["order_no", "sku", "qty"] }}
encoding = "cp1252"
[operations.drop-order.params]
order_no = {{ type = "string" }}

[operations.pick]
connection = "edi"
pick = "CONF*.csv"
format = {{ type = "csv", delimiter = ";" }}
then = "archive"

[connections.finance]
type = "soap"
wsdl = "{wsdl}"
endpoint = "{endpoint}"
auth = {{ scheme = "wsse", username = "svc", password = "{{secret:finance}}" }}

[operations.post-invoice]
connection = "finance"
call = "PostInvoice"
business_faults = ["PeriodClosed"]

[connections.probe]
type = "synthetic"
[operations.echo]
connection = "probe"
synthetic = "echo"
[operations.rows]
connection = "probe"
synthetic = "rows"
[operations.sleep]
connection = "probe"
synthetic = "sleep"
effect = "at-most-once"
"""


@dataclass(frozen=True, slots=True)
class Whole:
    """A running site and those who talk to it."""

    broker: Broker
    agent: AgentSite
    caller: Caller
    finance: FinanceService
    postgres: Postgres
    mariadb: MariaDB


@pytest.fixture(scope="session")
def finance() -> Iterator[FinanceService]:
    """The SOAP service in node."""
    with finance_service(auth="wsse", username="svc", password="finance-word") as service:
        yield service


@contextlib.contextmanager
def whole(
    folder: Path,
    postgres: Postgres,
    mariadb: MariaDB,
    finance: FinanceService,
    words: Sequence[str] = ("outhaul-agent",),
) -> Iterator[Whole]:
    """A broker and an agent with every kind of connection, enrolled and online; ``words`` start the agent."""
    postgres.execute_script(POSTGRES)
    mariadb.execute_script(MARIADB)
    (folder / "agent" / "edi").mkdir(parents=True)
    text = SITE.format(
        postgres=postgres.odbc(password="{secret:erp}"),
        mariadb=mariadb.odbc(password="{secret:shop}"),
        wsdl=finance.wsdl,
        endpoint=finance.url,
    )
    with broker(folder / "broker") as made:
        caller = made.tenant("acme")
        site = AgentSite(folder / "agent", text, words=words)
        site.secret("erp", postgres.password)
        site.secret("shop", mariadb.password)
        site.secret("finance", "finance-word")
        with caller, agent(site, made, caller):
            yield Whole(made, site, caller, finance, postgres, mariadb)


@pytest.fixture(scope="session")
def served(
    tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, mariadb: MariaDB, finance: FinanceService
) -> Iterator[Whole]:
    """A broker and an agent with every kind of connection; tests leave both running."""
    with whole(tmp_path_factory.mktemp("whole"), postgres, mariadb, finance) as made:
        yield made
