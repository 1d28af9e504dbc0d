"""The agent: the ERP's end of the link."""

from typing import Final, NoReturn

from agent import discretion
from protocol.start import start

RELEASE: Final = "0.2.0"


def main() -> NoReturn:
    """Run ``outhaul-agent``."""
    discretion.begin()
    start("outhaul-agent", "agent.cli", "agent")
