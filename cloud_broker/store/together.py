"""
Changes that many callers ask for at once, made together: one statement for many commands.

Python's sqlite3 lets go of the interpreter for every step of a statement, and a busy event loop keeps it from then on
for half a millisecond. So the number of statements is what a transaction costs, and not their size.
"""

from __future__ import annotations

import functools
import itertools
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloud_broker.store.batches import Task
from cloud_broker.store.queries import QUERIES

MAX_ROWS: Final = 64  # of one statement: 41 columns of so many stay far below SQLite's 32,766 parameters

ROWS: Final = 16  # up to this many there is a text for each number of rows, above it for each multiple

_EACH: Final = re.compile(r"\[([^\]]*)\]")


@dataclass(frozen=True, slots=True)
class Kind:
    """
    A change that can be made of many commands at once.

    Attributes:
        rank: of two kinds in one transaction, the lower one is made first.
        make: makes all of them; returns one value for each, in order.
        patient: whether one can wait a moment for others.
    """

    rank: int
    make: Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any]]
    patient: bool = False


def steps(batch: Sequence[Task]) -> Iterator[list[Task]]:
    """
    Yield the tasks of a batch in the order in which they are made, those together that can be.

    What is about one command keeps its order; so does everything beside a task that is of no kind.
    """
    waiting: dict[Kind, list[Task]] = {}
    reached: dict[str, int] = {}  # the highest rank that waits, by what it is about
    for task in batch:
        kind = task.kind
        if kind is None or reached.get(task.about, -1) >= kind.rank:
            yield from _by_rank(waiting)
            waiting, reached = {}, {}
        if kind is None:
            yield [task]
        else:
            waiting.setdefault(kind, []).append(task)
            reached[task.about] = kind.rank
    yield from _by_rank(waiting)


def _by_rank(waiting: dict[Kind, list[Task]]) -> list[list[Task]]:
    return [waiting[kind] for kind in sorted(waiting, key=lambda kind: kind.rank)]


def run(connection: sqlite3.Connection, name: str, rows: Sequence[Sequence[Any]]) -> list[sqlite3.Cursor]:
    """Run a named query, whose part in square brackets stands for one row, over all rows: in pieces if many."""
    cursors, done = [], 0
    while done < len(rows):
        # Only so many numbers of rows that each text is prepared once.
        left = len(rows) - done
        count = left if left <= ROWS else min(MAX_ROWS, left - left % ROWS)
        values = list(itertools.chain.from_iterable(rows[done : done + count]))
        cursors.append(connection.execute(_repeated(name, count), values))
        done += count
    return cursors


@functools.lru_cache(maxsize=512)
def _repeated(name: str, count: int) -> str:
    return _EACH.sub(lambda found: ", ".join([found[1]] * count), QUERIES[name])
