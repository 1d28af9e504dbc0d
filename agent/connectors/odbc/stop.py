"""How one thread stops what a session runs in another."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import pyodbc


class Stop:
    """
    How what runs is stopped from another thread, which never has anything of the session for itself.

    pyodbc lets other threads run while it frees a cursor, and frees it in whichever thread lets go of it last. In one
    that is not the session's, this meets the session at work or closing: then the process is lost, or waits for ever.
    """

    def __init__(self) -> None:
        self._at_work = threading.Lock()
        self._way: Callable[[], None] | None = None

    def by(self, way: Callable[[], None]) -> None:
        """Take the way to stop the statement that comes next."""
        self._put(way)

    def not_any_more(self) -> None:
        """Let nobody stop anything; whoever is about to is waited for, lest it stops what comes next."""
        self._put(None)

    def _put(self, way: Callable[[], None] | None) -> None:
        with self._at_work:
            last, self._way = self._way, way
        del last  # a cursor is freed with the lock open: its driver may read the rest of a result first

    def now(self) -> None:
        """Stop what runs, from any thread; nothing where nothing does."""
        with self._at_work, contextlib.suppress(pyodbc.Error):
            if self._way is not None:
                self._way()
