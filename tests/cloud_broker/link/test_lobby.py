"""Places for strangers at the agents' port: counted by a clock that the test sets, and held with real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_broker.api.services import Services
from cloud_broker.link.lobby import PATIENCE_S, Guest, Lobby, place_of
from cloud_broker.link.terminators import Terminators
from cloud_broker.settings import LimitSettings, split_address
from tests.cloud_broker.plain_agent import PlainAgent, broker
from tests.waiting import until

FOUR = LimitSettings(strangers_per_address=4)


class Hotel:
    """A lobby, with the time of the day and who was sent away."""

    def __init__(self, most: int, each: int, front: tuple[str, ...] = ()) -> None:
        self.lobby = Lobby(most, each, Terminators(front))
        self.now = 0.0
        self.away: list[str] = []

    def come(self, name: str, address: str) -> Guest | None:
        return self.lobby.enter(address, self.now, lambda: self.away.append(name))


def test_so_many_of_one_address_are_let_in_and_others_all_the_same() -> None:
    hotel = Hotel(0, 2)
    first = hotel.come("a", "192.0.2.1")
    assert hotel.come("b", "192.0.2.1") is not None
    assert hotel.come("c", "192.0.2.1") is None
    assert hotel.come("d", "192.0.2.2") is not None
    assert first is not None
    hotel.lobby.leave(first)
    hotel.lobby.leave(first)
    assert hotel.come("e", "192.0.2.1") is not None
    assert hotel.away == []


def test_who_has_been_there_for_long_makes_room_for_who_comes() -> None:
    hotel = Hotel(2, 0)
    hotel.come("a", "192.0.2.1")
    hotel.now = PATIENCE_S / 2
    hotel.come("b", "192.0.2.2")
    assert hotel.come("c", "192.0.2.3") is None
    hotel.now = PATIENCE_S
    assert hotel.come("d", "192.0.2.4") is not None
    assert hotel.come("e", "192.0.2.5") is None
    assert hotel.away == ["a"]
    assert len(hotel.lobby) == 2


def test_a_full_address_sends_away_one_of_its_own() -> None:
    hotel = Hotel(0, 1)
    hotel.come("other", "192.0.2.2")
    hotel.come("a", "192.0.2.1")
    hotel.now = PATIENCE_S
    assert hotel.come("b", "192.0.2.1") is not None
    assert hotel.away == ["a"]


def test_a_terminator_stands_for_many() -> None:
    hotel = Hotel(50, 1, ("10.0.0.0/8",))
    assert all(hotel.come(str(n), "10.1.2.3") for n in range(50))
    assert hotel.come("one more", "10.1.2.3") is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("?", "?", True),
    ],
)
def test_an_ipv6_network_counts_as_one_address(one: str, other: str, same: bool) -> None:
    assert (place_of(one) == place_of(other)) is same


def place(services: Services) -> tuple[str, int]:
    """Where agents dial."""
    return split_address(services.settings.link.listen)


@contextlib.contextmanager
def silent(services: Services, number: int, said: bytes = b"") -> Iterator[list[socket.socket]]:
    """Hold connections that say nothing, or next to nothing."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(place(services))) for _ in range(number)]
        for one in held:
            one.sendall(said)
            one.setblocking(False)
        yield held


def ended(one: socket.socket) -> bool:
    """Whether the other side has ended a connection."""
    try:
        return one.recv(4_096) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def test_strangers_of_an_address_hold_so_many_places_and_agents_that_are_known_hold_none(tmp_path: Path) -> None:
    async with broker(tmp_path, limits=FOUR) as services, contextlib.AsyncExitStack() as stack:
        agents = [await PlainAgent.enrolled(tmp_path / f"a{n}", services, f"plant-{n}") for n in range(10)]
        # More of them than there are places, and from one address.
        links = [(await stack.enter_async_context(agent.link()))[0] for agent in agents[:-1]]

        with silent(services, 12) as strangers:
            await until(lambda: sum(map(ended, strangers)) == 8)
            for link in links:
                await (await link.connection.ping())
            # The others' patience is over before the broker's.
            async with asyncio.timeout(PATIENCE_S + 30):
                while True:
                    with contextlib.suppress(OSError):
                        await stack.enter_async_context(agents[-1].link())
                        break
            assert sum(map(ended, strangers)) < 12


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"])
async def test_who_goes_in_the_middle_of_tls_leaves_his_place(tmp_path: Path, said: bytes) -> None:
    async with broker(tmp_path, limits=FOUR) as services:
        with silent(services, 12, said) as strangers:
            await until(lambda: sum(map(ended, strangers)) >= 8)
        agent = await until_let_in(tmp_path, services)
        assert (await agent.proven())["agent"] == "plant-1"


async def until_let_in(folder: Path, services: Services) -> PlainAgent:
    """Return an agent that enrolled as soon as there was a place."""
    async with asyncio.timeout(PATIENCE_S / 2):
        while True:
            with contextlib.suppress(OSError):
                return await PlainAgent.enrolled(folder / "agent", services)


async def test_what_comes_with_the_end_of_the_handshake_is_heard(tmp_path: Path) -> None:
    """One write has the last words of TLS and a whole request, so the broker reads both at once."""
    async with broker(tmp_path) as services:
        agent = await PlainAgent.enrolled(tmp_path / "agent", services)
        assert await asyncio.to_thread(_asked_in_one_write, place(services), agent.context()) == b"HTTP/1.1 404"


def _asked_in_one_write(where: tuple[str, int], context: ssl.SSLContext) -> bytes:
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(into, out, server_hostname=where[0])
    with socket.create_connection(where, timeout=20) as connection:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(out.read())
                into.write(connection.recv(65_536))
        tls.write(
            b"GET /nowhere HTTP/1.1\r\nHost: broker\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        connection.sendall(out.read())
        while True:
            try:
                return tls.read(65_536)[:12]
            except ssl.SSLWantReadError:
                into.write(connection.recv(65_536))
