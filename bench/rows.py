"""
Rows from the database to a caller of the HTTP API, beside a bare loop over the same driver.

What becomes of them over a long line, in a crowd and in memory stands in `afar` and `crowd`.
"""

from __future__ import annotations

import pyodbc

from bench import afar, crowd
from bench.figures import Figure, Goal, Lab, alternated
from bench.passages import SETTINGS, bare, through_outhaul

FIRST_MS = 100  # that a caller waits for the first row
SHARE = 0.9  # of the rate of a loop that throws the rows away


def measure(lab: Lab) -> list[Figure]:
    """Return how fast rows come, how soon the first, over what distance, beside whom, and in how much memory."""
    rounds, count = (1, 2_000) if lab.short else (3, 1_000_000)
    ours, peer = alternated(
        rounds,
        lambda: through_outhaul(lab.running, "lines", count),
        lambda: bare(lab.database.odbc(), count, SETTINGS),
    )
    beside = f"pyodbc {pyodbc.version}"
    return [
        Figure(
            f"{count:,} rows of 8 columns, PostgreSQL to the caller",
            "rows/s",
            [count / one.all_s for one in ours],
            [count / one.all_s for one in peer],
            beside,
            Goal("at least", SHARE),
        ),
        Figure("first of them", "ms", [1000 * one.first_s for one in ours], goal=Goal("at most", FIRST_MS)),
        *crowd.measure(lab),
        *afar.measure(lab),
    ]
