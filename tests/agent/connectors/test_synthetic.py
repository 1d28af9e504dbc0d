"""The connector without an outside system."""

from __future__ import annotations

import msgspec
import pytest

from agent.connectors.base import Call, DriverSetup, Outputs, Ready
from agent.connectors.synthetic import SyntheticConnector
from agent.settings import Settings, SyntheticConnection, SyntheticOperation
from agent.settings_reader import read

SETTINGS = read(
    {
        "agent": "plant-1",
        "state_dir": ".",
        "connections": {"probe": {"type": "synthetic"}},
        "operations": {"echo": {"connection": "probe", "synthetic": "echo"}},
    },
    Settings,
)


async def test_an_echo_rounds_no_number() -> None:
    params = b'{"n":12345678901234567890123456789.12345678901234567890,"z":1.50,"none":null}'
    connector = SyntheticConnector(DriverSetup("probe", SETTINGS.connections["probe"], SETTINGS.operations))

    (outputs,) = [piece async for piece in connector.run(Call("cmd_1", "echo", params, 10.0))]

    assert isinstance(outputs, Outputs)
    assert msgspec.json.encode(outputs.values) == params
    assert outputs.values["none"] is None


def connector(effect: str) -> SyntheticConnector:
    operation = {"connection": "probe", "synthetic": "rows", "effect": effect, "params": {"count": {"type": "integer"}}}
    return SyntheticConnector(
        DriverSetup("probe", SyntheticConnection(type="synthetic"), {"rows": read(operation, SyntheticOperation)})
    )


@pytest.mark.parametrize(
    ("effect", "count", "waits"),
    [("read", 3, False), ("idempotent", 3, False), ("once", 3, True), ("at-most-once", 3, True), ("once", 0, False)],
)
async def test_rows_that_must_not_come_twice_are_kept_first(effect: str, count: int, waits: bool) -> None:
    call = Call("cmd_1", "rows", b'{"count":%d}' % count, 5.0)
    pieces = [piece async for piece in connector(effect).run(call)]
    assert any(isinstance(piece, Ready) for piece in pieces) is waits
    assert isinstance(pieces[-1], Outputs)


async def test_what_was_done_once_is_found() -> None:
    probe = connector("once")
    call = Call("cmd_1", "rows", b'{"count":3}', 5.0)
    assert await probe.find(call) is None
    async for piece in probe.run(call):
        if isinstance(piece, Ready):
            assert await probe.find(call) is None
    found = await probe.find(call)
    assert found is not None
    assert found.rows == 3
