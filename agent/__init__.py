"""The agent: the ERP's end of the link."""

import sys
from typing import Final, NoReturn

from agent import discretion
from protocol.start import start

RELEASE: Final = "0.2.0"
_PARTS: Final = {  # what the agent has other processes of this program do, which are small: nothing else is loaded
    "worker": "agent.connectors.worker",
    "unlock": "agent.secrets.unlocking",
}


def main() -> NoReturn:
    """Run ``outhaul-agent``."""
    discretion.begin()
    start("outhaul-agent", _PARTS.get("".join(sys.argv[1:2]), "agent.cli"), "agent")
