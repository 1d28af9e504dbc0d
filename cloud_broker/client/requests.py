"""What every call to the broker has in common: its connection, its lists, its bodies."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from cloud_broker.client.connection import Connection
from cloud_broker.client.errors import SecondPersonWanted, UnknownAnswer, WordsError
from cloud_broker.client.records import Approval, T, decode, decode_page
from protocol.ids import new_id


class Requests:
    """Requests over one connection, and records out of their answers."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _items(self, path: str, query: Mapping[str, str], kind: type[T]) -> Iterator[T]:
        cursor: str | None = None
        while True:
            page = decode_page(self._get(path, {**query, "cursor": cursor} if cursor else query))
            for item in page.items:
                yield decode(bytes(item), kind)
            if page.next is None:
                return
            if page.next == cursor:
                raise UnknownAnswer(f"{path} gives the same page again and again")
            cursor = page.next

    def _get(self, path: str, query: Mapping[str, str] | None = None, *, wait_s: float = 0.0) -> bytes:
        return self._connection.ask("GET", path, query=query, wait_s=wait_s).content

    def _post(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> bytes:
        content = encoded({name: value for name, value in body.items() if value is not None})
        told = {"Content-Type": "application/json"} | dict(headers or {})
        answer = self._connection.ask("POST", path, content=content, headers=told)
        if answer.status_code == 202 and answer.headers.get("location", "").startswith("/v1/approvals/"):
            raise SecondPersonWanted(decode(answer.content, Approval))
        return answer.content


def new_key() -> str:
    """Return a new idempotency key."""
    return new_id("idem", time.time_ns() // 1_000_000, os.urandom)


def part(name: str) -> str:
    """Return a name as one segment of a path; one with dots only would climb out of it."""
    if name.strip(".") == "":
        raise WordsError(f"wants a name or an id, found {name!r}")
    return quote(name, safe="")


_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")


def encoded(body: Mapping[str, Any]) -> bytes:
    """
    Return a body as JSON.

    Raises:
        WordsError: something in it is no JSON value.
    """
    try:
        # msgspec writes null for what is no number, and a caller would not know.
        json.dumps(body, allow_nan=False, default=str)
        return _ENCODER.encode(body)
    except UnicodeEncodeError as exc:
        raise WordsError(f"{exc.object[max(0, exc.start - 20) : exc.end]!r} holds something else than UTF-8") from exc
    except (TypeError, ValueError, RecursionError) as exc:
        raise WordsError(f"the parameters are no JSON values: {exc}") from exc
