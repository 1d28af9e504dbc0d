"""
`outhaul-broker`, with every websocket message that it hears or says in a file besides, as it is inside of TLS.

    python recording.py FILE serve --config broker.toml
"""

from __future__ import annotations

import sys

from cloud_broker import main
from cloud_broker.link.wire import Wire


def record(path: str) -> None:
    """Let all connections from here on be recorded."""
    hear, say = Wire.receive, Wire.send

    def keep(message: bytes) -> None:
        with open(path, "ab") as file:
            file.write(message)

    async def receive(self: Wire) -> bytes:
        message = await hear(self)
        keep(message)
        return message

    async def send(self: Wire, data: bytes) -> None:
        keep(data)
        await say(self, data)

    Wire.receive = receive  # type: ignore[method-assign]  # that is what a recording is
    Wire.send = send  # type: ignore[method-assign]  # the same


if __name__ == "__main__":
    record(sys.argv.pop(1))
    main()
