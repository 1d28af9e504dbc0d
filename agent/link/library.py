"""
The websocket library, without what it would load for uses that are not ours.

Its own ways through proxies and its look at versions bring a SOCKS library, HTTP, mail and archives along: a quarter of
the time in which the agent starts, and memory for as long as it runs.
"""

from __future__ import annotations

from agent.ballast import left_behind

with left_behind("importlib.metadata", "python_socks", "urllib.request"):
    from websockets import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, State, Subprotocol
    from websockets.asyncio.client import ClientConnection, connect
    from websockets.http11 import Response

__all__ = [
    "ClientConnection",
    "ConnectionClosed",
    "InvalidHandshake",
    "InvalidMessage",
    "InvalidStatus",
    "Response",
    "State",
    "Subprotocol",
    "connect",
]
