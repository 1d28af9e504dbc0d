"""No outside system: for probes and load tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final

from agent import errors
from agent.connectors.base import Call, Column, Connector, DriverSetup, Outputs, Piece, Ready, Rows, RowSet
from agent.connectors.rows import RowEncoder, outputs_of
from agent.leaving import Leaving, columns_missing, too_many
from agent.parameters import decode
from agent.settings import SyntheticOperation

BATCH_ROWS: Final = 500
DEFAULT_WIDTH: Final = 8
FAILURES: Final = {
    "rejected": errors.SourceRejected,
    "failed": errors.SourceFailed,
    "unavailable": errors.SourceUnavailable,
    "unknown": errors.OutcomeUnknown,
}


class SyntheticConnector(Connector):
    """
    ``echo`` returns its parameters, ``rows`` makes rows, ``sleep`` takes its time, ``fail`` fails as it is told.

    What was done ``once`` is remembered as long as the agent runs.
    """

    def __init__(self, setup: DriverSetup) -> None:
        self._setup = setup
        self._running: dict[str, asyncio.Event] = {}
        self._done: dict[str, Outputs] = {}  # by command

    async def run(self, call: Call) -> AsyncGenerator[Piece, None]:
        operation = self._setup.operations[call.operation]
        if not isinstance(operation, SyntheticOperation):
            raise errors.OperationUnknown(f"{call.operation}: not a synthetic operation", touched=False)
        stop = self._running[call.command_id] = asyncio.Event()
        rows = 0
        try:
            async for piece in _pieces(operation, call, stop):
                rows += piece.count if isinstance(piece, Rows) else 0
                if operation.max_rows is not None and rows > operation.max_rows:
                    raise too_many(call.operation, operation.max_rows)
                if not isinstance(piece, Outputs):
                    yield piece
                    continue
                if rows and operation.effect not in ("read", "idempotent"):
                    yield Ready()
                if operation.effect == "once":
                    self._done[call.command_id] = Outputs(piece.values, rows)
                yield piece
        finally:
            del self._running[call.command_id]

    async def find(self, call: Call) -> Outputs | None:
        return self._done.get(call.command_id)

    def cancel(self, command_id: str) -> None:
        """Wake a sleeper, end a maker of rows."""
        if command_id in self._running:
            self._running[command_id].set()


async def _pieces(operation: SyntheticOperation, call: Call, stop: asyncio.Event) -> AsyncGenerator[Piece, None]:
    if operation.synthetic == "echo":
        yield Outputs(outputs_of(call.params))
        return
    values = decode(operation, call.params)
    if operation.synthetic == "rows":
        leaving = Leaving(operation)
        async for piece in _rows(values.get("count", 0), values.get("width", DEFAULT_WIDTH), leaving, stop):
            yield piece
        if missing := leaving.missing():
            raise errors.SourceFailed(f"{call.operation}: {columns_missing(call.operation, missing)}")
        yield Outputs({})
    elif operation.synthetic == "sleep":
        await _sleep(float(values.get("seconds", 0)), call.timeout_s, stop)
        yield Outputs({"slept": float(values.get("seconds", 0))})
    else:
        kind = str(values.get("kind", "failed"))
        error = FAILURES.get(kind, errors.SourceFailed)
        raise error(str(values.get("message", f"asked to fail: {kind}")), source_code="SYNTH")


async def _sleep(wanted_s: float, timeout_s: float, stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(min(wanted_s, timeout_s)):
            await stop.wait()
    except TimeoutError:
        if wanted_s > timeout_s:
            raise errors.TimedOut(f"slept for the whole timeout of {timeout_s:g} s") from None
        return
    raise errors.Cancelled("it was cancelled in its sleep")


async def _rows(count: int, width: int, leaving: Leaving, stop: asyncio.Event) -> AsyncGenerator[Piece, None]:
    made = [Column("n" if i == 0 else f"c{i}", "integer" if i == 0 else "string", "synthetic") for i in range(width)]
    columns = [column for column in made if leaving.lets(column.name)]
    if not columns:
        return
    yield RowSet(tuple(columns))
    encoder = RowEncoder(columns, [column.name for column in columns if leaving.hides(column.name)])
    numbered = columns[0].name == "n"
    filler: list[Any] = [f"value {column.name[1:]}" for column in columns[numbered:]]
    for start in range(0, count, BATCH_ROWS):
        numbers = range(start, min(start + BATCH_ROWS, count))
        yield encoder.encode([(n, *filler) if numbered else filler for n in numbers])
        # A fast consumer never makes us wait: let others have their turn.
        await asyncio.sleep(0)
        if stop.is_set():
            raise errors.Cancelled("it was cancelled among its rows")
