"""The caller's side: a client of the HTTP API, and ``outhaul``."""

from typing import NoReturn

from protocol.start import start


def main() -> NoReturn:
    """Run ``outhaul``."""
    start("outhaul", "cloud_broker.client.cli", "client")
