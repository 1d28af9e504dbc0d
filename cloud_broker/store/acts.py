"""What the store notes of its changes in the audit trail; pure."""

from __future__ import annotations

from typing import Any, Final

from cloud_broker.audit.trail import BROKER, Act, caller, digest, time_text
from cloud_broker.store.agents import Agent
from cloud_broker.store.commands import Command, Finish, Resolution
from cloud_broker.store.dead_letters import ReplayRun
from cloud_broker.store.tenants import ApiKey, Token
from protocol.states import CommandState

MAX_CODE_CHARS: Final = 100  # of an error, which an agent may have told


def key_created(key: ApiKey, by: str) -> Act:
    """Return the note of a new key."""
    detail = {"scopes": list(key.scopes), "expires_at": _time(key.expires_at)}
    return Act(key.tenant or BROKER, by, "key_created", f"key:{key.id}", key.created_at, detail=detail)


def key_rotated(key_id: str, successor: ApiKey, ends_at: float, by: str) -> Act:
    """Return the note of a key that got a successor."""
    detail = {"successor": successor.id, "ends_at": time_text(ends_at), "expires_at": _time(successor.expires_at)}
    return Act(successor.tenant or BROKER, by, "key_rotated", f"key:{key_id}", successor.created_at, detail=detail)


def token_created(token: Token, by: str) -> Act:
    """Return the note of a new token."""
    detail = {"agent": token.agent, "group": token.group, "expires_at": _time(token.expires_at)}
    return Act(token.tenant, by, "token_created", f"token:{token.id}", token.created_at, detail=detail)


def enrolled(token_id: str, agent: Agent, now: float) -> tuple[Act, Act]:
    """Return the notes of a token that was spent and of the agent that it let in."""
    actor = f"agent:{agent.name}"
    detail = {"serial": agent.serial, "group": agent.group, "not_after": _time(agent.not_after)}
    return (
        Act(agent.tenant, actor, "token_spent", f"token:{token_id}", now),
        Act(agent.tenant, actor, "agent_enrolled", actor, now, detail=detail),
    )


def agent_added(agent: Agent, by: str) -> Act:
    """Return the note of an agent that shows certificates of the operator's own PKI."""
    return Act(agent.tenant, by, "agent_added", f"agent:{agent.name}", agent.enrolled_at, detail={"group": agent.group})


def submitted(tenant: str, command: Command) -> Act:
    """Return the note of a command that was taken."""
    addressee = {"group": command.group} if command.group is not None else {"agent": command.agent}
    detail: dict[str, Any] = {
        **addressee,
        "operation": command.operation,
        "effect": command.effect,
        "params": digest(command.params),
    }
    if command.sealed:
        detail["sealed"] = True
    if command.signature:
        detail["signature"] = digest(command.signature)
    if command.replay_of is not None:
        detail["replay_of"] = command.replay_of
    target = f"command:{command.id}"
    return Act(
        tenant, caller(command.key_id), "command_submitted", target, command.created_at, command.correlation_id, detail
    )


def ended(
    tenant: str,
    command_id: str,
    finish: Finish,
    operation: str,
    effect: str,
    agent: str | None,
    attempt: int,
    journal: str,
    correlation_id: str,
) -> Act:
    """Return the note of a command that got its end."""
    detail: dict[str, Any] = {"outcome": finish.state.value, "operation": operation, "effect": effect}
    if attempt:
        detail |= {"agent": agent, "attempt": attempt}
    if finish.head:
        detail |= {"journal": journal, "head": finish.head}
    if finish.error is not None:
        detail["error"] = finish.error.code[:MAX_CODE_CHARS]
    if finish.outputs is not None:
        detail["outputs"] = digest(finish.outputs)
    if finish.row_sets:
        detail["rows"] = sum(one.rows for one in finish.row_sets)
    if finish.proof:
        detail["proof"] = digest(finish.proof)
    target = f"command:{command_id}"
    return Act(tenant, finish.by, "command_ended", target, finish.finished_at, correlation_id, detail)


def resolved(tenant: str, command_id: str, state: CommandState, found: Resolution, correlation_id: str) -> Act:
    """Return the note of what a person found out."""
    detail = {"found": found.found, "who": found.who, "note": digest(found.note), "outcome": state.value}
    target = f"command:{command_id}"
    return Act(tenant, caller(found.by), "command_resolved", target, found.at, correlation_id, detail)


def replayed(tenant: str, original: str, command: Command, run: str | None) -> Act:
    """Return the note of a command that is done again."""
    detail = {"as": command.id} | ({"run": run} if run is not None else {})
    target = f"command:{original}"
    return Act(
        tenant, caller(command.key_id), "command_replayed", target, command.created_at, command.correlation_id, detail
    )


def replays_begun(tenant: str, run: ReplayRun) -> Act:
    """Return the note of many that are to be done again."""
    wanted = {"operation": run.wanted.operation, "agent": run.wanted.agent, "code": run.wanted.code}
    detail = {"total": run.total, **{name: value for name, value in wanted.items() if value is not None}}
    return Act(tenant, caller(run.by), "replays_begun", f"replays:{run.id}", run.created_at, detail=detail)


def _time(at: float | None) -> str | None:
    return None if at is None else time_text(at)
