"""
`outhaul-broker`, with every websocket message that it hears or says in a file besides, as it is inside of TLS.

    python recording.py FILE serve --config broker.toml
"""

from __future__ import annotations

import sys
from typing import Any

from websockets.asyncio.server import ServerConnection

from cloud_broker import main


def record(path: str) -> None:
    """Let all connections from here on be recorded."""
    hear, say = ServerConnection.recv, ServerConnection.send

    def keep(message: Any) -> None:
        with open(path, "ab") as file:
            file.write(message.encode() if isinstance(message, str) else bytes(message))

    async def recv(self: ServerConnection, *words: Any, **more: Any) -> Any:
        message = await hear(self, *words, **more)
        keep(message)
        return message

    async def send(self: ServerConnection, message: Any, *words: Any, **more: Any) -> None:
        keep(message)
        await say(self, message, *words, **more)

    ServerConnection.recv = recv  # type: ignore[assignment,method-assign]  # that is what a recording is
    ServerConnection.send = send  # type: ignore[assignment,method-assign]  # the same


if __name__ == "__main__":
    record(sys.argv.pop(1))
    main()
