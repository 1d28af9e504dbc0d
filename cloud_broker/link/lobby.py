"""The lobby of the agents' port: who has come, and of whom it is not known yet who it is. Waits for nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cloud_broker.link.terminators import Terminators

# Seconds that a guest stays for certain: longer than an honest one takes over any line, satellites included, and a
# fraction of what those get who say nothing.
PATIENCE_S: Final = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Guest:
    """
    One connection of somebody unknown.

    Attributes:
        place: what is counted as one address.
        came_at: seconds, by the clock that ``Lobby.enter`` is given.
        send_away: ends the connection.
    """

    place: str
    came_at: float
    send_away: Callable[[], None]


class Lobby:
    """
    So many guests at once, and so many of one address; whoever is known leaves the lobby and counts no more, so a
    site with any number of agents behind one address is not kept out.

    Where there is no room, the one who has been there longest makes some, once its patience is over: those who hold
    places with silence lose them to those who come to speak.

    Args:
        most: guests; 0 for any number.
        each: of one address; 0 for any number.
        front: TLS terminators, whose addresses stand for those of many.
    """

    def __init__(self, most: int, each: int, front: Terminators) -> None:
        self._most = most
        self._each = each
        self._front = front
        # Who came first comes first.
        self._guests: dict[Guest, None] = {}
        self._of: dict[str, dict[Guest, None]] = {}

    def __len__(self) -> int:
        return len(self._guests)

    def enter(self, address: str, now: float, send_away: Callable[[], None]) -> Guest | None:
        """Let somebody in; ``None`` if there is no room."""
        place = place_of(address)
        same = self._of.get(place, {})
        if self._each and address not in self._front and len(same) >= self._each and not self._make_room(same, now):
            return None
        if self._most and len(self._guests) >= self._most and not self._make_room(self._guests, now):
            return None
        guest = Guest(place, now, send_away)
        self._guests[guest] = None
        self._of.setdefault(place, {})[guest] = None
        return guest

    def leave(self, guest: Guest) -> None:
        """It is known, or gone; again changes nothing."""
        if guest not in self._guests:
            return
        del self._guests[guest]
        same = self._of[guest.place]
        del same[guest]
        if not same:
            del self._of[guest.place]

    def _make_room(self, guests: dict[Guest, None], now: float) -> bool:
        first = next(iter(guests))
        if now - first.came_at < PATIENCE_S:
            return False
        self.leave(first)
        first.send_away()
        return True


@lru_cache(maxsize=1_024)
def place_of(address: str) -> str:
    """Return what is counted as one address: of IPv6 the network, for each customer has all addresses of one."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))
