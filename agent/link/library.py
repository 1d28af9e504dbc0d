"""
The websocket library, without what it would load for uses that are not ours.

Its own ways through proxies and its look at versions bring a SOCKS library, HTTP, mail and archives along: a quarter of
the time in which the agent starts, and memory for as long as it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final

_UNUSED: Final = ("importlib.metadata", "python_socks", "urllib.request")


@contextmanager
def _empty(names: Iterable[str]) -> Iterator[None]:
    """Have modules that are not loaded yet be empty; who wants them afterwards gets them."""
    made = {name: ModuleType(name) for name in names if name not in sys.modules}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


with _empty(_UNUSED):
    from websockets import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, Subprotocol
    from websockets.asyncio.client import ClientConnection, connect
    from websockets.http11 import Response

__all__ = [
    "ClientConnection",
    "ConnectionClosed",
    "InvalidHandshake",
    "InvalidMessage",
    "InvalidStatus",
    "Response",
    "Subprotocol",
    "connect",
]
