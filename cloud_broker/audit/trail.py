"""
The audit trail: who did what, in chains that only grow.

Each tenant has a chain, and the broker one for its own acts. A record holds the hash of the one before it, so nothing
in the middle can be changed, removed or moved without every later hash being another. What was cut off at the end, or
written anew from some record on, shows only to somebody who kept a hash from outside: an earlier export, or the
anchors that agents keep in their journals.
"""

from __future__ import annotations

import functools
import getpass
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

BROKER: Final = ""  # the chain of what concerns no tenant; no tenant has such a name
BEGINNING: Final = bytes(32)  # the hash before a chain's first record
MAX_TEXT_CHARS: Final = 500  # of what came from outside; a record is a note and no place to keep things

# Every act that is noted; what its detail holds.
ACTIONS: Final[Mapping[str, str]] = {
    "broker_started": "The broker started: release, and its settings without secrets.",
    "broker_stopped": "The broker stopped as it was told to.",
    "store_migrated": "The store of an earlier release was brought forward: from and to which schema.",
    "backup_made": "A copy of the broker's data folder was made: where.",
    "tenant_created": "A tenant was created.",
    "tenant_suspended": "Nothing new is taken for a tenant.",
    "tenant_resumed": "Commands are taken again.",
    "key_created": "An API key was made: its scopes, and until when it is valid.",
    "key_rotated": "An API key got a successor: its id, and until when the old one works.",
    "key_revoked": "An API key is refused from then on.",
    "login_refused": "Somebody was not let in: why, and how many times since the last such record.",
    "token_created": "A token that lets one agent enrol: its group, and until when it is valid.",
    "token_spent": "An agent enrolled with a token.",
    "token_refused": "A token was shown that could not be used any more: why.",
    "agent_added": "An agent of the operator's own authority was registered.",
    "agent_enrolled": "An agent got its first certificate: serial, group, until when.",
    "agent_renewed": "An agent got its next certificate: serial, until when.",
    "agent_recovered": "An agent that had slept past its certificate's end got another.",
    "agent_revoked": "An agent's certificate was taken back.",
    "agent_drained": "An agent is given nothing new from then on, until it is undrained.",
    "agent_undrained": "An agent is given commands again.",
    "agent_cloned": "Two machines showed the same agent: why that is thought.",
    "agent_linked": "An agent's link was welcomed: its release, where from, certificate.",
    "agent_unlinked": "An agent's link ended.",
    "agent_refused": "An agent was not let in: why, and how many times since the last such record.",
    "catalogue_changed": "An agent told what may be run there: digest of the document.",
    "authority_added": "A second authority is trusted: its fingerprint.",
    "authority_switched": "Certificates come from another authority: its fingerprint.",
    "authority_dropped": "An authority is trusted no more: its fingerprint.",
    "command_submitted": "A command was taken: addressee, operation, effect, digests of parameters and signature.",
    "command_ended": "A command got its end: outcome, attempt, digests of outputs and proof, the journal's head there.",
    "command_cancelled": "Somebody asked for a command's end.",
    "command_resolved": "A person said what became of a command in doubt.",
    "command_replayed": "A dead letter was done again: as which command.",
    "blob_kept": "A content for a command to come was taken: how many bytes, and their digest.",
    "blob_removed": "A content that no command needs was removed.",
    "replays_begun": "Many dead letters are to be replayed: which, and how many.",
    "replays_ended": "That came to its end, or was stopped.",
    "approval_asked": "A dangerous act waits for a second person.",
    "approval_given": "A second person allowed it.",
    "approval_refused": "A second person, or the first, refused it.",
    "journal_anchor": "What an agent said of its journal: mark, position, and the head of its chain there.",
    "journal_misfit": "An agent's journal is not what it was: cut, put back or rewritten.",
}

_encode = msgspec.json.Encoder(order="sorted").encode


class Act(msgspec.Struct, frozen=True):
    """
    Something that somebody did.

    Attributes:
        tenant: whose chain it is noted in; ``BROKER`` for what concerns no tenant.
        actor: ``key:ID``, ``subject:WHO``, ``agent:NAME``, ``operator:USER`` (at the command line) or ``broker``.
        action: one of ``ACTIONS``.
        target: what it was done to, such as ``command:cmd_…``, ``key:ID``, ``agent:NAME``.
        at: seconds since 1970.
        detail: what JSON can hold, without fractions; digests, but no secrets and no parameters.
    """

    tenant: str
    actor: str
    action: str
    target: str
    at: float
    correlation_id: str = ""
    detail: Mapping[str, Any] = msgspec.field(default_factory=dict)


class Record(msgspec.Struct):
    """
    An act, as it stands in a chain.

    Attributes:
        number: 1 for a chain's first.
        at: RFC 3339 in UTC with microseconds; sorts as it is.
        detail: canonical JSON of an object.
        previous: hash of the record before it.
        hash: SHA-256 of ``canonical``.
    """

    tenant: str
    number: int
    at: str
    actor: str
    action: str
    target: str
    correlation_id: str
    detail: str
    previous: bytes
    hash: bytes = b""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """
    Which records to list; ``None`` means any.

    Attributes:
        since: that were noted then or later, as ``Record.at``.
    """

    action: str | None = None
    target: str | None = None
    since: str | None = None


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Part of a list, newest first; ``next`` goes into the call for the following part, ``None`` at the end."""

    items: Sequence[Record]
    next: int | None


class _Hashed(msgspec.Struct, frozen=True):
    """What a hash covers, in the order of canonical JSON (RFC 8785)."""

    action: str
    actor: str
    at: str
    correlation_id: str
    detail: msgspec.Raw
    number: int
    previous: str
    target: str
    tenant: str


def canonical(record: Record) -> bytes:
    """Return what the hash of a record covers: all but itself, as canonical JSON."""
    return _encode(
        _Hashed(
            record.action,
            record.actor,
            record.at,
            record.correlation_id,
            msgspec.Raw(record.detail),
            record.number,
            record.previous.hex(),
            record.target,
            record.tenant,
        )
    )


def unchained(act: Act) -> Record:
    """
    Return the record of an act that has no place in its chain yet.

    Raises:
        ValueError, TypeError: there is no such action, or JSON can't hold the detail.
    """
    if act.action not in ACTIONS:
        raise ValueError(f"an act that has no name in ACTIONS: {act.action!r}")
    return Record(
        tenant=act.tenant,
        number=0,
        at=time_text(act.at),
        actor=_text(act.actor),
        action=act.action,
        target=_text(act.target),
        correlation_id=_text(act.correlation_id),
        detail=_encode(act.detail).decode(),
        previous=BEGINNING,
    )


def chain(record: Record, number: int, previous: bytes) -> None:
    """Give a record its place behind the one with this number and hash; 0 and ``BEGINNING`` if there is none."""
    record.number, record.previous = number + 1, previous
    record.hash = hash_of(record)


def hash_of(record: Record) -> bytes:
    """Return the hash that a record must have."""
    return hashlib.sha256(canonical(record)).digest()


def time_text(at: float) -> str:
    """Return seconds since 1970 as a record has them."""
    seconds, micros = divmod(round(at * 1_000_000), 1_000_000)
    return f"{_second(seconds)}.{micros:06}Z"


@functools.lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    # Most acts of a moment are of the same second, and to take a date apart costs more than a hash.
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def caller(key_id: str) -> str:
    """Return who an id of a credential stands for, as an actor: an API key, or the subject of a token."""
    if not key_id:
        return "broker"
    return f"key:{key_id}" if ":" not in key_id else f"subject:{key_id}"


def operator() -> str:
    """Return who sits at the command line, as an actor; also where they act for the broker's account."""
    try:
        return f"operator:{os.environ.get('SUDO_USER') or getpass.getuser()}"
    except (OSError, KeyError):  # an account without a name, such as in a container
        return "operator:unknown"


def digest(data: bytes | str) -> str:
    """Return what a detail holds instead of the thing itself."""
    return "sha256:" + hashlib.sha256(data.encode("utf-8", "replace") if isinstance(data, str) else data).hexdigest()


def _text(value: str) -> str:
    # Half a pair of surrogates is no text; SQLite would refuse it, and with it the act.
    return value[:MAX_TEXT_CHARS] if value.isascii() else value[:MAX_TEXT_CHARS].encode("utf-8", "replace").decode()
