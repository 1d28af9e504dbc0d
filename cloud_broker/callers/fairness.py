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
GROUP: Final = 16  # requests of a greedy tenant that go in together: so few that who comes among them waits shortly
REST: Final = 5.0  # times what a greedy tenant's requests took: that long the others have all for themselves
LONGEST_REST_S: Final = 0.05  # seconds

Ticket = TypeVar("Ticket")


class Usage:
    """Who asked how much lately, and who so much more than the others that they feel it."""

    def __init__(self) -> None:
        self._began = 0.0
        self._now: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._total = 0

    def note(self, tenant: str, now: float, count: int = 1) -> None:
        """Count what a tenant asks."""
        if now - self._began >= WINDOW_S:
            # Of a window long ago nothing is left.
            self._before = self._now if now - self._began < 2 * WINDOW_S else {}
            self._now = {}
            self._began = now
            self._total = sum(self._before.values())
        self._now[tenant] = self._now.get(tenant, 0) + count
        self._total += count

    def greedy(self, tenant: str) -> bool:
        """Whether a tenant asks many times as much as the others who are about; nobody is while there are no others."""
        others = max(len(self._now), len(self._before)) - 1
        if others <= 0:
            return False
        mine = self._now.get(tenant, 0) + self._before.get(tenant, 0)
        return mine > FEW and mine > GREEDY * (self._total - mine) / others


class Turns(Generic[Ticket]):
    """
    Who goes next: each tenant has a line of its own, and the lines take turns.

    Args:
        at_once: how many may be inside.
        each: how many of one tenant; fewer, so that who comes with nothing inside finds a place.
        greedy: whether a tenant's tickets go in as a group, and no more before it has left and rested.
        group: how many that are.
    """

    def __init__(
        self, at_once: int, each: int, greedy: Callable[[str], bool] = lambda _: False, group: int = GROUP
    ) -> None:
        self._at_once = at_once
        self._each = each
        self._greedy = greedy
        self._group = group
        self._resting: set[str] = set()
        self._opened_for: str | None = None  # whose group goes in now
        self._inside: Counter[str] = Counter()
        self._count = 0
        self._lines: OrderedDict[str, deque[Ticket]] = OrderedDict()  # the tenant whose turn is next comes first

    def __repr__(self) -> str:
        return f"<Turns {self._count} inside, {sum(map(len, self._lines.values()))} waiting>"

    def ask(self, tenant: str, ticket: Ticket) -> bool:
        """Stand in line; return whether it may go in at once."""
        if self.goes_in(tenant):
            return True
        self._lines.setdefault(tenant, deque()).append(ticket)
        return False

    def goes_in(self, tenant: str) -> bool:
        """Go in if that can be at once."""
        # With a line there is either no room, or none for this tenant.
        if tenant in self._lines or not self._room(tenant):
            return False
        self._enter(tenant)
        return True

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
        """Go out; return those who may go in now. A greedy tenant sends none in from now on until it has ``rested``."""
        self._count -= 1
        self._inside[tenant] -= 1
        if self._inside[tenant] == 0:
            del self._inside[tenant]
        if self._greedy(tenant):
            self._resting.add(tenant)
        return self._called()

    def inside(self, tenant: str) -> int:
        """Return how many of a tenant are inside."""
        return self._inside[tenant]

    def rests(self, tenant: str) -> bool:
        """Whether all of a tenant have left, and it rests."""
        return tenant in self._resting and not self._inside[tenant]

    def rested(self, tenant: str) -> list[Ticket]:
        """Return those who may go in because a tenant has rested."""
        self._resting.discard(tenant)
        self._opened_for = tenant
        called = self._called()
        self._opened_for = None
        return called

    def _called(self) -> list[Ticket]:
        called: list[Ticket] = []
        if not self._lines:
            return called
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
        if self._inside[tenant] == 0 or not self._greedy(tenant):
            return True
        return tenant == self._opened_for and self._inside[tenant] < self._group

    def _enter(self, tenant: str) -> None:
        self._count += 1
        self._inside[tenant] += 1


class Gate:
    """
    A door with so many places behind it; who waits, waits for the turn of its tenant.

    Args:
        usage: who asks many times as much as the others goes in as a group, and rests after it for longer than it took:
            so most of the time is for the others, and what was asked together is kept together, which costs least.
    """

    def __init__(self, at_once: int, each: int, usage: Usage | None = None) -> None:
        self._usage = usage
        self._turns: Turns[asyncio.Future[None]] = Turns(at_once, each, usage.greedy if usage is not None else _nobody)
        self._entered: dict[str, float] = {}  # when the first of those inside went in, by tenant

    def __repr__(self) -> str:
        return f"<Gate {self._turns!r}>"

    async def enter(self, tenant: str) -> None:
        """Wait for a place; who has one leaves it with ``leave``."""
        loop = asyncio.get_running_loop()
        if self._usage is not None:
            self._usage.note(tenant, loop.time())
        if self._turns.goes_in(tenant):
            self._entered.setdefault(tenant, loop.time())
            return
        called: asyncio.Future[None] = loop.create_future()
        self._turns.ask(tenant, called)
        try:
            await called
            self._entered.setdefault(tenant, loop.time())
        except asyncio.CancelledError:
            if not self._turns.give_up(tenant, called):
                self.leave(tenant)
            raise

    def more(self, tenant: str, count: int) -> None:
        """Count what a tenant asks with one coming in, beyond the first."""
        if self._usage is not None and count > 0:
            self._usage.note(tenant, asyncio.get_running_loop().time(), count)

    def leave(self, tenant: str) -> None:
        """Give a place back."""
        called = self._turns.leave(tenant)
        if self._turns.rests(tenant):
            loop = asyncio.get_running_loop()
            took_s = loop.time() - self._entered.pop(tenant, loop.time())
            loop.call_later(min(REST * took_s, LONGEST_REST_S), self._rested, tenant)
        elif not self._turns.inside(tenant):
            self._entered.pop(tenant, None)
        _call(called)

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
