"""The changes of commands that are made together; called in the writing thread, inside its transaction."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from cloud_broker.store import acts, records, together
from cloud_broker.store.answers import IdempotencyConflict
from cloud_broker.store.commands import Command, Finish
from cloud_broker.store.queries import QUERIES
from cloud_broker.store.sqlite_audit import note
from cloud_broker.store.together import Kind

Added = tuple[Command, bool] | IdempotencyConflict

_rows = msgspec.json.Decoder(list[list[Any]])


class End(NamedTuple):
    """The final state of one command."""

    tenant: str
    id: str
    finish: Finish


def _add(connection: sqlite3.Connection, given: Sequence[Sequence[Command]]) -> list[list[Added]]:
    """
    Keep new commands.

    Returns:
        Of each: it and True, or the one with the same idempotency key and False, or that this one is another request.
    """
    commands = list(itertools.chain.from_iterable(given))
    cursors = together.run(connection, "add_commands", [records.new_row(one) for one in commands])
    earlier: dict[str, Command] = {}
    if sum(cursor.rowcount for cursor in cursors) < len(commands):
        earlier = _not_new(connection, commands)
    added: list[Added] = []
    for one in commands:
        kept = earlier.get(one.id)
        if kept is None:
            note(connection, acts.submitted(one.tenant, one))
            added.append((one, True))
        elif kept.fingerprint == one.fingerprint:
            added.append((kept, False))
        else:
            added.append(IdempotencyConflict(f"the key {one.idempotency_key!r} was used for another request"))
    following = iter(added)
    return [list(itertools.islice(following, len(part))) for part in given]


def _not_new(connection: sqlite3.Connection, commands: Sequence[Command]) -> dict[str, Command]:
    """Return by id of the one that was not kept the one that was, where they have the same idempotency key."""
    found: dict[str, Command] = {}
    for one in commands:
        if one.idempotency_key is None:
            continue
        bound = {"tenant": one.tenant, "idempotency_key": one.idempotency_key}
        kept = records.command(connection.execute(QUERIES["command_by_idempotency_key"], bound).fetchone())
        if kept.id != one.id:
            found[one.id] = kept
    return found


def _dispatch(connection: sqlite3.Connection, given: Sequence[tuple[Any, ...]]) -> list[None]:
    together.run(connection, "dispatched", given)
    return [None] * len(given)


def _begin(connection: sqlite3.Connection, given: Sequence[tuple[Any, ...]]) -> list[None]:
    together.run(connection, "running", given)
    return [None] * len(given)


def _finish(connection: sqlite3.Connection, given: Sequence[End]) -> list[bool]:
    """Write final states; return of each whether it had none before."""
    asked = [(position, end.tenant, end.id) for position, end in enumerate(given)]
    done = [False] * len(given)
    changes, inline = [], []
    for cursor in together.run(connection, "to_finish", asked):
        for position, number, operation, effect, agent, epoch, journal, correlation_id in _rows.decode(
            cursor.fetchone()[0]
        ):
            end = given[position]
            finish = end.finish
            agent, epoch, journal = finish.agent or agent, max(epoch, finish.epoch), finish.journal or journal
            changes.append((number, *records.finish_row(finish), agent, epoch, journal))
            if finish.inline is not None:
                inline.append((number, finish.inline))
            note(
                connection,
                acts.ended(end.tenant, end.id, finish, operation, effect, agent, epoch, journal, correlation_id),
            )
            done[position] = True
    together.run(connection, "finish", changes)
    together.run(connection, "keep_inline_results", inline)
    return done


DISPATCH: Final = Kind(0, _dispatch)
BEGIN: Final = Kind(1, _begin)
FINISH: Final = Kind(2, _finish)
# Last: one that was there before is answered as it is by then. Of a new one nothing else is asked before it is kept.
ADD: Final = Kind(3, _add)
