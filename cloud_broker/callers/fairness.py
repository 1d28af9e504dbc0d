"""
Turns between tenants: what one has waiting, however much, costs another at most a turn.

``Turns`` decides and waits for nothing; ``Gate`` is the door that asks it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

Ticket = TypeVar("Ticket")


class Turns(Generic[Ticket]):
    """
    Who goes next: each tenant has a line of its own, and the lines take turns.

    Args:
        at_once: how many may be inside.
        each: how many of one tenant; fewer, so that who comes with nothing inside finds a place.
    """

    def __init__(self, at_once: int, each: int) -> None:
        self._at_once = at_once
        self._each = each
        self._inside: Counter[str] = Counter()
        self._count = 0
        self._lines: OrderedDict[str, deque[Ticket]] = OrderedDict()  # the tenant whose turn is next comes first

    def __repr__(self) -> str:
        return f"<Turns {self._count} inside, {sum(map(len, self._lines.values()))} waiting>"

    def ask(self, tenant: str, ticket: Ticket) -> bool:
        """Stand in line; return whether it may go in at once."""
        # With a line there is either no room, or none for this tenant.
        if tenant not in self._lines and self._room(tenant):
            self._enter(tenant)
            return True
        self._lines.setdefault(tenant, deque()).append(ticket)
        return False

    def give_up(self, tenant: str, ticket: Ticket) -> bool:
        """Step out of the line; return False if it was told to go in already."""
        line = self._lines.get(tenant)
        if line is None or ticket not in line:
            return False
        line.remove(ticket)
        if not line:
            del self._lines[tenant]
        return True

    def leave(self, tenant: str) -> list[Ticket]:
        """Go out; return those who may go in now."""
        self._count -= 1
        self._inside[tenant] -= 1
        if self._inside[tenant] == 0:
            del self._inside[tenant]
        called: list[Ticket] = []
        while (following := self._next()) is not None:
            line = self._lines.pop(following)
            called.append(line.popleft())
            if line:
                self._lines[following] = line  # last: all others come before it again
            self._enter(following)
        return called

    def _next(self) -> str | None:
        return next((tenant for tenant in self._lines if self._room(tenant)), None)

    def _room(self, tenant: str) -> bool:
        return self._count < self._at_once and self._inside[tenant] < self._each

    def _enter(self, tenant: str) -> None:
        self._count += 1
        self._inside[tenant] += 1


class Gate:
    """A door with so many places behind it; who waits, waits for the turn of its tenant."""

    def __init__(self, at_once: int, each: int) -> None:
        self._turns: Turns[asyncio.Future[None]] = Turns(at_once, each)

    def __repr__(self) -> str:
        return f"<Gate {self._turns!r}>"

    async def enter(self, tenant: str) -> None:
        """Wait for a place; who has one leaves it with ``leave``."""
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._turns.ask(tenant, called):
            return
        try:
            await called
        except asyncio.CancelledError:
            if not self._turns.give_up(tenant, called):
                self.leave(tenant)
            raise

    def leave(self, tenant: str) -> None:
        """Give a place back."""
        for called in self._turns.leave(tenant):
            if not called.done():
                called.set_result(None)

    @asynccontextmanager
    async def place(self, tenant: str) -> AsyncIterator[None]:
        """Have a place within a block."""
        await self.enter(tenant)
        try:
            yield
        finally:
            self.leave(tenant)
