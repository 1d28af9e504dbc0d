"""
The demo: `python -m config.dev.demo [--once]`.

Starts a small legacy ERP, a broker and an agent, shows each kind of operation, and proves each in the ERP itself.
With ``--once`` it then ends, with exit code 0 only if all was true; else it goes on until Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from config.dev import processes
from config.dev.databases import ServerError
from config.dev.demo.erp import Erp, legacy_erp
from config.dev.demo.pair import AGENT, Pair, head_office_key, pair
from config.dev.demo.programs import ProgramError
from config.dev.demo.steps import CUSTOMER, STEPS
from config.dev.demo.story import Story
from config.dev.finance import FinanceError

FOLDER: Final = Path(__file__).parents[3] / ".dev" / "demo"
LOOK_S: Final = 1.0  # seconds between two looks at whether all still runs


def main() -> int:
    """Run it and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m config.dev.demo", description=(__doc__ or "").strip())
    parser.add_argument("--once", action="store_true", help="end by itself, with 0 only if all was true")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where everything is written; wiped at the start")
    words = parser.parse_args()
    # All are the same wish: to stop everything in order.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    story = Story()
    started: set[int] = set()
    try:
        with ExitStack() as stack:
            running, erp = _start(words.folder.absolute(), story, stack, usual_ports=not words.once)
            # Left first: what runs now is what must be gone at the end.
            stack.callback(lambda: started.update(processes.descendants(os.getpid())))
            # A second Ctrl-C must not cut the stopping short.
            stack.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)
            _tell(running, erp, story)
            if not words.once:
                _stay(running)
    except KeyboardInterrupt:
        print("\nstopping", flush=True)
    except (ServerError, FinanceError, ProgramError, OSError) as exc:
        print(f"\nthe demo can't go on: {exc}", file=sys.stderr, flush=True)
        return 1
    left = processes.still_there(started)
    if left:
        print(f"these processes are still there: {sorted(left)}", file=sys.stderr)
        return 1
    print("everything is stopped", flush=True)
    return 0 if story.true and len(story.steps) == len(STEPS) else 1


def _start(folder: Path, story: Story, stack: ExitStack, *, usual_ports: bool) -> tuple[Pair, Erp]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print("Outhaul: a legacy ERP behind a closed firewall, and a caller in the cloud", flush=True)
    story.says("Behind the firewall: PostgreSQL with stored procedures, a SOAP service, an EDI folder.")
    erp = stack.enter_context(legacy_erp(folder))
    kept = {"erp-password": erp.password, "finance": erp.finance_password}
    story.says("At the head office: a key of its own, whose public half goes into the operator's file.")
    operator_file = erp.agent_file(head_office_key(folder))
    return stack.enter_context(pair(folder, operator_file, kept, story.says, usual_ports=usual_ports)), erp


def _tell(running: Pair, erp: Erp, story: Story) -> None:
    for title, step in STEPS:
        with story.step(title):
            step(running, erp, story)
    story.summary()
    if not story.true:
        for program in (running.agent, running.broker):
            print(f"\nthe end of {program.log}:\n{program.tail()}")


def _stay(running: Pair) -> None:
    print(f"\nIt all runs on. The HTTP API is at {running.url} (its description: {running.url}/openapi.json). Try:\n")
    print(f"  export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
    for name, value in running.environment().items():
        print(f"  export {name}={shlex.quote(value)}")
    print(f"  outhaul call {AGENT} open-invoices customer={CUSTOMER}")
    print(f"  outhaul call {AGENT} stock-levels sku=A-10% --format csv")
    print(f"  outhaul operations {AGENT} create-sales-order")
    print(f"\nLogs and files: {running.folder}. Ctrl-C stops everything.", flush=True)
    while True:
        for program in (running.broker, running.agent):
            if not program.running:
                raise ProgramError(f"{program.name} ended; the end of {program.log}:\n{program.tail()}")
        time.sleep(LOOK_S)


if __name__ == "__main__":
    sys.exit(main())
