"""One time through many rows: by the HTTP API, and by a bare loop over the same driver."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import pyodbc

from config.dev.demo.pair import AGENT, Pair

# A row as an ERP has them: a key, a text, money, a time, a flag, a day, a code, a weight; about 150 bytes of JSON.
SQL: Final = (
    "SELECT n AS id, 'order line ' || n AS text, ((n % 100000) * 1.25)::numeric(12,2) AS amount, "
    "timestamp '2026-01-01' + n * interval '1 second' AS at, n % 2 = 0 AS paid, date '2026-01-01' + n % 1000 AS day, "
    "'C' || n % 1000 AS customer, n * 0.37::float8 AS weight FROM (SELECT generate_series(1, {count}) AS n) AS s"
)
FETCH: Final = 500  # rows a fetch, as the agent does
SETTINGS: Final = (  # as the agent sets them
    f"UseDeclareFetch=1;Fetch={FETCH};BoolsAsChar=0;TextAsLongVarchar=1;UnknownsAsLongVarchar=0;LFConversion=0;"
    "Protocol=7.4-0"
)
PIECE: Final = 1_048_576  # bytes asked of the answer at once
WAIT_S: Final = 600.0


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


def through_outhaul(
    pair: Pair, operation: str, count: int, agent: str = AGENT, pause: Callable[[], None] = lambda: None
) -> Passage:
    """
    Submit a command and read its rows as NDJSON while it runs.

    Args:
        pause: is called after each piece, by who reads slowly.
    """
    started = time.perf_counter()
    first_s, rows = 0.0, 0
    with reading(pair, operation, count, agent) as answer:
        while piece := answer.read1(PIECE):
            first_s = first_s or time.perf_counter() - started
            rows += piece.count(b"\n")
            pause()
    return checked(Passage(rows, first_s, time.perf_counter() - started), count)


@contextmanager
def reading(
    pair: Pair, operation: str, count: int, agent: str = AGENT, rows_as: str = "ndjson"
) -> Iterator[http.client.HTTPResponse]:
    """Submit a command and yield its rows as they come."""
    place = urlsplit(pair.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=WAIT_S)
    headers = {"Authorization": f"Bearer {pair.key}", "Content-Type": "application/json"}
    try:
        wanted = {"agent": agent, "operation": operation, "params": {"count": count}, "rows_as": rows_as}
        body = json.dumps(wanted)
        connection.request("POST", "/v1/commands", body, headers)
        command = json.loads(connection.getresponse().read())
        connection.request("GET", f"/v1/commands/{command['id']}/rows?format={rows_as}", headers=headers)
        yield connection.getresponse()
    finally:
        connection.close()


def bare(connection_string: str, count: int, settings: str) -> Passage:
    """Read the same rows with pyodbc alone, in the same number at once, and throw them away."""
    connection = pyodbc.connect(f"{connection_string};{settings}", autocommit=False)
    try:
        started = time.perf_counter()
        cursor = connection.execute(SQL.format(count="?"), count)
        first_s, rows = 0.0, 0
        while batch := cursor.fetchmany(FETCH):
            first_s = first_s or time.perf_counter() - started
            rows += len(batch)
        return checked(Passage(rows, first_s, time.perf_counter() - started), count)
    finally:
        connection.close()


def checked(passage: Passage, count: int) -> Passage:
    """A figure of half the rows would be a lie."""
    if passage.rows != count:
        raise RuntimeError(f"{count} rows were asked for, {passage.rows} came")
    return passage
