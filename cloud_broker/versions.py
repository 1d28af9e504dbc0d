"""
Members of a group whose files differ: which version of an operation a command is for.

A command goes only to agents whose version of its operation is the one that it was checked against. Pure decisions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from cloud_broker.catalogues import Catalogue, Operation, operation_digests
from cloud_broker.store.agents import Agent
from cloud_broker.store.commands import Command, CommandError, Finish
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
        if len(versions) == 1:
            return versions[0]
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


def differing(agents: Sequence[Agent]) -> dict[str, list[str]]:
    """
    Return for each agent the operations that it has in another version than others of its group, or alone, or not.

    Args:
        agents: of one tenant; revoked ones, and those that were never linked, are left out.
    """
    groups: dict[str, dict[str, Mapping[str, str]]] = {}
    for agent in agents:
        if agent.group is not None and agent.revoked_at is None and agent.catalogue is not None:
            groups.setdefault(agent.group, {})[agent.name] = operation_digests(agent.catalogue)
    return {name: _unlike(name, members) for members in groups.values() for name in members}


def _unlike(name: str, members: Mapping[str, Mapping[str, str]]) -> list[str]:
    own = members[name]
    operations = {operation for digests in members.values() for operation in digests}
    return sorted(o for o in operations if any(own.get(o) != digests.get(o) for digests in members.values()))
