"""
Turns between tenants: what one has waiting, however much, costs another at most a turn.

``Usage`` counts and ``Turns`` decides, both wait for nothing; ``Gate`` is the door that asks them.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Generic, TypeVar

WINDOW_S: Final = 5.0  # seconds; what was asked in this window and in the one before is what counts
GREEDY: Final = 8.0  # times what the others ask on average
FEW: Final = 100  # requests of a window that are no flood, whatever others ask
LONGEST_REST_S: Final = 0.05  # seconds

Ticket = TypeVar("Ticket")


class Usage:
    """Who asked how much lately, and who so much more than the others that they feel it."""

    def __init__(self) -> None:
        self._began = 0.0
        self._now: Counter[str] = Counter()
        self._before: Counter[str] = Counter()
        self._total = 0

    def note(self, tenant: str, now: float, count: int = 1) -> None:
        """Count what a tenant asks."""
        if now - self._began >= WINDOW_S:
            # Of a window long ago nothing is left.
            self._before = self._now if now - self._began < 2 * WINDOW_S else Counter()
            self._now = Counter()
            self._began = now
            self._total = self._before.total()
        self._now[tenant] += count
        self._total += count

    def greedy(self, tenant: str) -> bool:
        """Whether a tenant asks many times as much as the others who are about; nobody is while there are no others."""
        mine = self._now[tenant] + self._before[tenant]
        others = max(len(self._now), len(self._before)) - 1
        return mine > FEW and others > 0 and mine > GREEDY * (self._total - mine) / others


class Turns(Generic[Ticket]):
    """
    Who goes next: each tenant has a line of its own, and the lines take turns.

    Args:
        at_once: how many may be inside.
        each: how many of one tenant; fewer, so that who comes with nothing inside finds a place.
        greedy: whether a tenant may have one inside only, and none while it rests.
    """

    def __init__(self, at_once: int, each: int, greedy: Callable[[str], bool] = lambda _: False) -> None:
        self._at_once = at_once
        self._each = each
        self._greedy = greedy
        self._resting: set[str] = set()
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

    def leave(self, tenant: str, *, rests: bool = False) -> list[Ticket]:
        """Go out; return those who may go in now. A tenant that rests sends none in until it has ``rested``."""
        self._count -= 1
        self._inside[tenant] -= 1
        if self._inside[tenant] == 0:
            del self._inside[tenant]
        if rests:
            self._resting.add(tenant)
        return self._called()

    def rested(self, tenant: str) -> list[Ticket]:
        """Return those who may go in because a tenant has rested."""
        self._resting.discard(tenant)
        return self._called()

    def _called(self) -> list[Ticket]:
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
        if self._count >= self._at_once or self._inside[tenant] >= self._each or tenant in self._resting:
            return False
        return self._inside[tenant] == 0 or not self._greedy(tenant)

    def _enter(self, tenant: str) -> None:
        self._count += 1
        self._inside[tenant] += 1


class Gate:
    """
    A door with so many places behind it; who waits, waits for the turn of its tenant.

    Args:
        usage: who asks many times as much as the others goes in one by one, and rests after each for as long as it
            took: so at least half of the time is for the others, and what they meet inside is short.
    """

    def __init__(self, at_once: int, each: int, usage: Usage | None = None) -> None:
        self._usage = usage
        self._turns: Turns[asyncio.Future[None]] = Turns(at_once, each, usage.greedy if usage is not None else _nobody)
        self._entered: dict[str, float] = {}  # when the last one of a tenant went in

    def __repr__(self) -> str:
        return f"<Gate {self._turns!r}>"

    async def enter(self, tenant: str) -> None:
        """Wait for a place; who has one leaves it with ``leave``."""
        loop = asyncio.get_running_loop()
        if self._usage is not None:
            self._usage.note(tenant, loop.time())
        called: asyncio.Future[None] = loop.create_future()
        if self._turns.ask(tenant, called):
            self._entered[tenant] = loop.time()
            return
        try:
            await called
            self._entered[tenant] = loop.time()
        except asyncio.CancelledError:
            if not self._turns.give_up(tenant, called):
                self.leave(tenant)
            raise

    def leave(self, tenant: str) -> None:
        """Give a place back."""
        entered = self._entered.pop(tenant, None)
        rests = self._usage is not None and entered is not None and self._usage.greedy(tenant)
        if rests and entered is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(min(loop.time() - entered, LONGEST_REST_S), self._rested, tenant)
        _call(self._turns.leave(tenant, rests=rests))

    def _rested(self, tenant: str) -> None:
        _call(self._turns.rested(tenant))

    @asynccontextmanager
    async def place(self, tenant: str) -> AsyncIterator[None]:
        """Have a place within a block."""
        await self.enter(tenant)
        try:
            yield
        finally:
            self.leave(tenant)


def _call(waiting: list[asyncio.Future[None]]) -> None:
    for called in waiting:
        if not called.done():
            called.set_result(None)


def _nobody(tenant: str) -> bool:
    return False
