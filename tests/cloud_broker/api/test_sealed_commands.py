"""Sealed commands over HTTP: the broker takes what it can't read, and shows that it is so."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest

from cloud_broker.store.commands import Finish, RowSetInfo
from cloud_broker.tenants import Scope
from protocol import sealing
from protocol.states import CommandState
from tests.cloud_broker.api.broker import COMMAND_BYTES, Broker

TEXT = sealing.params_text(bytes(range(200)))
KEY = sealing.key_text(bytes(range(32)))
BODY = {"agent": "plant-1", "operation": "echo", "sealed": TEXT, "seal_to": KEY}


async def test_a_sealed_command_is_taken_as_it_is(acme: httpx2.AsyncClient, broker: Broker) -> None:
    answer = await acme.post("/v1/commands", json=BODY)

    assert answer.status_code == 202, answer.text
    (submission,) = broker.commands.submissions
    assert (submission.params, submission.sealed, submission.seal_to) == (TEXT.encode(), True, KEY)
    command = answer.json()
    assert (command["sealed"], command["seal_to"]) == (True, KEY)
    assert TEXT not in answer.text


async def test_only_the_answer_may_be_sealed(acme: httpx2.AsyncClient, broker: Broker) -> None:
    body = {"agent": "plant-1", "operation": "echo", "params": {"a": 1}, "seal_to": KEY}

    command = (await acme.post("/v1/commands", json=body)).json()

    assert (command["sealed"], command["seal_to"]) == (False, KEY)
    assert broker.commands.submissions[0].params == b'{"a":1}'


async def test_a_command_in_clear_says_so(acme: httpx2.AsyncClient) -> None:
    command = (await acme.post("/v1/commands", json={"agent": "plant-1", "operation": "echo"})).json()

    assert (command["sealed"], command["seal_to"]) == (False, None)


async def test_sealed_row_sets_show_how_many_rows_and_nothing_else(acme: httpx2.AsyncClient, broker: Broker) -> None:
    place = (await acme.post("/v1/commands", json=BODY)).headers["location"]
    info = RowSetInfo((), 0, 500, 3, sealed=True)
    finish = Finish(CommandState.SUCCEEDED, time.time(), outputs=b'{"sealed":"AAAA"}', row_sets=(info,))
    await broker.commands.finish(Scope("acme"), place.rpartition("/")[2], finish)

    command = (await acme.get(place)).json()

    assert command["row_sets"] == [{"columns": [], "rows": 3, "sealed": True}]
    assert command["outputs"] == {"sealed": "AAAA"}


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"params": {}}, 400, "exactly one of params and sealed, found both"),
        ({"params": None}, 400, "exactly one of params and sealed, found both"),
        ({"seal_to": None}, 400, "sealed: wants seal_to as well"),
        ({"agent": None, "group": "plants"}, 400, "group: what is sealed is sealed to one agent's key"),
        ({"agent": None, "group": "plants", "sealed": None}, 400, "group: what is sealed"),
        ({"sealed": "ohs1.x"}, 400, "sealed: wants ohs1. and sealed parameters"),
        ({"sealed": "{}"}, 400, "sealed: wants ohs1."),
        ({"sealed": ""}, 400, "sealed: wants ohs1."),
        ({"sealed": TEXT + "="}, 400, "sealed: wants ohs1."),
        ({"sealed": {"a": 1}}, 400, "sealed"),
        ({"seal_to": KEY[:-2]}, 400, "seal_to: wants x25519: and 32 bytes"),
        ({"seal_to": ""}, 400, "seal_to: wants x25519:"),
        ({"seal_to": "ed25519:" + KEY[7:]}, 400, "seal_to: wants x25519:"),
        ({"sealed": sealing.params_text(bytes(COMMAND_BYTES))}, 413, "sealed: "),
    ],
)
async def test_what_can_not_be_sealed_is_refused_by_name(
    acme: httpx2.AsyncClient, broker: Broker, changed: dict[str, Any], status: int, said: str
) -> None:
    answer = await acme.post("/v1/commands", json=BODY | changed)

    assert answer.status_code == status
    assert said in answer.json()["detail"]
    assert broker.commands.submissions == []
