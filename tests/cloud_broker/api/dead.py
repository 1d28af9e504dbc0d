"""Dead letters in the store, as a broker and its agents would have left them."""

from __future__ import annotations

from typing import Any

from cloud_broker.commands import Submission
from cloud_broker.store.commands import Command, CommandError, Finish, Step
from cloud_broker.tenants import Scope
from protocol.states import CommandState
from tests.cloud_broker.api.broker import Broker

ACME = Scope("acme")
TICK_S = 0.0001  # seconds between two steps, so that all of them are over when a test asks
PARAMS = b'{"n": 0.10000000000000000000001, "t": "\xc3\xa9"}'


async def ended(broker: Broker, state: CommandState, scope: Scope = ACME, code: str = "", **wanted: Any) -> Command:
    """Let a command end in this way after two attempts; return it."""
    agent = None if "group" in wanted else "plant-1"
    submission = Submission(**{"operation": "order", "params": PARAMS, "agent": agent, "ttl_s": 600.0} | wanted)
    one, _ = await broker.commands.submit(scope, submission)
    now = one.created_at
    await broker.store.dispatched(scope, one.id, 1, "plant-1", "j", now, durable=True)
    error = CommandError("technical", "source_unavailable", "no route to the ERP")
    step = Step(one.id, now + 1 * TICK_S, "attempt_failed", 1, "plant-1", "dispatched", now, "failed", error)
    await broker.store.requeue(scope, one.id, step=step, failures=1, not_before=now + 1 * TICK_S)
    if state in (CommandState.QUEUED, CommandState.EXPIRED):
        if state is CommandState.EXPIRED:
            late = CommandError("deadline", "expired", "its time was up before it could start")
            await broker.store.finish(scope, one.id, Finish(state, now + 4 * TICK_S, error=late))
        return await broker.commands.get(scope, one.id)
    await broker.store.dispatched(scope, one.id, 2, "plant-1", "j", now + 2 * TICK_S, durable=True)
    await broker.store.running(scope, one.id, now + 3 * TICK_S)
    if state is not CommandState.RUNNING:
        last = CommandError("technical", code, f"it ended as {state}") if code else None
        await broker.store.finish(scope, one.id, Finish(state, now + 4 * TICK_S, error=last))
    return await broker.commands.get(scope, one.id)


async def failed(broker: Broker, scope: Scope = ACME, code: str = "source_failed", **wanted: Any) -> Command:
    """Let a command fail."""
    return await ended(broker, CommandState.FAILED, scope, code, **wanted)


async def in_doubt(broker: Broker, scope: Scope = ACME, **wanted: Any) -> Command:
    """Let a command be in doubt."""
    return await ended(broker, CommandState.IN_DOUBT, scope, "agent_lost", **wanted)
