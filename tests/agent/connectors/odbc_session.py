"""One driver session for a test: operations as in the operator's file, results as plain values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agent.connectors.base import Call, Column, DriverSetup, Outputs, Piece, Remark, Rows, RowSet
from agent.connectors.odbc.driver import OdbcDriver
from agent.settings import OdbcConnection, Operation
from agent.settings_reader import read


@dataclass
class Result:
    """What a call returned."""

    columns: list[tuple[Column, ...]] = field(default_factory=list)
    rows: list[list[dict[str, Any]]] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)

    @property
    def types(self) -> list[str]:
        """Types of the columns of the first row set."""
        return [column.type for column in self.columns[0]]


class Session:
    """A driver with any number of operations."""

    def __init__(self, connection_string: str, **settings: Any) -> None:
        connection = OdbcConnection(type="odbc", connection_string=connection_string, **settings)
        self.operations: dict[str, Operation] = {}
        self.driver = OdbcDriver(DriverSetup("erp", connection, self.operations))
        self.driver.open()

    def define(self, name: str = "op", **keys: Any) -> str:
        """Put an operation into the agent's file."""
        self.operations[name] = read({"connection": "erp", "effect": "idempotent", **keys}, Operation)
        return name

    def pieces(self, name: str, params: dict[str, Any] | None = None, timeout_s: float = 30.0) -> Iterator[Piece]:
        """Run an operation."""
        return self.driver.run(Call("c1", name, json.dumps(params or {}).encode(), timeout_s))

    def run(self, given: dict[str, Any] | None = None, /, *, timeout_s: float = 30.0, **keys: Any) -> Result:
        """Define an operation, run it, and collect all that comes."""
        result = Result()
        for piece in self.pieces(self.define(**keys), given, timeout_s):
            result.pieces.append(piece)
            if isinstance(piece, RowSet):
                result.columns.append(piece.columns)
                result.rows.append([])
            elif isinstance(piece, Rows):
                lines = [json.loads(line) for line in piece.data.splitlines()]
                assert len(lines) == piece.count
                assert piece.data.endswith(b"\n")
                result.rows[-1] += lines
            elif isinstance(piece, Outputs):
                result.outputs = json.loads(msgspec.json.encode(piece.values))
            elif isinstance(piece, Remark):
                result.remarks.append(piece.message)
        assert isinstance(result.pieces[-1], Outputs)
        return result

    def value(self, sql: str, given: dict[str, Any] | None = None, /, **keys: Any) -> Any:
        """Return the first value of the first row of a SELECT."""
        result = self.run(given, sql=sql, effect="read", **keys)
        return next(iter(result.rows[0][0].values()))


@contextmanager
def session(connection_string: str, **settings: Any) -> Iterator[Session]:
    """Open a session for the block."""
    opened = Session(connection_string, **settings)
    try:
        yield opened
    finally:
        opened.driver.close()
