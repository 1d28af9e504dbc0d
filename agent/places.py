"""
Which system a connection leads to, as a word that says so to nobody else.

An agent leaves this word in a ledger that it works with (``connectors/odbc/ledger.py``), and tells it to the broker.
Another agent of the group that finds it in its own ledger knows that both work with the same one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

import msgspec

from agent.settings import TAG, Connection, OdbcConnection


def places(connections: Mapping[str, Connection], mark: str, key: bytes) -> dict[str, str]:
    """
    Return the word of each connection with a ledger, by name; another one as soon as it leads elsewhere.

    Args:
        connections: with the values of their secrets.
        mark: of the agent's journal.
        key: secret, and the agent's own: nobody can try what a connection's settings may be.
    """
    return {
        name: hmac.new(key, f"{mark}\n{name}\n".encode() + _text(connection), hashlib.sha256).hexdigest()
        for name, connection in connections.items()
        if isinstance(connection, OdbcConnection) and connection.ledger is not None
    }


def _text(connection: Connection) -> bytes:
    kept = msgspec.to_builtins(connection)
    del kept[TAG]  # the word stays what it was before there was one
    return msgspec.json.encode(kept)
