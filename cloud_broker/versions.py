"""
Members of a group whose files differ: which version of an operation a command is for.

A command goes only to agents whose version of its operation is the one that it was checked against. Pure decisions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from cloud_broker.catalogues import Catalogue, Operation
from cloud_broker.store.base import Command, CommandError, Finish
from protocol.states import CommandState


def chosen(name: str, ready: Sequence[Catalogue], known: Sequence[Catalogue]) -> Operation | None:
    """
    Return the version of an operation that a new command is checked against: the one that most members have.

    Args:
        ready: of those that take commands now, which count first.
        known: of all members.
    """
    for catalogues in (ready, known):
        versions = [found for catalogue in catalogues if (found := catalogue.operations.get(name)) is not None]
        if versions:
            count = Counter(version.digest for version in versions)
            return max(versions, key=lambda version: (count[version.digest], version.digest))
    return None


def fitting(command: Command, known: Sequence[Catalogue]) -> tuple[Operation | None, str]:
    """Return the version that a command may go to whose own no member has any more; else why there is none."""
    operation = chosen(command.operation, (), known)
    if operation is None:
        return None, "no agent of the group has this operation any more"
    if (operation.effect, operation.connection) != (command.effect, command.connection):
        return None, f"it is {operation.effect} on {operation.connection} now, and was {command.effect} before"
    if command.sealed:
        return operation, ""
    problems = operation.problems(msgspec.json.decode(command.params), len(command.params))
    return (None, "; ".join(f"{one.name}: {one.reason}" for one in problems)) if problems else (operation, "")


def changed(command: Command, why: str, now: float) -> Finish:
    """Return the end of a command whose operation became another while it waited."""
    message = (
        f"{command.operation} was changed in the agents' files while the command waited, and it does not fit: {why}"
    )
    return Finish(CommandState.FAILED, now, error=CommandError("policy", "operation_changed", message))


def differing(own: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> list[str]:
    """
    Return the operations that an agent has in another version than other agents of its group, or alone, or not at all.

    Args:
        own: digest of each of its operations, by name; ``others`` those of the other agents.
    """
    names = {name for digests in (own, *others) for name in digests}
    return sorted(name for name in names if any(own.get(name) != digests.get(name) for digests in others))
