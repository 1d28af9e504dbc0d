"""
What agent and broker say to each other, and who may say it.

Each message is a JSON header with its class name as ``kind``; some carry a payload of raw bytes
beside it (``framing.py``). Unknown keys are ignored, so that a later release may
add some; unknown kinds are errors, so a new kind needs a feature that both sides announced.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from protocol.limits import BEAT_S, MAX_COMMAND_BYTES, MAX_MESSAGE_BYTES, SILENCE_S

Outcome = Literal["succeeded", "rejected", "failed", "in_doubt", "expired", "cancelled"]
ErrorKind = Literal["business", "technical", "policy", "deadline", "unknown"]
# What a peer counts: never less than nothing, and what any journal, store or other language can keep.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class Message(msgspec.Struct, frozen=True, tag_field="kind", omit_defaults=True):
    """Anything that one side says."""


# --- the greeting ---------------------------------------------------------------------------------


class Limits(msgspec.Struct, frozen=True):
    """
    What binds the peer of the side that announces it.

    Attributes:
        max_message_bytes: largest websocket message it reads.
        max_command_bytes: largest parameters of one command.
        max_running: commands the agent runs at once; the broker never offers more. 0 from a broker.
        stream_window_bytes: unconfirmed result bytes per command; from an agent as many as it can send again, where 0
            are ``SMALL_WINDOW_BYTES``.
        link_window_bytes: unconfirmed result bytes on the link; 0 from an agent.
        silence_s: seconds without a word after which it closes the link.
        remembers: commands an agent can still tell the end of after it was told to forget them; 0 from a broker.
        sends_again: a broker never sends a command again once so many later ones have ended; 0 from an agent.
            It must be less than ``remembers``, or a repeat could run twice.
    """

    max_message_bytes: Count = MAX_MESSAGE_BYTES
    max_command_bytes: Count = MAX_COMMAND_BYTES
    max_running: Count = 0
    stream_window_bytes: Count = 0
    link_window_bytes: Count = 0
    silence_s: float = SILENCE_S
    remembers: Count = 0
    sends_again: Count = 0


class Hello(Message, frozen=True):
    """
    The agent's first word.

    Attributes:
        versions: of the protocol, that it speaks.
        release: of the program, such as ``0.1.0``.
        features: names of optional parts that it can do.
        limits: what binds the broker.
        journal: mark of the agent's journal. While it stays the same, a ``once`` or ``at-most-once`` that the
            agent does not hold was never begun there; it changes whenever something may be missing from the journal.
        position: how many records were ever written to it. Fewer than were told before: it was put back to an
            earlier state, such as by a restored machine, and its mark says nothing.
        time: its clock, seconds since 1970.
        system: operating system and Python, for people.
        head: of the journal's chain at ``position``, hex; "" says nothing.
        lineage: what the broker gave with its last Welcome; "" on the first link of an identity.
        trusts: SHA-256 of the certificates (DER, hex) of all authorities that it takes a broker's certificate from.
    """

    versions: list[Count]
    release: str
    features: list[str]
    limits: Limits
    journal: str
    time: float
    position: Count = 0
    system: str = ""
    head: str = ""
    lineage: str = ""
    trusts: list[str] = []


class Welcome(Message, frozen=True):
    """
    The broker's answer to Hello.

    Attributes:
        version: the highest that both speak.
        release: of the broker's program.
        features: those that both can do; only these are in force.
        limits: what binds the agent.
        tenant: as the certificate says.
        agent: as the certificate says.
        time: its clock, seconds since 1970.
        beat_s: seconds after which a side that said nothing else sends a Beat.
        lineage: to be kept, durably, before Holding is said, and shown with the next Hello. Who shows one that was
            given before the last is a machine put back, or one of two.
        audit: the broker's audit chain of this tenant, as ``NUMBER:HASH``; "" says nothing.
    """

    version: Count
    release: str
    features: list[str]
    limits: Limits
    tenant: str
    agent: str
    time: float
    beat_s: float = BEAT_S
    lineage: str = ""
    audit: str = ""


class Goodbye(Message, frozen=True):
    """
    The side that says it closes the link.

    Attributes:
        code: ``stopping``, ``superseded``, ``revoked``, ``expired``, ``version``, ``protocol``, ``silence``,
            ``refused``, and from an agent that dials again with its new certificate ``renewed``.
        reason: for people.
        retry_after_s: when to dial again; 0 says nothing about it.
    """

    code: str
    reason: str = ""
    retry_after_s: float = 0.0


class Beat(Message, frozen=True):
    """
    A sign of life; sent by a side that had nothing else to say. Any message is one.

    Attributes:
        time: the clock of who says it, seconds since 1970; 0 says nothing about it.
        audit: from a broker, as in ``Welcome``; "" says nothing.
        head: from an agent, the head of its journal's chain, as ``POSITION:HASH``; "" says nothing.
    """

    time: float = 0.0
    audit: str = ""
    head: str = ""


class Condition(Message, frozen=True):
    """
    How the agent is; said after Holding, and again whenever it changes.

    Attributes:
        problems: why it refuses commands though the link is up, for people; empty when all is well.
        shut: connections outside of their posting windows, with the seconds until they open.
        paused: connections that somebody at the agent's machine stopped, with what they said; only there can it be
            undone.
    """

    problems: list[str] = []
    shut: dict[str, float] = {}
    paused: dict[str, str] = {}


class Catalogue(Message, frozen=True):
    """
    What may be run here; payload: a JSON object with ``connections`` and ``operations``.

    Attributes:
        digest: SHA-256 of the payload, hex.
    """

    digest: str


# --- after the greeting: what the agent still holds ------------------------------------------------


class Held(msgspec.Struct, frozen=True):
    """
    A command the agent has not been told to forget.

    Attributes:
        id: of the command.
        epoch: of the attempt.
        ended: whether its outcome is known.
        first: the first byte of its result that the agent can still send.
        sent: how many bytes of its result there are so far.
    """

    id: str
    epoch: Count
    ended: bool
    first: Count = 0
    sent: Count = 0


class Holding(Message, frozen=True):
    """
    All that the agent holds; sent once, after Welcome, before anything about a command.

    Attributes:
        commands: those it has not been told to forget.
    """

    commands: list[Held]


class Resume(Message, frozen=True):
    """
    The broker wants the rest of a held command.

    Attributes:
        offset: the bytes of its result that the broker has; sending goes on from there.
        credit: how many bytes may be sent.
    """

    id: str
    epoch: Count
    offset: Count
    credit: Count


# --- the life of a command -----------------------------------------------------------------------


class BlobInfo(msgspec.Struct, frozen=True):
    """
    A content that is too large for parameters, as the broker keeps it.

    Attributes:
        id: as it stands in the parameters.
        bytes: of it.
        sha256: of its bytes, hex.
    """

    id: str
    bytes: Count
    sha256: str


class Run(Message, frozen=True):
    """
    Run this; payload: its parameters, a JSON object.

    Attributes:
        id: of the command, the same in every attempt.
        epoch: counts the attempts; an answer with another epoch is of no effect.
        operation: its name in the operator's file.
        expires_in_s: seconds after which it may not start any more.
        credit: result bytes that may be sent before a Credit comes.
        correlation_id: for logs.
        traceparent: W3C trace context, or "".
        group: that the caller asked for; "" where it asked for this agent.
        idempotency_key: of the caller, or "".
        signature: of the caller, a compact JWS, or "" (``protocol/signing.py``).
        sealed: whether the payload is sealed to the agent's key (``protocol/sealing.py``), not the JSON object itself.
        seal_to: the caller's public key that the result is to be sealed to, as ``x25519:BASE64``, or "".
        said_s: seconds from Welcome to this, on the broker's clock: what an agent needs to know how long it was on its
            way. 0 says nothing.
        settles: an attempt at the command by another agent of the group, which was lost. Only what became of that is to
            be found out and told, as the end of this attempt; nothing is to be run. Needs the feature ``groups``.
        place: as that agent's catalogue has it, of the operation's connection: what tells whether both work with the
            same ledger. "" where ``settles`` is 0, or no ledger tells.
        blob: what its parameters name as ``{"blob": ID}``, to be fetched. Needs the feature ``blobs``.
        rows_as: as what its rows are to be sent, ``ndjson`` or ``arrow``. Something else than the former needs an
            agent whose catalogue says of the operation that it can.
    """

    id: str
    epoch: Count
    operation: str
    expires_in_s: float
    credit: Count
    correlation_id: str = ""
    traceparent: str = ""
    group: str = ""
    idempotency_key: str = ""
    signature: str = ""
    sealed: bool = False
    seal_to: str = ""
    said_s: float = 0.0
    settles: Count = 0
    place: str = ""
    blob: BlobInfo | None = None
    rows_as: str = "ndjson"


class Accepted(Message, frozen=True):
    """The agent has the command in its journal; the broker need not send it again."""

    id: str
    epoch: Count


class Started(Message, frozen=True):
    """
    The work began.

    Attributes:
        position: as in ``Hello``, now.
    """

    id: str
    epoch: Count
    position: Count = 0


class ColumnInfo(msgspec.Struct, frozen=True):
    """
    One column of a row set.

    Attributes:
        name: unique within its row set.
        type: one of the parameter types.
        source_type: the source's own word for it; "" if it does not say.
    """

    name: str
    type: str
    source_type: str = ""


class RowSetBegins(Message, frozen=True):
    """
    A row set begins at this place of the result.

    Attributes:
        index: counts the row sets of a command from 0.
        offset: bytes of the result before it.
        columns: in order.
        format: of its rows; ``ndjson`` is one JSON object per line, ``sealed`` what only the caller can read, ``arrow``
            a stream of Arrow's IPC format, which is only sent to who asked for it.
    """

    id: str
    epoch: Count
    index: Count
    offset: Count
    columns: list[ColumnInfo]
    format: str = "ndjson"


class Chunk(Message, frozen=True):
    """
    The next bytes of the row set last begun, as payload; may begin and end inside a row.

    Attributes:
        offset: bytes of the result before it; never a gap.
        rows: how many rows end in it.
        crc32: of the payload, as zlib has it; a chunk that does not fit it costs the link, and is sent again. Without
            one only the digests at the end tell.
    """

    id: str
    epoch: Count
    offset: Count
    rows: Count
    crc32: Count | None = None


class Credit(Message, frozen=True):
    """
    The broker has stored this much more and takes as much again.

    Attributes:
        id: of the command.
        bytes: how many more may be sent for it; the link's own window grows by as much.
    """

    id: str
    bytes: Count


class RowSetDone(msgspec.Struct, frozen=True):
    """
    What a row set was, for the broker to check against what it has.

    Attributes:
        bytes: of all its chunks.
        rows: in all its chunks.
        sha256: of the bytes of all its chunks, hex.
    """

    bytes: Count
    rows: Count
    sha256: str


class Completed(Message, frozen=True):
    """
    The command ended; payload: its outputs, a JSON object, or nothing.

    Attributes:
        outcome: the final state.
        row_sets: the manifest; the broker calls nothing a success that does not agree with it.
        error_kind: who or what said no; "" if it succeeded.
        error_code: one of the codes in the reference.
        error_message: for people.
        source_code: the source's own code, such as a SQLSTATE.
        touched: whether the work may have begun.
        retryable: whether the same command may well succeed at another time.
        position: as in ``Hello``, now.
        warnings: what the caller should know besides.
        head: of the journal's chain at ``position``, hex; "" says nothing.
        proof: the agent's signature over all of this (``protocol/proofs.py``), or "". One that was signed together with
            others needs the feature ``proofs``.
    """

    id: str
    epoch: Count
    outcome: Outcome
    row_sets: list[RowSetDone] = []
    error_kind: ErrorKind | Literal[""] = ""
    error_code: str = ""
    error_message: str = ""
    source_code: str = ""
    touched: bool = True
    retryable: bool = False
    position: Count = 0
    warnings: list[str] = []
    head: str = ""
    proof: str = ""


class Cancel(Message, frozen=True):
    """The caller wants it no more; answered by Completed, whatever came of it."""

    id: str
    epoch: Count


class Ack(Message, frozen=True):
    """The broker has the outcome and all of the result, durably, or wants none of it: forget the command."""

    id: str
    epoch: Count


# --- blobs, to the agent; with the feature ``blobs`` -----------------------------------------------


class Fetch(Message, frozen=True):
    """
    The agent wants a part of the command's blob, and has room for it.

    It asks for several parts one after another, as it stores those that came; after a lost link again from what it has.

    Attributes:
        offset: the first byte.
        bytes: how many; they come as one or more BlobChunk, in order.
    """

    id: str
    epoch: Count
    offset: Count
    bytes: Count


class BlobChunk(Message, frozen=True):
    """
    Some bytes of the blob, as payload; only such as were asked for.

    Attributes:
        offset: of the first one.
        crc32: of the payload, as zlib has it; a chunk that does not fit it costs the link, and is asked for again.
    """

    id: str
    epoch: Count
    offset: Count
    crc32: Count


class BlobGone(Message, frozen=True):
    """
    The broker can't give the blob.

    Attributes:
        reason: for people.
    """

    id: str
    epoch: Count
    reason: str


# --- enrolment, on a connection of its own ---------------------------------------------------------


class Enrol(Message, frozen=True):
    """
    An agent without a certificate asks for one; payload: a certificate signing request, DER.

    Attributes:
        secret: the token's one-time secret.
        request: a random id kept by the agent; the same one repeated gives the same certificate.
        release: of the program.
    """

    secret: str
    request: str
    release: str


class Recover(Message, frozen=True):
    """
    An agent whose certificate has run out asks for another; payload: a certificate signing request, DER.

    Attributes:
        certificate: the one that has run out, DER in base64.
        request: a random id kept by the agent; the same one repeated gives the same certificate.
        signature: with the key of that certificate (ECDSA, SHA-256, DER in base64) over ``protocol.signing.recovery``.
        release: of the program.
    """

    certificate: str
    request: str
    signature: str
    release: str


class Enrolled(Message, frozen=True):
    """
    The broker's yes to Enrol or Recover; payload: the agent's certificate, DER.

    Attributes:
        tenant: named in the certificate.
        agent: named in the certificate.
        not_after: seconds since 1970.
        authorities: all that the agent is to trust, certificates as DER in base64; empty says nothing.
    """

    tenant: str
    agent: str
    not_after: float
    authorities: list[str] = []


# --- renewal, on a link; with the feature ``renewal`` ----------------------------------------------


class Renew(Message, frozen=True):
    """
    The agent asks for its next certificate; payload: a certificate signing request for a new key, DER.

    Attributes:
        request: a random id kept by the agent; the same one repeated gives the same certificate.
    """

    request: str


class Renewed(Message, frozen=True):
    """
    The answer to Renew; payload: the next certificate, DER. Empty where the broker said no.

    The old certificate is good until a link came with the new one.

    Attributes:
        request: as asked.
        not_after: seconds since 1970.
        refused: why there is none, for people; "" where there is one.
        retry_after_s: when to ask again after a refusal.
    """

    request: str
    not_after: float = 0.0
    refused: str = ""
    retry_after_s: float = 0.0


class Trust(Message, frozen=True):
    """
    All authorities that the agent is to trust from now on.

    Attributes:
        authorities: certificates, DER in base64; never empty.
    """

    authorities: list[str]


class Trusts(Message, frozen=True):
    """
    The agent has kept, durably, whom it trusts.

    Attributes:
        authorities: as ``Hello.trusts``.
    """

    authorities: list[str]


AGENT_SAYS: Final = (
    Hello,
    Catalogue,
    Holding,
    Condition,
    Accepted,
    Started,
    RowSetBegins,
    Chunk,
    Completed,
    Fetch,
    Beat,
    Goodbye,
    Enrol,
    Recover,
    Renew,
    Trusts,
)
BROKER_SAYS: Final = (
    Welcome,
    Resume,
    Run,
    Credit,
    BlobChunk,
    BlobGone,
    Cancel,
    Ack,
    Beat,
    Goodbye,
    Enrolled,
    Renewed,
    Trust,
)
WITH_PAYLOAD: Final = (Catalogue, Run, Chunk, BlobChunk, Completed, Enrol, Recover, Enrolled, Renew, Renewed)
RENEWAL: Final = "renewal"  # the feature of Renew, Renewed, Trust and Trusts
GROUPS: Final = "groups"  # the feature of Run.settles; who has it also knows how old a Run is, by Run.said_s
BLOBS: Final = "blobs"  # the feature of Run.blob, Fetch, BlobChunk and BlobGone
PROOFS: Final = "proofs"  # the feature of a Completed.proof that is signed together with others
BRIEF: Final = "brief"  # the feature of a Completed that says as well that it was accepted, and begun if touched
FEATURES: Final = (GROUPS, BLOBS, BRIEF, PROOFS)  # that both sides of this release have

AnyMessage = (
    Hello
    | Welcome
    | Goodbye
    | Beat
    | Catalogue
    | Holding
    | Condition
    | Resume
    | Run
    | Accepted
    | Started
    | RowSetBegins
    | Chunk
    | Credit
    | Completed
    | Fetch
    | BlobChunk
    | BlobGone
    | Cancel
    | Ack
    | Enrol
    | Recover
    | Enrolled
    | Renew
    | Renewed
    | Trust
    | Trusts
)
