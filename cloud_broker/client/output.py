"""How answers are written to standard output, and times are read and shown."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cloud_broker.client.connect import DONE, seconds
from cloud_broker.client.errors import WordsError

if TYPE_CHECKING:
    from cloud_broker.client.tables import Tables


def tables() -> Tables:
    """Return tables on standard output."""
    # Deferred: see cli.py.
    from cloud_broker.client.tables import Tables

    return Tables()


def write(document: bytes) -> int:
    """Write one JSON document to standard output."""
    sys.stdout.buffer.write(document.strip() + b"\n")
    sys.stdout.buffer.flush()
    return DONE


def write_items(documents: Iterable[bytes]) -> int:
    """Write a list of JSON documents, as the HTTP API does."""
    return write(b'{"items": [' + b",\n".join(document.strip() for document in documents) + b"]}")


def local(moment: datetime | None) -> str | None:
    """Return a time as the clock on the wall shows it."""
    return None if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def moment(option: str, text: str) -> datetime:
    """
    Return the time that ``1h`` (ago), ``2026-01-31`` or a time with its offset means.

    Raises:
        WordsError: it means none.
    """
    ago_s = seconds(text)
    if ago_s is not None:
        return datetime.now(UTC) - timedelta(seconds=ago_s)
    try:
        # Without an offset it is the caller's own clock.
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as exc:
        raise WordsError(f"{option}: wants 1h, 2026-01-31 or 2026-01-31T14:00:00+01:00, found {text!r}") from exc
