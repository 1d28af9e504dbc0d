"""What a store is given in tests."""

from __future__ import annotations

import itertools
import os
from typing import Any

import msgspec

from cloud_broker.store.agents import Agent
from cloud_broker.store.base import Store
from cloud_broker.store.commands import Command, Finish
from cloud_broker.store.tenants import Token
from cloud_broker.tenants import Scope
from protocol.ids import new_id
from protocol.states import CommandState

ACME = Scope("acme")
OTHER = Scope("other")
START = 1_700_000_000.0

_milliseconds = itertools.count(int(START * 1000))


def command(scope: Scope = ACME, **changes: Any) -> Command:
    """Return a new command, later than the one before."""
    moment = next(_milliseconds)
    made = Command(
        id=new_id("cmd", moment, os.urandom),
        tenant=scope.tenant,
        agent="plant-1",
        group=None,
        operation="echo",
        connection="probe",
        effect="read",
        params=b'{"a": 1.10}',
        fingerprint="f1",
        created_at=moment / 1000,
        expires_at=moment / 1000 + 60,
    )
    return msgspec.structs.replace(made, **changes)


def finish(state: CommandState = CommandState.SUCCEEDED, at: float = START + 1, **rest: Any) -> Finish:
    """Return an end."""
    return Finish(state, at, **rest)


def agent(scope: Scope = ACME, name: str = "plant-1") -> Agent:
    """Return an agent that has just enrolled."""
    return Agent(scope.tenant, name, "plants", "0a", START + 1000, START)


async def settled(store: Store) -> None:
    """Wait until all changes that nobody waited for are kept."""
    assert await store.healthy()


async def enrolled(store: Store, token_id: str, wanted: Agent) -> None:
    """Enrol an agent with a token of that name."""
    token = Token(token_id, wanted.tenant, wanted.name, wanted.group, START, START + 60)
    await store.add_token(token, token_id.encode())
    assert await store.spend_token(token_id, wanted, "r1", b"der", START)
