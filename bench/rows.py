"""Rows from the database to a caller of the HTTP API, beside a bare loop over the same driver."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pyodbc

from bench.figures import Figure, Goal, Lab, alternated
from config.dev.demo.pair import AGENT, Pair

# A row as an ERP has them: a key, a text, money, a time, a flag; about 150 bytes of JSON.
SQL = (
    "SELECT n AS id, 'order line ' || n AS text, (n % 100000) * 1.25 AS amount, "
    "timestamp '2026-01-01' + n * interval '1 second' AS at, n % 2 = 0 AS paid, 'C' || n % 1000 AS customer "
    "FROM generate_series(1, {count}) AS n"
)
FETCH = 500  # rows a fetch, as the agent does
SETTINGS = f"UseDeclareFetch=1;Fetch={FETCH};BoolsAsChar=0;TextAsLongVarchar=1"  # as the agent sets them
PIECE = 1_048_576  # bytes asked of the answer at once
WAIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Passage:
    """
    One time through all rows.

    Attributes:
        first_s: seconds from the question to the first row.
        all_s: seconds to the last one.
    """

    rows: int
    first_s: float
    all_s: float


def measure(lab: Lab) -> list[Figure]:
    """Return how fast rows come, and when the first one does."""
    rounds, count = (1, 2_000) if lab.short else (5, 200_000)
    ours, alone = alternated(
        rounds, lambda: through_outhaul(lab.running, "lines", count), lambda: bare(lab.database.odbc(), count)
    )
    beside = f"pyodbc {pyodbc.version}"
    return [
        Figure(
            "rows, PostgreSQL to HTTP",
            "rows/s",
            [count / one.all_s for one in ours],
            [count / one.all_s for one in alone],
            beside,
            Goal("at least", 0.9),
        ),
        Figure("first row at the caller", "ms", [1000 * one.first_s for one in ours], goal=Goal("at most", 100)),
    ]


def through_outhaul(pair: Pair, operation: str, count: int) -> Passage:
    """Submit a command and read its rows as NDJSON while it runs."""
    place = urlsplit(pair.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=WAIT_S)
    headers = {"Authorization": f"Bearer {pair.key}", "Content-Type": "application/json"}
    started = time.perf_counter()
    body = json.dumps({"agent": AGENT, "operation": operation, "params": {"count": count}})
    connection.request("POST", "/v1/commands", body, headers)
    command = json.loads(connection.getresponse().read())
    connection.request(
        "GET", f"/v1/commands/{command['id']}/rows", headers={**headers, "Accept": "application/x-ndjson"}
    )
    answer = connection.getresponse()
    first_s, rows = 0.0, 0
    while piece := answer.read1(PIECE):
        first_s = first_s or time.perf_counter() - started
        rows += piece.count(b"\n")
    passage = Passage(rows, first_s, time.perf_counter() - started)
    connection.close()
    return checked(passage, count)


def bare(connection_string: str, count: int) -> Passage:
    """Read the same rows with pyodbc alone, in the same number at once."""
    connection = pyodbc.connect(f"{connection_string};{SETTINGS}", autocommit=False)
    try:
        started = time.perf_counter()
        cursor = connection.execute(SQL.format(count="?"), count)
        first_s, rows = 0.0, 0
        for batch in _batches(cursor):
            first_s = first_s or time.perf_counter() - started
            rows += len(batch)
        return checked(Passage(rows, first_s, time.perf_counter() - started), count)
    finally:
        connection.close()


def _batches(cursor: pyodbc.Cursor) -> Iterator[list[pyodbc.Row]]:
    while batch := cursor.fetchmany(FETCH):
        yield batch


def checked(passage: Passage, count: int) -> Passage:
    """A figure of half the rows would be a lie."""
    if passage.rows != count:
        raise RuntimeError(f"{count} rows were asked for, {passage.rows} came")
    return passage
