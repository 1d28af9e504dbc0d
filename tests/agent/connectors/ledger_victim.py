"""
A process that runs ``once`` and sends itself a signal at a named point: ``python -m … POINT SIGNAL``.

The driver's setup and the call come over standard input, pickled; nothing in the driver knows of it.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from agent.connectors.odbc.driver import OdbcDriver
from agent.connectors.odbc.ledger import Ledger
from agent.connectors.odbc.once import Once

# Where the signal is sent: before or after a method.
POINTS: Final[dict[str, tuple[type, str, str]]] = {
    "before the INSERT": (Ledger, "begin", "before"),
    "after the INSERT": (Ledger, "begin", "after"),
    "after the work": (Once, "end", "before"),
    "after the UPDATE": (Once, "end", "after"),
    "after the COMMIT": (OdbcDriver, "_commit", "after"),
}
TOLD: Final = 3  # exit code: the run ended, with an error that it printed


def _patched(method: Callable[..., Any], when: str, number: int) -> Callable[..., Any]:
    def patched(*args: Any) -> Any:
        if when == "before":
            os.kill(os.getpid(), number)
        found = method(*args)
        if when == "after":
            os.kill(os.getpid(), number)
        return found

    return patched


def main(point: str, name: str) -> None:
    setup, call = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own test writes it
    owner, method, when = POINTS[point]
    setattr(owner, method, _patched(getattr(owner, method), when, signal.Signals[name]))
    driver = OdbcDriver(setup)
    driver.open()
    try:
        for _ in driver.run(call):
            pass
    except Exception as exc:
        sys.stdout.write(type(exc).__name__)
        sys.exit(TOLD)


if __name__ == "__main__":
    main(*sys.argv[1:])
