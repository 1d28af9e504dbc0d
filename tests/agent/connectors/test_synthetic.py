"""The connector without an outside system."""

from __future__ import annotations

import msgspec

from agent.connectors.base import Call, DriverSetup, Outputs
from agent.connectors.synthetic import SyntheticConnector
from agent.settings import Settings

SETTINGS = Settings.model_validate(
    {
        "agent": "plant-1",
        "state_dir": ".",
        "connections": {"probe": {"type": "synthetic"}},
        "operations": {"echo": {"connection": "probe", "synthetic": "echo"}},
    }
)


async def test_an_echo_rounds_no_number() -> None:
    params = b'{"n":12345678901234567890123456789.12345678901234567890,"z":1.50,"none":null}'
    connector = SyntheticConnector(DriverSetup("probe", SETTINGS.connections["probe"], SETTINGS.operations))

    (outputs,) = [piece async for piece in connector.run(Call("cmd_1", "echo", params, 10.0))]

    assert isinstance(outputs, Outputs)
    assert msgspec.json.encode(outputs.values) == params
    assert outputs.values["none"] is None
