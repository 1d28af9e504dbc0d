"""The agent: the ERP's end of the link."""

from typing import Final, NoReturn

from protocol.start import start

RELEASE: Final = "0.1.0"


def main() -> NoReturn:
    """Run ``outhaul-agent``."""
    start("outhaul-agent", "agent.cli", "agent")
