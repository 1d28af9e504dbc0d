"""The agent: the ERP's end of the link."""

import contextlib
import gc
import sys
from typing import Final, NoReturn

from agent import ballast, discretion
from protocol.start import start

RELEASE: Final = "0.2.0"
# Between two looks for garbage; Python's own number, 700, has it looking through all that is loaded while it is loaded.
_NEW_OBJECTS: Final = 10_000
_PARTS: Final = {  # what starts without the library that reads commands, as it must be there soon or stay small
    "run": "agent.running",
    "worker": "agent.connectors.worker",
    "unlock": "agent.secrets.opening",
}


def main() -> NoReturn:
    """Run ``outhaul-agent``."""
    discretion.begin()
    gc.set_threshold(_NEW_OBJECTS)
    # Python's own `typing` has all that it wants. That it is missing is told below.
    with contextlib.suppress(ImportError), ballast.left_behind("typing_extensions"):
        import msgspec  # noqa: F401 - so that no module of ours is the first that loads it
    start("outhaul-agent", _PARTS.get("".join(sys.argv[1:2]), "agent.cli"), "agent")
