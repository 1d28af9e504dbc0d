"""May this command run here, and what does its end mean? Pure answers with a reason."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from agent import errors
from agent.journal.base import Claim, Entry
from agent.parameters import decode
from agent.settings import Effect, Operation, Settings
from protocol.messages import ErrorKind, Outcome


def permitted(settings: Settings, name: str) -> Operation:
    """
    Return the operation if it may run.

    Raises:
        OperationUnknown: the file names none of this name.
        NotAllowed: a rule of the file forbids it.
    """
    operation = settings.operations.get(name)
    if operation is None:
        raise errors.OperationUnknown(
            f"the operator's file names no operation {name!r} (operations); an operator allows it by adding it there",
            touched=False,
        )
    return operation


def fits(name: str, operation: Operation, params: bytes) -> dict[str, Any]:
    """
    Return the parameters if they are those that the operation takes, as ``agent.parameters.decode`` does.

    Raises:
        ParametersInvalid: with a line for each problem, and one for the rule.
    """
    try:
        return decode(operation, params)
    except errors.ParametersInvalid as exc:
        raise errors.ParametersInvalid(
            f"{exc.message}\nthese are the rules of the operator's file (operations.{name}.params); an operator allows "
            "other values by changing them there",
            touched=False,
        ) from exc


class Verdict(msgspec.Struct, frozen=True):
    """What an error means for its command, in the words of ``protocol.messages.Completed``."""

    outcome: Outcome
    kind: ErrorKind
    code: str


_REFUSALS: Final = (
    errors.OperationUnknown,
    errors.ParametersInvalid,
    errors.NotAllowed,
    errors.SignatureError,
    errors.CannotUnseal,
    errors.ProcedureChanged,
    errors.TooManyRows,
    errors.JournalConflict,
)
_UNCERTAIN: Final = (errors.OutcomeUnknown, errors.DriverCrashed, errors.ResultLost)
REPEATABLE: Final[frozenset[Effect]] = frozenset({"read", "idempotent"})
_FINAL_WORD: Final = ("succeeded", "rejected", "in_doubt")  # outcomes after which it is never run again


def judge(error: errors.CommandError, effect: Effect, *, cancelled: bool, paused: bool = False) -> Verdict:
    """
    Decide what an error amounts to.

    Args:
        effect: of the operation.
        cancelled: whether the caller had asked for it to be stopped.
        paused: whether somebody at this machine had; such a command may be sent again.
    """
    uncertain = isinstance(error, _UNCERTAIN) and error.touched
    if uncertain and effect not in REPEATABLE:
        return Verdict("in_doubt", "unknown", error.code)
    if isinstance(error, errors.SourceRejected):
        return Verdict("rejected", "business", error.code)
    if cancelled and isinstance(error, errors.Cancelled | errors.ConnectorError | errors.NotHappened):
        # Whatever stopped it, it stopped without effect, which is all that was asked for.
        return Verdict("cancelled", "technical", errors.Cancelled.code)
    if paused and isinstance(error, errors.Cancelled | errors.ConnectorError | errors.NotHappened):
        return Verdict("failed", "technical", errors.Paused.code)
    if isinstance(error, errors.DeadlinePassed):
        return Verdict("expired", "deadline", error.code)
    if isinstance(error, _REFUSALS):
        return Verdict("failed", "policy", error.code)
    return Verdict("failed", "technical", error.code)


def stopped_by_pause(error: errors.CommandError, why: str) -> errors.Paused:
    """
    Return what the caller is told of a command that a pause turned away, or stopped.

    Args:
        error: how it ended.
        why: as the pause says it.
    """
    if isinstance(error, errors.Paused):
        return error
    # What may be run any number of times may have been stopped in the middle.
    return errors.Paused(f"it was stopped: {why}", touched=error.touched and isinstance(error, _UNCERTAIN))


def told_before(claim: Claim, earlier: Entry | None) -> Entry | None:
    """
    Decide whether a command must not be run, because it has its outcome already.

    Args:
        earlier: what the journal knows of this id.

    Returns:
        The entry whose outcome is to be told again; ``None`` if it may run.

    Raises:
        JournalConflict: the id was used for other work.
        OutcomeUnknown: an earlier delivery began and nobody knows its end.
    """
    if earlier is None:
        return None
    if earlier.claim.fingerprint != claim.fingerprint:
        raise errors.JournalConflict(
            f"{claim.id} is in the journal as {earlier.claim.operation} with other parameters; this one was not run",
            touched=False,
        )
    if earlier.claim.effect in REPEATABLE:
        return None
    if earlier.completed is None:
        raise errors.OutcomeUnknown("an earlier delivery of it began, and nobody knows how that ended")
    if earlier.completed.outcome in _FINAL_WORD or earlier.claim.epoch >= claim.epoch:
        return earlier
    return None
