"""A SQLite file that is open: its writing thread, its reading threads, and named queries on them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cloud_broker.settings import ConfigError
from cloud_broker.store import records, schema
from cloud_broker.store.connections import Readers, Writer, connect_to_write
from cloud_broker.store.queries import QUERIES
from cloud_broker.store.together import Kind

T = TypeVar("T")


class SqliteFile:
    """
    WAL, ``synchronous=FULL``, one writing thread with group commit.

    What it promises survives the loss of the process and of the machine's power, not of its disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: Writer | None = None
        self._points: Readers | None = None
        self._lists: Readers | None = None

    def __repr__(self) -> str:
        return f"<SqliteStore {self.path} {'open' if self._writer else 'closed'}>"

    async def open(self) -> None:
        """Open it, made if it is not there."""
        await asyncio.to_thread(_prepare, self.path)
        self._writer = Writer(self.path)
        # Looking one thing up is short, and many callers are answered together;
        # a list may be long, and must not keep those waiting.
        self._points = Readers(self.path, threads=1, together=64)
        self._lists = Readers(self.path, threads=2, together=1)

    async def close(self) -> None:
        """Finish what was asked and close."""
        writer, points, lists = self._writer, self._points, self._lists
        self._writer = self._points = self._lists = None
        if writer is not None and points is not None and lists is not None:
            await points.close()
            await lists.close()
            # Last: the last connection to close tidies the write-ahead log away, and only this one may write.
            await writer.close()

    @property
    def commits(self) -> int:
        """How many transactions there were since it was opened."""
        return self._opened(self._writer).commits

    def _opened(self, part: T | None) -> T:
        if part is None:
            raise RuntimeError(f"{self!r}: it is not open")
        return part

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._opened(self._writer).write(work)

    async def _change(self, query: str, **bound: Any) -> int:
        """Return how many rows the named query changed."""
        return await self._write(lambda connection: connection.execute(QUERIES[query], bound).rowcount)

    def _write_one(self, kind: Kind, about: str, given: object) -> asyncio.Future[Any]:
        return self._opened(self._writer).write_one(kind, about, given)

    def _send_one(self, kind: Kind, about: str, given: object) -> None:
        self._opened(self._writer).send_one(kind, about, given)

    def _send(self, query: str, **bound: Any) -> None:
        self._opened(self._writer).send(lambda connection: connection.execute(QUERIES[query], bound))

    async def _one(self, read: Callable[[records.Row], T], query: str, **bound: Any) -> T | None:
        def work(connection: sqlite3.Connection) -> T | None:
            row = connection.execute(QUERIES[query], bound).fetchone()
            return read(row) if row else None

        return await self._opened(self._points).read(work)

    async def _read_list(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._opened(self._lists).read(work)

    async def _all(self, read: Callable[[records.Row], T], query: str, **bound: Any) -> list[T]:
        def work(connection: sqlite3.Connection) -> list[T]:
            return [read(row) for row in connection.execute(QUERIES[query], bound)]

        return await self._read_list(work)


def _prepare(path: Path) -> None:
    try:
        connection = connect_to_write(path)
        try:
            schema.make_or_check(connection, path)
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as exc:
        raise ConfigError(f"{path}: can't be opened as the broker's store: {exc}") from exc
