"""Rows as Arrow from the database to a caller of the HTTP API, beside arrow-odbc and pyodbc alone."""

from __future__ import annotations

import time
from importlib.metadata import version

import arrow_odbc
import pyarrow as pa
import pyodbc

from bench.figures import Figure, Goal, Lab, alternated
from bench.passages import SETTINGS, SQL, Passage, bare, checked, reading

SHARE = 0.9  # of the rate of arrow-odbc alone, which throws its batches away
TIMES = 2.0  # the rate of a bare pyodbc loop
BATCH_ROWS = 5_000  # as the agent asks for them
TEXT_BYTES = 4_096  # of a text; more than those of the query, and much less than the agent has room for
SUBJECT = "rows as Arrow, PostgreSQL to the caller"


def measure(lab: Lab) -> list[Figure]:
    """Return how fast Arrow streams come, and when the first batch does."""
    rounds, count = (1, 2_000) if lab.short else (3, 1_000_000)
    ours, alone = alternated(
        rounds, lambda: through_outhaul(lab, count), lambda: bare_arrow(lab.database.odbc(), count)
    )
    again, loop = alternated(
        rounds, lambda: through_outhaul(lab, count), lambda: bare(lab.database.odbc(), count, SETTINGS)
    )
    return [
        Figure(
            SUBJECT,
            "rows/s",
            [count / one.all_s for one in ours],
            [count / one.all_s for one in alone],
            f"arrow-odbc {version('arrow-odbc')}",
            Goal("at least", SHARE),
        ),
        Figure(
            f"{SUBJECT}, beside values one by one",
            "rows/s",
            [count / one.all_s for one in again],
            [count / one.all_s for one in loop],
            f"pyodbc {pyodbc.version}",
            Goal("at least", TIMES),
        ),
        Figure("first batch of Arrow at the caller", "ms", [1000 * one.first_s for one in ours]),
    ]


def through_outhaul(lab: Lab, count: int) -> Passage:
    """Submit a command and read its rows as an Arrow stream while it runs."""
    started = time.perf_counter()
    with reading(lab.running, "lines", count, rows_as="arrow") as answer:
        first_s, rows = 0.0, 0
        for batch in pa.ipc.open_stream(answer):
            first_s = first_s or time.perf_counter() - started
            rows += batch.num_rows
        return checked(Passage(rows, first_s, time.perf_counter() - started), count)


def bare_arrow(connection_string: str, count: int) -> Passage:
    """Read the same rows with arrow-odbc alone, by the driver's settings that the agent has."""
    connection = arrow_odbc.connect(f"{connection_string};{SETTINGS}", autocommit=False)
    started = time.perf_counter()
    first_s, rows = 0.0, 0
    sql = SQL.format(count="?")
    for batch in connection.read_arrow_batches(
        sql, batch_size=BATCH_ROWS, parameters=[str(count)], max_text_size=TEXT_BYTES
    ):
        first_s = first_s or time.perf_counter() - started
        rows += batch.num_rows
    return checked(Passage(rows, first_s, time.perf_counter() - started), count)
