"""
The benchmarks: `python -m bench [--short] [--only SUBJECT]... [--output FILE] [--page FILE]`.

Each figure is measured in turns with what it is held against, in one run on one machine: only the ratios travel.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench import arrow, bulk, commands, fairness, files, footprint, links, passages, rows, sealing, soap, store
from bench.figures import Figure, Lab, machine, table
from bench.page import page
from bench.peers import PEERS
from config.dev.databases import HOST, postgres
from config.dev.demo.pair import AGENT, pair

SUBJECTS: Final[dict[str, Callable[[Lab], list[Figure]]]] = {
    "rows": rows.measure,
    "arrow": arrow.measure,
    "sealing": sealing.measure,
    "soap": soap.measure,
    "files": files.measure,
    "commands": commands.measure,
    "bulk": bulk.measure,
    "fairness": fairness.measure,
    "links": links.measure,
    "footprint": footprint.measure,
    # Last: what it leaves to be written to the disk would slow the others' synced writes.
    "store": store.measure,
}

OPERATOR_FILE = """
agent = "{agent}"
state_dir = "state"
link.proxy = "none"

[connections.erp]
type = "odbc"
max_concurrent = 12
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
    """Measure, print a table, write the JSON document and the page."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").strip())
    parser.add_argument("--short", action="store_true", help="some seconds only: shows that it works, judges nothing")
    parser.add_argument("--only", action="append", choices=SUBJECTS, help="one subject; may be repeated")
    parser.add_argument("--output", type=Path, help="where the figures are written as JSON")
    parser.add_argument("--page", type=Path, help="where they are written as a page of the documentation")
    words = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="outhaul-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        database = stack.enter_context(postgres())
        file = OPERATOR_FILE.format(
            agent=AGENT, host=HOST, port=database.port, user=database.user, sql=passages.SQL.format(count=":count")
        )
        running = stack.enter_context(pair(folder, file, {"erp": database.password}, print))
        lab = Lab(running, database, folder, words.short, PEERS)
        figures: list[Figure] = []
        for subject in words.only or SUBJECTS:
            began = time.monotonic()
            print(f"measuring: {subject}", flush=True)
            figures += SUBJECTS[subject](lab)
            print(f"           took {time.monotonic() - began:.0f} s", flush=True)
            write(figures, words.output, words.page, short=words.short)
    print(f"\n{table(figures)}")


def write(figures: Sequence[Figure], output: Path | None, place: Path | None, *, short: bool) -> None:
    """Write what is known so far: a run that is ended early is not lost."""
    document = {"machine": machine(), "short": short, "figures": [figure.document() for figure in figures]}
    for file, text in ((output, json.dumps(document, indent=2) + "\n"), (place, page(figures, short=short))):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
