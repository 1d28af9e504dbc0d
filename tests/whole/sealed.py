"""A caller that seals, and looks into what comes back with its own key."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from cloud_broker.client.sealing import End, SealedCall
from cloud_broker.store.commands import Command
from protocol.sealing import HEAD, LAST, LENGTH
from tests.whole.ring import Ring, Site


def sealed_call(site: Site, operation: str, params: dict[str, Any] | bytes) -> SealedCall:
    """Return a call that only ``site`` can read."""
    data = params if isinstance(params, bytes) else json.dumps(params).encode()
    return SealedCall.of("acme", site.name, operation, data, site.public)


async def submit(broker: Ring, call: SealedCall, **asked: Any) -> Command:
    """Submit a sealed call as the API does."""
    sealed = {"params": call.text.encode(), "sealed": True, "seal_to": call.seal_to}
    return await broker.submit(call.operation, agent=call.agent, **{**sealed, **asked})


def end_of(call: SealedCall, command: Command) -> End:
    """Return the end of a command; there must be one that the agent sealed."""
    end = call.end(command.id, command.outputs or b"")
    assert end is not None, command
    return end


def opened(call: SealedCall, command_id: str, pieces: Iterable[bytes], number: int = 0) -> tuple[list[Any], bytes]:
    """Return columns and rows of a row set; raises ``SealBroken`` unless it is all of it."""
    opener = call.opener(command_id, number)
    found = [frame for piece in pieces for frame in opener.feed(piece)]
    opener.close()
    columns, *rows = found
    return json.loads(columns), b"".join(rows)


def frames(data: bytes) -> list[bytes]:
    """Take a row set apart: its head, and each frame with its length."""
    found, at = [data[: HEAD.size]], HEAD.size
    while at < len(data):
        size = LENGTH.size + (LENGTH.unpack_from(data, at)[0] & ~LAST)
        found.append(data[at : at + size])
        at += size
    return found
