"""The store's records as rows of its tables, and back; columns stand in the order of the dataclasses."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any, Final

import msgspec

from cloud_broker.identity.lineage import Lineage
from cloud_broker.store.agents import Agent, NextCertificate
from cloud_broker.store.commands import Command, CommandError, CommandFilter, Finish, Resolution, RowSetInfo, Step
from cloud_broker.store.dead_letters import ReplayRun, Skipped
from cloud_broker.store.tenants import ApiKey, Tenant, Token
from protocol.states import CommandState

Row = tuple[Any, ...]
Bound = dict[str, Any]

_row_sets = msgspec.json.Decoder(tuple[RowSetInfo, ...])
_error = msgspec.json.Decoder(CommandError)
_wanted = msgspec.json.Decoder(CommandFilter)
_skipped = msgspec.json.Decoder(tuple[Skipped, ...])
_resolution = msgspec.json.Decoder(Resolution)
_texts = msgspec.json.Decoder(tuple[str, ...])
_next = msgspec.json.Decoder(NextCertificate | None)
_lineage = msgspec.json.Decoder(Lineage)
_names = Command.__struct_fields__
_STATE: Final = _names.index("state")
_CANCEL: Final = _names.index("cancel_requested")
_SEALED: Final = _names.index("sealed")
_RESOLUTION: Final = _names.index("resolution")
_agent_names = [field.name for field in dataclasses.fields(Agent)]
_OWN_PKI: Final = _agent_names.index("own_pki")
_AGENT_DOCUMENTS: Final = slice(_agent_names.index("next"), _agent_names.index("lineage") + 1)
_run_names = [field.name for field in dataclasses.fields(ReplayRun)]
_RUN_WANTED: Final = _run_names.index("wanted")
_RUN_SKIPPED: Final = _run_names.index("skipped")
_STEP_ERROR: Final = [field.name for field in dataclasses.fields(Step)].index("error")
_DOCUMENTS: Final = slice(_names.index("row_sets"), _names.index("warnings") + 1)
# What becomes of a command only after it was added. Python's sqlite3 takes half a microsecond for each None, and longer
# for what is neither a number nor a text: the query has them as literals.
_LATER: Final = (
    *("cancel_requested", "started_at", "finished_at", "outputs", "row_sets", "error", "warnings", "result"),
    *("failures", "not_before", "replayed_by", "resolution", "proof"),
)
_added = operator.attrgetter(*(f"{name}.value" if name == "state" else name for name in _names if name not in _LATER))
_later = operator.attrgetter(*_LATER)
_NOTHING_YET: Final = _later(Command("", "", None, None, "", "", "read", b"", "", 0.0, 0.0))
_encode = msgspec.json.Encoder().encode


def _json(value: object) -> str | None:
    return _encode(value).decode() if value else None


def tenant(row: Row) -> Tenant:
    """Return what a row of ``tenants`` says."""
    return Tenant(*row)


def key(row: Row) -> ApiKey:
    """Return what a row of ``api_keys`` says."""
    return ApiKey(row[0], row[1], _texts.decode(row[2]), *row[3:])


def bound_key(key: ApiKey, sha256: bytes) -> Bound:
    """Return the parameters of ``add_key``."""
    return {
        "id": key.id,
        "sha256": sha256,
        "tenant": key.tenant,
        "scopes": _encode(key.scopes).decode(),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
        "name": key.name,
        "owner": key.owner,
        "replaced_by": key.replaced_by,
    }


def token(row: Row) -> Token:
    """Return what a row of ``tokens`` says."""
    return Token(*row)


def bound_token(token: Token, sha256: bytes) -> Bound:
    """Return the parameters of ``add_token``."""
    return {
        "id": token.id,
        "sha256": sha256,
        "tenant": token.tenant,
        "agent": token.agent,
        "group": token.group,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
    }


def agent(row: Row) -> Agent:
    """Return what a row of ``agents`` says."""
    fields = list(row)
    fields[_OWN_PKI] = bool(fields[_OWN_PKI])
    following, trusts, lineage = fields[_AGENT_DOCUMENTS]
    fields[_AGENT_DOCUMENTS] = (_next.decode(following), _texts.decode(trusts), _lineage.decode(lineage))
    return Agent(*fields)


def identity_row(agent: Agent) -> Row:
    """Return the parameters of ``greeted``."""
    return (
        agent.tenant,
        agent.name,
        agent.serial,
        agent.not_after,
        agent.issuer,
        _encode(agent.next).decode(),
        _encode(agent.trusts).decode(),
        _encode(agent.lineage).decode(),
        agent.revoked_at,
        agent.revoked_reason,
    )


def bound_agent(agent: Agent) -> Bound:
    """Return the parameters of ``enrol_agent``."""
    return {
        "tenant": agent.tenant,
        "name": agent.name,
        "group": agent.group,
        "serial": agent.serial,
        "not_after": agent.not_after,
        "enrolled_at": agent.enrolled_at,
        "revoked_at": agent.revoked_at,
        "last_seen_at": agent.last_seen_at,
        "release": agent.release,
        "system": agent.system,
        "journal": agent.journal,
        "position": agent.position,
        "catalogue": agent.catalogue,
        "catalogue_digest": agent.catalogue_digest,
        "issuer": agent.issuer,
        "own_pki": agent.own_pki,
        "revoked_reason": agent.revoked_reason,
        "next": _encode(agent.next).decode(),
        "trusts": _encode(agent.trusts).decode(),
        "lineage": _encode(agent.lineage).decode(),
        "drained_at": agent.drained_at,
    }


def command(row: Row) -> Command:
    """Return what a row of ``commands`` says."""
    fields = list(row)
    fields[_STATE] = CommandState(fields[_STATE])
    fields[_CANCEL] = bool(fields[_CANCEL])
    fields[_SEALED] = bool(fields[_SEALED])
    row_sets, error, warnings = fields[_DOCUMENTS]
    fields[_DOCUMENTS] = (
        _row_sets.decode(row_sets) if row_sets else (),
        _error.decode(error) if error else None,
        _texts.decode(warnings) if warnings else (),
    )
    if fields[_RESOLUTION]:
        fields[_RESOLUTION] = _resolution.decode(fields[_RESOLUTION])
    return Command(*fields)


def new_row(command: Command) -> Row:
    """Return a new command as a row of ``add_commands``; raises ``ValueError`` for one that something became of."""
    if _later(command) != _NOTHING_YET:
        raise ValueError(f"{command.id}: a command is added before anything becomes of it")
    return _added(command)


def finish_row(finish: Finish) -> Row:
    """Return what a row of the query ``finish`` has between the number and the agent; a document of nothing is ""."""
    return (
        finish.state.value,
        finish.started_at,
        finish.finished_at,
        finish.outputs,
        _json(finish.row_sets) or "",
        _json(finish.error) or "",
        _json(finish.warnings) or "",
        finish.result,
        finish.proof,
    )


def step(row: Row) -> Step:
    """Return what a row of ``steps`` says."""
    fields = list(row)
    error = fields[_STEP_ERROR]
    fields[_STEP_ERROR] = _error.decode(error) if error else None
    return Step(*fields)


def bound_step(tenant: str, command_id: str, step: Step) -> Bound:
    """Return the parameters of ``add_step``."""
    return {
        "tenant": tenant,
        "id": command_id,
        "at": step.at,
        "step": step.step,
        "attempt": step.attempt,
        "agent": step.agent,
        "phase": step.phase,
        "started_at": step.started_at,
        "outcome": step.outcome,
        "error": _json(step.error),
        "detail": step.detail,
        "outputs": step.outputs,
    }


def bound_requeue(
    tenant: str, command_id: str, error: CommandError | None, failures: int, not_before: float | None
) -> Bound:
    """Return the parameters of ``requeue``."""
    return {
        "tenant": tenant,
        "id": command_id,
        "error": _json(error),
        "failures": failures,
        "not_before": not_before,
    }


def bound_resolution(
    tenant: str, command_id: str, state: CommandState, resolution: Resolution, error: CommandError | None
) -> Bound:
    """Return the parameters of ``keep_doubt`` and ``resolve``."""
    return {
        "tenant": tenant,
        "id": command_id,
        "state": state.value,
        "at": resolution.at,
        "detail": resolution.found,
        "error": _json(error),
        "resolution": _json(resolution),
    }


def run(row: Row) -> ReplayRun:
    """Return what a row of ``replay_runs`` says."""
    fields = list(row)
    fields[_RUN_WANTED] = _wanted.decode(fields[_RUN_WANTED])
    fields[_RUN_SKIPPED] = _skipped.decode(fields[_RUN_SKIPPED])
    return ReplayRun(*fields)


def bound_run(run: ReplayRun) -> Bound:
    """Return the parameters of ``add_replay_run``."""
    plain = {name: getattr(run, name) for name in _run_names}
    return plain | {"wanted": _encode(run.wanted).decode(), "skipped": _encode(run.skipped).decode()}


def bound_wishes(tenant: str, wanted: CommandFilter, cursor: str | None, limit: int) -> Bound:
    """Return the parameters of the queries that list commands."""
    return {
        "tenant": tenant,
        "dead_letters": wanted.dead_letters,
        "state": wanted.state.value if wanted.state else None,
        "operation": wanted.operation,
        "agent": wanted.agent,
        "correlation_id": wanted.correlation_id,
        "since": wanted.since,
        "before": wanted.before,
        "code": wanted.code,
        "cursor": cursor,
        "limit": limit,
    }
