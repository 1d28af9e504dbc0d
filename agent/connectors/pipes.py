"""What the agent and its driver processes say to each other over pipes; records as in ``protocol.framing``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from agent import errors
from agent.connectors.base import Column, Finding, RowsAs
from agent.discretion import hushed
from agent.settings import Connection, Operation


class Said(msgspec.Struct, frozen=True, tag_field="kind"):
    """Anything said on a pipe."""


class Setup(Said, frozen=True):
    """
    First word to a driver process: which driver, and ``DriverSetup`` as JSON. Secrets come only this way.

    Attributes:
        secrets: the values among them, which no word back may hold.
    """

    driver: str
    name: str
    connection: Connection
    operations: Mapping[str, Operation]
    base_dir: str
    state_dir: str
    secrets: tuple[str, ...] = ()


class Do(Said, frozen=True):
    """Run an operation; payload: its parameters."""

    command_id: str
    operation: str
    timeout_s: float
    epoch: int
    fingerprint: str
    place: str = ""
    begin_by: float = 0.0
    rows_as: RowsAs = "ndjson"
    content: str = ""
    content_sha256: str = ""


class GoOn(Said, frozen=True):
    """Answers ``Prepared``: what came is kept, the source may keep its part."""


class Stop(Said, frozen=True):
    """Ask the driver to stop what it runs."""


class Find(Said, frozen=True):
    """Ask what became of a run; payload: its parameters."""

    command_id: str
    operation: str
    timeout_s: float
    epoch: int
    fingerprint: str
    place: str = ""


class Settle(Said, frozen=True):
    """The broker has the result of this run; payload: its outputs, JSON."""

    command_id: str
    operation: str
    epoch: int


class Describe(Said, frozen=True):
    """Ask for the JSON Schema of an operation's parameters."""

    operation: str


class Check(Said, frozen=True):
    """Ask what works; ``None`` for the connection itself."""

    operation: str | None = None


class Columns(Said, frozen=True):
    """A row set begins."""

    columns: tuple[Column, ...]
    rows_as: RowsAs = "ndjson"


class SomeRows(Said, frozen=True):
    """Rows of it; payload: as ``Rows.data``."""

    count: int


class Values(Said, frozen=True):
    """Outputs; payload: a JSON object."""


class Remarked(Said, frozen=True):
    """Something the caller should know."""

    message: str


class Prepared(Said, frozen=True):
    """All rows are out; the driver waits for ``GoOn`` before anything is kept at the source."""


class Recalled(Said, frozen=True):
    """What a run that is asked for with ``Find`` returned; payload: its outputs. Not said of one without effect."""

    rows: int


class Found(Said, frozen=True):
    """One line of a check."""

    finding: Finding


class Done(Said, frozen=True):
    """What was asked is done; after Describe the payload is a JSON Schema, or nothing."""


class Failed(Said, frozen=True):
    """What was asked could not be done: an error of ``agent.errors``, by its class name."""

    error: str
    message: str
    source_code: str
    touched: bool
    may_work_later: bool
    remedy: str


ToDriver = Setup | Do | GoOn | Stop | Find | Settle | Describe | Check
FromDriver = Columns | SomeRows | Values | Remarked | Prepared | Recalled | Found | Done | Failed

ENCODER: Final = msgspec.json.Encoder()
TO_DRIVER: Final = msgspec.json.Decoder(ToDriver)
FROM_DRIVER: Final = msgspec.json.Decoder(FromDriver)


def failure(error: errors.CommandError) -> Failed:
    """Put an error into words for the pipe."""
    return Failed(
        type(error).__name__,
        hushed(error.message),
        error.source_code,
        error.touched,
        error.may_work_later,
        error.remedy,
    )


def error_of(failed: Failed) -> errors.CommandError:
    """Return the error that a driver process reported."""
    found = getattr(errors, failed.error, None)
    if not (isinstance(found, type) and issubclass(found, errors.CommandError)):
        found = errors.SourceFailed
    return found(
        failed.message,
        source_code=failed.source_code,
        touched=failed.touched,
        may_work_later=failed.may_work_later,
        remedy=failed.remedy,
    )
