"""
The benchmarks: `python -m bench [--short] [--output FILE]`.

Each figure is measured with Outhaul and bare in turns, in one run on one machine: only the ratios travel.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from bench import commands, fairness, footprint, rows, sealing
from bench.figures import Figure, machine, table
from config.dev.databases import HOST, Postgres, postgres
from config.dev.demo.pair import AGENT, Pair, pair

T = TypeVar("T")

OPERATOR_FILE = """
agent = "{agent}"
state_dir = "state"
link.proxy = "none"

[connections.erp]
type = "odbc"
connection_string = "Driver={{PostgreSQL Unicode}};Server={host};Port={port};Database=erp;Uid={user};Pwd={{secret:erp}}"

[operations.lines]
connection = "erp"
sql = "{sql}"
effect = "read"
timeout = "10min"
params.count = {{ type = "integer", min = 0 }}

[connections.probe]
type = "synthetic"

[operations.echo]
connection = "probe"
synthetic = "echo"
params.text = {{ type = "string" }}
"""


def main() -> None:
    """Measure, print a table, write the JSON document."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").strip())
    parser.add_argument("--short", action="store_true", help="some seconds only: shows that it works, judges nothing")
    parser.add_argument("--output", type=Path, help="where the figures are written as JSON")
    words = parser.parse_args()
    rounds, many_rows, many_commands = (1, 2_000, 100) if words.short else (5, 200_000, 5_000)
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="outhaul-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        database = stack.enter_context(postgres())
        file = OPERATOR_FILE.format(
            agent=AGENT, host=HOST, port=database.port, user=database.user, sql=rows.SQL.format(count=":count")
        )
        running = stack.enter_context(pair(folder, file, {"erp": database.password}, print))
        figures = measure(running, database, folder, rounds, many_rows, many_commands)
        footprints = small(running, folder, short=words.short)
    print(f"\n{table(figures)}\n\n{footprint.table(footprints)}")
    if words.output is not None:
        words.output.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "machine": machine(),
            "short": words.short,
            "figures": [figure.document() for figure in figures],
            "footprints": footprint.document(footprints),
        }
        words.output.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


def measure(
    running: Pair, database: Postgres, folder: Path, rounds: int, many_rows: int, many_commands: int
) -> list[Figure]:
    """Return all figures."""
    print(f"rows: {rounds} times {many_rows:,}")
    ours, bare = alternated(
        rounds,
        lambda: rows.through_outhaul(running, "lines", many_rows),
        lambda: rows.bare(database.odbc(), many_rows),
    )
    print(f"sealed rows: {rounds} times {many_rows:,}")
    sealed, clear = alternated(
        rounds,
        lambda: sealing.sealed(running, "lines", many_rows),
        lambda: sealing.clear(running, "lines", many_rows),
    )
    print(f"commands: {rounds} times {many_commands:,}, {commands.CALLERS} callers")
    ours_commands, bare_commands = alternated(
        rounds, lambda: commands.through_outhaul(running, many_commands), lambda: commands.bare(folder, many_commands)
    )
    count = max(100, many_commands // 10)
    print(f"fairness: {rounds} times {count:,} submissions beside a flood of another tenant")
    with fairness.quiet(running) as key:
        flooded, calm = alternated(
            rounds,
            lambda: fairness.beside_a_flood(running, key, count),
            lambda: fairness.alone(running, key, count),
        )
    return [
        Figure(
            "rows, PostgreSQL to HTTP, beside pyodbc",
            "rows/s",
            [many_rows / one.all_s for one in ours],
            [many_rows / one.all_s for one in bare],
        ),
        Figure(
            "first row, PostgreSQL to HTTP, beside pyodbc",
            "ms",
            [1000 * one.first_s for one in ours],
            [1000 * one.first_s for one in bare],
        ),
        Figure(
            "rows sealed and opened, beside the same in clear",
            "rows/s",
            [many_rows / one.all_s for one in sealed],
            [many_rows / one.all_s for one in clear],
        ),
        Figure("commands with their results, beside SQLite commits", "commands/s", ours_commands, bare_commands),
        Figure(
            "a submission during another tenant's flood, beside none: p50",
            "ms",
            [one.p50_ms for one in flooded],
            [one.p50_ms for one in calm],
        ),
        Figure(
            "the same: p99",
            "ms",
            [one.p99_ms for one in flooded],
            [one.p99_ms for one in calm],
        ),
    ]


def small(running: Pair, folder: Path, *, short: bool) -> list[footprint.Footprint]:
    """Return what an idle agent takes; beside its peer, which takes minutes to install, where there is time."""
    print("footprint: the frozen agent" if short else f"footprint: the frozen agent, and {footprint.PEER}")
    found = [footprint.ours(running, folder, 1 if short else 5, 1.0 if short else 10.0)]
    if not short:
        found.append(footprint.peer(folder, 3, 10.0))
    return found


def alternated(rounds: int, ours: Callable[[], T], bare: Callable[[], T]) -> tuple[list[T], list[T]]:
    """Run both in turns, so that what the machine does besides meets both alike; the first of each is not counted."""
    ours(), bare()
    found: tuple[list[T], list[T]] = ([], [])
    for _ in range(rounds):
        found[0].append(ours())
        found[1].append(bare())
    return found


if __name__ == "__main__":
    main()
