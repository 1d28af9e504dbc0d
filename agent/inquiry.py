"""
What became of a command whose end nobody heard: the source's own record tells, or a ``verify`` operation, or nobody.

``settled_by`` and ``tells`` decide; ``Inquiry`` asks, again and again while nobody answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Any, Final, Literal

import msgspec

from agent import errors
from agent.connectors.base import Call, Connector, Outputs, Rows
from agent.gate import Gate
from agent.journal.base import Claim, Resolution
from agent.leaving import Leaving
from agent.settings import Effect, OdbcConnection, Operation, Settings

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.25  # seconds between two questions, doubled each time
LONGEST_PAUSE_S: Final = 15.0
CANCELLED_S: Final = 30.0  # seconds that even one whose caller no longer waits is asked about
GIVE_UP_S: Final = 300.0  # seconds after which a ``verify`` that never answers is asked no more; a person is
LINES: Final = 100  # rows of an answer that are looked at


class By(StrEnum):
    """Who can tell."""

    SOURCE = "source"  # effect once: the ledger, the folder
    VERIFY = "verify"  # an operation the operator named
    NOBODY = "nobody"


def settled_by(operation: Operation | None, effect: Effect) -> By:
    """
    Return who can tell what became of a run of ``operation``.

    Args:
        operation: as the file has it now; ``None`` if it is no longer there.
        effect: as the file had it when it ran: only a run that was ``once`` has left a record at the source.
    """
    if operation is None:
        return By.NOBODY
    if operation.effect == effect == "once":
        return By.SOURCE
    return By.VERIFY if operation.verify is not None else By.NOBODY


def keeps_ledger(settings: Settings, operation: Operation) -> bool:
    """Whether a database keeps the record of what an operation did."""
    connection = settings.connections.get(operation.connection)
    return isinstance(connection, OdbcConnection) and connection.ledger is not None


def told_by(settings: Settings, operation: Operation) -> Literal["nobody", "verify", "folder", "ledger"]:
    """Return who can tell what became of a run of ``operation``, for the catalogue: another agent may ask there too."""
    by = settled_by(operation, operation.effect)
    if by is By.SOURCE:
        return "ledger" if keeps_ledger(settings, operation) else "folder"
    return "verify" if by is By.VERIFY else "nobody"


class Found(msgspec.Struct, frozen=True):
    """
    What was found out.

    Attributes:
        happened: ``None`` if nobody can tell.
        outputs: that the source still knows.
        rows: how many came with it; ``None`` if nobody knows.
        why: for people.
    """

    happened: bool | None
    why: str
    outputs: dict[str, Any] = {}
    rows: int | None = None


def tells(rows: int, outputs: Mapping[str, Any]) -> bool:
    """
    Read the answer of a ``verify`` operation: does it say that it happened?

    Yes, if there is at least one row, or an output that is not null, false, zero or empty.
    """
    return rows > 0 or any(_says_something(value) for value in outputs.values())


def _says_something(value: Any) -> bool:
    if isinstance(value, msgspec.Raw):
        value = msgspec.json.decode(value)
    if isinstance(value, dict):
        return any(_says_something(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return any(_says_something(inner) for inner in value)
    return value not in (None, False, 0, "", "0")


class Elsewhere(msgspec.Struct, frozen=True):
    """
    That another agent of the group had the command.

    Attributes:
        place: of its connection, as its catalogue told; "" where it keeps no ledger.
    """

    place: str


class Inquiry:
    """
    Finds out about one command.

    Args:
        elsewhere: who had it, if that was not this agent.
    """

    def __init__(
        self,
        claim: Claim,
        settings: Settings,
        connectors: Mapping[str, Connector],
        gates: Mapping[str, Gate],
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._claim = claim
        self._elsewhere = elsewhere
        self._settings = settings
        self._connectors = connectors
        self._gates = gates
        self._resolved: asyncio.Future[Resolution] = asyncio.get_running_loop().create_future()
        self.cancelled = False  # its caller no longer waits: nobody is asked for long

    def resolve(self, resolution: Resolution) -> None:
        """A person knows; nobody else is asked any more."""
        if not self._resolved.done():
            self._resolved.set_result(resolution)

    async def answer(self) -> Found:
        """Return what became of it; takes as long as it takes to be sure."""
        operation = self._settings.operations.get(self._claim.operation)
        by = settled_by(operation, self._claim.effect)
        if self._resolved.done():
            return self._said()
        if operation is None:
            return Found(None, f"the operator's file no longer names {self._claim.operation}")
        if by is By.NOBODY:
            return Found(None, "nothing tells whether it happened; look in the ERP, or give the operation a `verify`")
        asking = asyncio.create_task(
            self._ask_source(operation) if by is By.SOURCE else self._ask_verify(operation),
            name=f"find out about {self._claim.id}",
        )
        try:
            await asyncio.wait((asking, self._resolved), return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                return asking.result()
            return self._said()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    def _said(self) -> Found:
        said = self._resolved.result()
        return Found(said.happened, f"{said.by} found out: {said.note}")

    # --- effect once --------------------------------------------------------------------------------

    async def _ask_source(self, operation: Operation) -> Found:
        claim = self._claim
        place = self._elsewhere.place if self._elsewhere is not None else ""
        if self._elsewhere is not None and not (place and keeps_ledger(self._settings, operation)):
            # Names in a folder may be seen late from another machine, and what is not seen tells nothing.
            return Found(None, "only the agent that had it can tell, by what it left in the folder")
        call = Call(claim.id, claim.operation, claim.params, operation.timeout, claim.epoch, claim.fingerprint, place)

        async def ask() -> Found:
            async with self._gates[operation.connection].slot():
                outputs = await self._connectors[operation.connection].find(call)
            if outputs is None:
                return Found(False, "the source has no record of it, and can have none any more")
            return Found(True, "the source has it on record", outputs.values, outputs.rows)

        return await self._patiently(ask, give_up_s=None)

    # --- a verify operation ---------------------------------------------------------------------------

    async def _ask_verify(self, operation: Operation) -> Found:
        name = operation.verify or ""
        verify = self._settings.operations.get(name)
        if verify is None:
            return Found(None, f"its `verify` {name!r} is not in the operator's file")
        # What was under way may still arrive there: a "no" counts only when that time is over.
        sure_at = time.monotonic() + operation.timeout

        async def ask() -> Found:
            while True:
                found = await self._verified(name, verify)
                left_s = sure_at - time.monotonic()
                if found.happened or left_s <= 0:
                    return found
                await asyncio.sleep(min(left_s, max(FIRST_PAUSE_S, operation.timeout / 10)))

        return await self._patiently(ask, give_up_s=operation.timeout + GIVE_UP_S)

    async def _verified(self, name: str, verify: Operation) -> Found:
        claim = self._claim
        given = msgspec.json.decode(claim.params, type=dict[str, msgspec.Raw])
        known = given | {
            "command_id": msgspec.Raw(msgspec.json.encode(claim.id)),
            "correlation_id": msgspec.Raw(msgspec.json.encode(claim.correlation_id)),
        }
        # A SOAP call may declare no parameters: its request then takes what the original had.
        params = {key: value for key, value in known.items() if key in verify.params} if verify.params else given
        call = Call(f"{claim.id}.verify", name, msgspec.json.encode(params), verify.timeout)
        try:
            async with self._gates[verify.connection].slot():
                count, first, outputs = await _answer(self._connectors[verify.connection], call)
        except errors.SourceRejected as exc:
            return Found(False, f"{name} says no: {exc.message}")
        except errors.OutcomeUnknown as exc:
            # Of a read: its answer was lost on the way, and it can be asked again.
            raise errors.SourceUnavailable(exc.message) from exc
        if not tells(count, outputs):
            return Found(False, f"{name} finds nothing")
        if not outputs and first:
            outputs = msgspec.json.decode(first, type=dict[str, msgspec.Raw])
        return Found(True, f"{name} finds it", Leaving(verify).outputs(outputs))

    async def _patiently(self, ask: Callable[[], Awaitable[Found]], give_up_s: float | None) -> Found:
        """Ask until there is an answer, or the time is up, or the caller no longer waits."""
        began, pause_s = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                return await ask()
            except (errors.OutcomeUnknown, errors.OperationUnknown, errors.ParametersInvalid) as exc:
                return Found(None, exc.message)
            except errors.CommandError as exc:
                asked_s = time.monotonic() - began
                late = give_up_s is not None and asked_s > give_up_s
                if late or (self.cancelled and asked_s > CANCELLED_S):
                    return Found(None, f"nobody could be asked whether it happened: {exc.message}")
                log.warning(
                    "can't find out yet what became of %s: %s",
                    self._claim.id,
                    exc.message,
                    extra={"event": "inquiry_waits", "command": self._claim.id},
                )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


async def _answer(connector: Connector, call: Call) -> tuple[int, bytes, dict[str, Any]]:
    """Return how many rows a call gave (no more than are worth counting), the first of them, and its outputs."""
    count, first = 0, b""
    outputs: dict[str, Any] = {}
    heard = False  # whether there were any rows
    pieces = connector.run(call)
    try:
        async for piece in pieces:
            if isinstance(piece, Rows):
                if not heard and piece.count:  # one so long that it comes in parts is no output
                    first = piece.data.partition(b"\n")[0]
                heard = True
                count += piece.count
                if count >= LINES:
                    break
            elif isinstance(piece, Outputs):
                outputs = dict(piece.values)
    finally:
        await pieces.aclose()
    return count, first, outputs
