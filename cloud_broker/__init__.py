"""The broker: the cloud's end of every link."""

from typing import Final, NoReturn

from protocol.start import start

RELEASE: Final = "0.2.0"


def main() -> NoReturn:
    """Run ``outhaul-broker``."""
    start("outhaul-broker", "cloud_broker.cli", "broker")
