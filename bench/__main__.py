"""
The benchmarks: `python -m bench [--short] [--only SUBJECT]... [--output FILE] [--page FILE]`.

Each figure is measured in turns with what it is held against, in one run on one machine: only the ratios travel.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench import arrow, bulk, commands, fairness, files, footprint, links, passages, rows, sealing, soap, store
from bench.figures import Figure, Lab, table
from bench.page import page
from bench.record import Measured, keep, kept
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
    parser.add_argument("--output", type=Path, help="where figures are kept as JSON; those of other subjects stay")
    parser.add_argument("--page", type=Path, help="where all of them are written as a page of the documentation")
    words = parser.parse_args()
    found = kept(words.output, short=words.short) if words.output is not None else {}
    failed = []
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="outhaul-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        database = stack.enter_context(postgres())
        file = OPERATOR_FILE.format(
            agent=AGENT, host=HOST, port=database.port, user=database.user, sql=passages.SQL.format(count=":count")
        )
        running = stack.enter_context(pair(folder, file, {"erp": database.password}, print))
        for subject in words.only or SUBJECTS:
            print(f"measuring: {subject}", flush=True)
            try:
                found[subject] = measured(SUBJECTS[subject], Lab(running, database, folder, words.short))
            except Exception:  # the others are measured all the same
                traceback.print_exc()
                failed.append(subject)
                continue
            print(f"           took {found[subject].took_s:.0f} s", flush=True)
            found = {name: found[name] for name in SUBJECTS if name in found}
            # At once: a run that is ended early is not lost.
            if words.output is not None:
                keep(words.output, found, short=words.short)
            if words.page is not None:
                words.page.parent.mkdir(parents=True, exist_ok=True)
                words.page.write_text(page(found, short=words.short), "utf-8")
    now = [found[name] for name in words.only or SUBJECTS if name in found and name not in failed]
    print(f"\n{table([figure for one in now for figure in one.figures])}")
    print("\n".join(line for one in now for line in one.missing))
    if failed:
        sys.exit(f"not measured, for what stands above: {', '.join(failed)}")


def measured(subject: Callable[[Lab], list[Figure]], lab: Lab) -> Measured:
    """Measure one subject."""
    began = time.monotonic()
    figures = subject(lab)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Measured(today, time.monotonic() - began, lab.missing, figures)


if __name__ == "__main__":
    main()
