"""
What a connector is, on both sides of its process.

A *driver* (``Driver``) is blocking code: one session to one local system. It lives in
a child process of its own (``worker.py``), so that a hang or a crash of vendor code costs that
session and not the agent. The agent's side of it is a *connector* (``Connector``): many
sessions, deadlines, cancel. Connectors that cannot hang (``synthetic``) implement ``Connector`` directly.

Results are a sequence of pieces: any number of row sets, each ``RowSet`` followed by
its ``Rows``, and one ``Outputs`` at the end.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, Literal

import msgspec

from agent.errors import OutcomeUnknown
from agent.settings import Connection, Operation

ColumnType = Literal[
    "string", "integer", "decimal", "number", "boolean", "date", "datetime", "time", "binary", "json", "uuid"
]


class Column(msgspec.Struct, frozen=True):
    """
    One column of a row set.

    Attributes:
        name: unique within its row set; a repeated name gets a suffix ``_2``, ``_3``…
        type: how its values stand in JSON: decimal as string, datetime, date and time as
            RFC 3339 (without offset where the source has no zone), binary as base64, json as
            itself, everything else as the JSON type of its name.
        source_type: the source's own word for it, such as ``timestamptz``; "" if it does not say.
    """

    name: str
    type: ColumnType
    source_type: str = ""


RowsAs = Literal["ndjson", "arrow"]


class RowSet(msgspec.Struct, frozen=True):
    """
    A row set begins; the ``Rows`` that follow are its rows.

    Attributes:
        rows_as: what their bytes are: NDJSON, or one stream of Arrow's IPC format.
    """

    columns: tuple[Column, ...]
    rows_as: RowsAs = "ndjson"


class Rows(msgspec.Struct, frozen=True):
    """
    Some rows of the current row set.

    Attributes:
        data: NDJSON, one object per line with all columns in order, each line ended by a newline;
            whole lines from a driver; to the dispatcher a very long one may come in parts. Or a part of an Arrow
            stream, which may be cut anywhere.
        count: how many rows end in it.
    """

    data: bytes
    count: int


class Outputs(msgspec.Struct, frozen=True):
    """
    What the operation returned besides rows: OUT parameters, SOAP body, file receipt.

    JSON values only; ``msgspec.Raw`` where a value is to stay as it was written.

    Attributes:
        rows: only from ``find``: how many rows came with it then, which the source does not keep.
    """

    values: dict[str, Any]
    rows: int = 0


class Remark(msgspec.Struct, frozen=True):
    """Something the caller should know that is no error, such as a type the driver is known to spoil."""

    message: str


class Ready(msgspec.Struct, frozen=True):
    """
    All rows are out and nothing is kept at the source yet.

    The source goes on, and commits, when the next piece is asked for: until then what came can be made durable. Only
    from operations with an effect that must not happen twice, and only where there were rows.
    """


Piece = RowSet | Rows | Outputs | Remark | Ready


class Call(msgspec.Struct, frozen=True):
    """
    One run of one operation.

    Attributes:
        command_id: of the command; drivers use it for temporary names and for their ledger.
        operation: its name in the operator's file.
        params: JSON bytes of an object, already checked against the operator's types.
        timeout_s: seconds until the work must have ended.
        epoch: of the attempt.
        fingerprint: of operation and parameters; tells a repeat of this command from another of the same id.
        place: a word for who works with the ledger: left there before a run, and wanted there by ``find``, which else
            can't tell; "" asks for neither.
        begin_by: on the clock of ``agent.awake``: later than that it may not begin; 0 sets no time.
        rows_as: as what its rows are wanted; a driver that can't refuses.
        content: the file with the content of a drop that ``params`` only name; "" where there is none.
        content_sha256: of that file, hex.
    """

    command_id: str
    operation: str
    params: bytes
    timeout_s: float
    epoch: int = 0
    fingerprint: str = ""
    place: str = ""
    begin_by: float = 0.0
    rows_as: RowsAs = "ndjson"
    content: str = ""
    content_sha256: str = ""


class Finding(msgspec.Struct, frozen=True):
    """
    One line of ``outhaul-agent check``.

    Attributes:
        subject: what was tried, such as ``connection erp``.
        ok: whether it works; ``None`` for a remark that is neither.
        detail: what was found (driver, version, …), or what is wrong.
        fix: what to do about it, where it depends on what was found; else ``code`` stands for it. "" when ok.
        code: of what failed: the key of its remedy in ``agent.check.remedies``. "" when ok.
        stage: of the check, such as ``dns``; "" takes the name of the stage that found it.
        seconds: it took; ``None`` where nobody measured.
    """

    subject: str
    ok: bool | None
    detail: str
    fix: str = ""
    code: str = ""
    stage: str = ""
    seconds: float | None = None


class DriverSetup(msgspec.Struct, frozen=True):
    """
    All that a driver process is told, over its standard input, once.

    Attributes:
        name: of the connection.
        connection: its settings, secrets in place of ``{secret:NAME}``.
        operations: those that use it, by name.
        base_dir: folder of the operator's file; relative paths start there.
        state_dir: folder the agent may write to.
        secrets: the values in ``connection`` that nothing may tell.
    """

    name: str
    connection: Connection
    operations: Mapping[str, Operation] = {}
    base_dir: str = "."
    state_dir: str = "."
    secrets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<DriverSetup {self.name}>"


class Driver(abc.ABC):
    """
    One session to one local system; blocking, used by one thread at a time.

    Every method raises only ``agent.errors.CommandError`` and its children on purpose; anything else
    is taken for a crash of the session.
    """

    def __init__(self, setup: DriverSetup) -> None:
        self.setup = setup

    @abc.abstractmethod
    def open(self) -> None:
        """
        Connect. Called once, before anything else.

        Raises:
            SourceUnavailable: it can't be reached, or refuses us.
        """

    @abc.abstractmethod
    def run(self, call: Call) -> Iterator[Piece]:
        """
        Run one operation and yield its result; closing the iterator stops the work.

        Parameters stand in ``call.params``; ``agent.parameters.decode`` turns them into Python values.

        Raises:
            SourceUnavailable: lost before the work began (``touched=False``).
            SourceRejected: the ERP's business answer.
            SourceFailed: a technical error, certainly without effect.
            TimedOut: stopped at ``call.timeout_s``, certainly without effect.
            OutcomeUnknown: contact was lost, or the timeout passed, where the effect can't be told.
        """

    def cancel(self) -> None:
        """Ask the running work to stop; called from another thread, may do nothing, must not block long."""
        return

    def find(self, call: Call) -> Outputs | None:
        """
        Find out what became of a run of ``call`` whose end nobody heard, and make sure that the answer stays true.

        Only asked about operations with ``effect = "once"``, and never while ``run`` is at work on the same command.

        Returns:
            What it returned; ``None`` if it had no effect and can have none any more, however late its session is.

        Raises:
            SourceUnavailable: it can't be told now; ask again.
            OutcomeUnknown: it can't be told, ever.
        """
        raise OutcomeUnknown("this connection keeps no record of what was done")

    def settle(self, call: Call, outputs: Mapping[str, Any]) -> None:
        """The broker has the whole result of ``call``: do what was to follow, such as archiving what was picked."""
        return

    def alive(self) -> bool:
        """Whether the session can take another call; asked before each call after the first."""
        return True

    def describe(self, operation: str) -> dict[str, Any] | None:
        """
        Return the JSON Schema of an operation's parameters as the source itself knows them, or ``None``.

        Only for operations whose types stand elsewhere than in the operator's file (WSDL).
        """
        return None

    def check(self, operation: str | None = None) -> Iterator[Finding]:
        """Try the connection (after ``open``), or one operation without running it; used by ``outhaul-agent check``."""
        return iter(())

    def close(self) -> None:
        """Give the session back; never raises."""
        return


class Connector(abc.ABC):
    """The agent's side of one connection."""

    @abc.abstractmethod
    def run(self, call: Call) -> AsyncGenerator[Piece, None]:
        """
        Run one operation and yield its result as it comes.

        Nothing is read ahead of the consumer beyond one batch. Closing the generator stops the work
        at the source: asks the driver first, ends its process after that.

        Raises:
            CommandError: as ``Driver.run``; also ``DriverCrashed``.
        """

    def cancel(self, command_id: str) -> None:
        """Ask a running command to stop; ``run`` then ends soon, one way or the other."""
        return

    async def find(self, call: Call) -> Outputs | None:
        """As ``Driver.find``; also raises ``DriverCrashed``, after which it may be asked again."""
        raise OutcomeUnknown("this connection keeps no record of what was done")

    async def settle(self, call: Call, outputs: Mapping[str, Any]) -> None:
        """As ``Driver.settle``."""
        return

    async def describe(self, operation: str) -> dict[str, Any] | None:
        """As ``Driver.describe``."""
        return None

    async def check(self, operation: str | None = None) -> list[Finding]:
        """As ``Driver.check``, opening included; never raises."""
        return []

    async def close(self) -> None:
        """End all sessions; never raises."""
        return
