"""
The life of a command as two tables; everything that changes a state stands here.

``PHASES`` is what is said about one command on one link: it does not know which side we are, so that
both sides keep the same rules. ``LIFE`` is what the broker's store, and so the caller, sees.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from protocol.messages import (
    Accepted,
    Ack,
    AnyMessage,
    BlobChunk,
    BlobGone,
    Cancel,
    Chunk,
    Completed,
    Credit,
    Fetch,
    Resume,
    RowSetBegins,
    Run,
    Started,
)


class Phase(StrEnum):
    """Where the conversation about one command stands, on one link."""

    UNKNOWN = "unknown"
    OFFERED = "offered"
    ACCEPTED = "accepted"
    RUNNING = "running"
    ENDED = "ended"
    HELD = "held"
    FORGOTTEN = "forgotten"

    __hash__ = str.__hash__  # enum's own is written in Python, and the table is asked for each message


PHASES: Final[dict[Phase, dict[type[AnyMessage], Phase]]] = {
    Phase.UNKNOWN: {Run: Phase.OFFERED},
    # A refusal is a Completed without an Accepted.
    Phase.OFFERED: {
        Accepted: Phase.ACCEPTED,
        Completed: Phase.ENDED,
        Cancel: Phase.OFFERED,
    },
    Phase.ACCEPTED: {
        Started: Phase.RUNNING,
        Fetch: Phase.ACCEPTED,
        BlobChunk: Phase.ACCEPTED,
        BlobGone: Phase.ACCEPTED,
        Completed: Phase.ENDED,
        Cancel: Phase.ACCEPTED,
    },
    Phase.RUNNING: {
        Started: Phase.RUNNING,  # a command held over from an earlier link may start on this one
        RowSetBegins: Phase.RUNNING,
        Chunk: Phase.RUNNING,
        Credit: Phase.RUNNING,
        # Of one held over from an earlier link only its agent knows whether it has begun.
        Fetch: Phase.RUNNING,
        BlobChunk: Phase.RUNNING,
        BlobGone: Phase.RUNNING,
        Completed: Phase.ENDED,
        Cancel: Phase.RUNNING,
    },
    # These may cross Completed on the wire, so they are legal and have no effect.
    Phase.ENDED: {
        Credit: Phase.ENDED,
        BlobChunk: Phase.ENDED,
        BlobGone: Phase.ENDED,
        Cancel: Phase.ENDED,
        Ack: Phase.FORGOTTEN,
    },
    # Of what it holds from an earlier link the agent says nothing until it is asked.
    Phase.HELD: {Resume: Phase.RUNNING, Cancel: Phase.HELD, Ack: Phase.FORGOTTEN},
    Phase.FORGOTTEN: {},
}


class CommandState(StrEnum):
    """What a command is for its caller."""

    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    REJECTED = "rejected"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    __hash__ = str.__hash__  # as above


FINAL: Final = frozenset(
    {
        CommandState.SUCCEEDED,
        CommandState.REJECTED,
        CommandState.FAILED,
        CommandState.IN_DOUBT,
        CommandState.EXPIRED,
        CommandState.CANCELLED,
    }
)
DEAD_LETTERS: Final = frozenset({CommandState.FAILED, CommandState.IN_DOUBT, CommandState.EXPIRED})

LIFE: Final[dict[CommandState, frozenset[CommandState]]] = {
    # Queued may end at once: expired, cancelled, or refused by the broker for good.
    CommandState.QUEUED: frozenset(
        {CommandState.DISPATCHED, CommandState.EXPIRED, CommandState.CANCELLED, CommandState.FAILED}
    ),
    # Back to queued: the agent certainly did not run it, or it may be run any number of times.
    CommandState.DISPATCHED: frozenset({CommandState.RUNNING, CommandState.QUEUED}) | FINAL,
    CommandState.RUNNING: frozenset({CommandState.QUEUED}) | FINAL,
    **{state: frozenset() for state in FINAL},
    # Once, by a person who looked in the ERP: what was in doubt had happened, or had not.
    CommandState.IN_DOUBT: frozenset({CommandState.SUCCEEDED, CommandState.FAILED}),
}
