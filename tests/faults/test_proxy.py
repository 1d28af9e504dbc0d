"""The proxy does what it says, and nothing else."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.faults.proxy import HOST, Direction, Proxy, Toxics, Trap

PATIENCE_S = 10.0


@contextlib.contextmanager
def echo() -> Iterator[int]:
    """A server that says everything back."""
    with socket.create_server((HOST, 0)) as server:

        def serve(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                while data := connection.recv(65_536):
                    connection.sendall(data)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        # A thread in accept() does not notice that the socket is closed.
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with echo() as port, Proxy(port) as made:
        yield made


@pytest.fixture
def near(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, proxy.port), timeout=PATIENCE_S) as made:
        assert said_back(made, b"hello") == b"hello"
        yield made


def said_back(near: socket.socket, data: bytes) -> bytes:
    near.sendall(data)
    return heard(near, len(data))


def heard(near: socket.socket, count: int) -> bytes:
    """What comes, up to ``count`` bytes or the end."""
    found = b""
    while len(found) < count and (part := near.recv(count - len(found))):
        found += part
    return found


def silent(near: socket.socket) -> bool:
    near.settimeout(0.2)
    try:
        near.recv(1)
    except TimeoutError:
        return True
    finally:
        near.settimeout(PATIENCE_S)
    return False


def test_a_clear_proxy_passes_everything(near: socket.socket) -> None:
    data = bytes(range(256)) * 4_000
    sender = threading.Thread(target=near.sendall, args=(data,))
    sender.start()
    assert heard(near, len(data)) == data
    sender.join()


@pytest.mark.parametrize("direction", ["up", "down"])
def test_what_is_frozen_comes_later_and_whole(proxy: Proxy, near: socket.socket, direction: Direction) -> None:
    proxy.set(direction, Toxics(frozen=True))
    near.sendall(b"later")
    assert silent(near)
    proxy.clear()
    assert heard(near, 5) == b"later"


@pytest.mark.parametrize("direction", ["up", "down"])
def test_what_is_swallowed_never_comes(proxy: Proxy, near: socket.socket, direction: Direction) -> None:
    proxy.set(direction, Toxics(swallowed=True))
    near.sendall(b"lost")
    assert silent(near)
    proxy.clear()
    assert said_back(near, b"found") == b"found"


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_connection_is_cut_after_so_many_bytes(proxy: Proxy, near: socket.socket, after: int) -> None:
    proxy.set("down", Toxics(cut_after=after))
    near.sendall(b"123456789")
    assert heard(near, 9) == b"123456789"[:after]
    assert proxy.cuts == 1


@pytest.mark.parametrize("act", [lambda p: p.cut(reset=True), lambda p: p.set("up", Toxics(cut_after=0, how="reset"))])
def test_a_reset_is_seen_as_one(proxy: Proxy, near: socket.socket, act: Callable[[Proxy], None]) -> None:
    act(proxy)
    with pytest.raises(ConnectionError):  # noqa: PT012 - the first send may still get through
        near.sendall(b"anybody?")
        near.recv(1)


def test_half_a_connection_closed_leaves_the_other_half(proxy: Proxy, near: socket.socket) -> None:
    proxy.set("up", Toxics(cut_after=4, how="half"))
    near.sendall(b"12345678")
    assert heard(near, 8) == b"1234"


def test_slices_and_delays_change_nothing_but_time(proxy: Proxy, near: socket.socket) -> None:
    proxy.set("up", Toxics(slice_bytes=1))
    proxy.set("down", Toxics(latency_s=0.05, jitter_s=0.05))
    began = time.monotonic()
    assert said_back(near, b"in small parts") == b"in small parts"
    assert time.monotonic() - began >= 0.05


def test_a_throttle_keeps_its_pace(proxy: Proxy, near: socket.socket) -> None:
    proxy.set("up", Toxics(bytes_per_s=10_000))
    began = time.monotonic()
    said_back(near, b"x" * 3_000)
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("passed", [True, False])
def test_a_trap_loses_one_answer_and_passes_the_request_or_not(proxy: Proxy, near: socket.socket, passed: bool) -> None:
    trap = proxy.trap = Trap(re.compile(b"COMMIT"), passed)
    assert said_back(near, b"BEGIN") == b"BEGIN"
    with pytest.raises(ConnectionError):  # noqa: PT012 - the send gets through, the answer does not
        near.sendall(b"COMMIT")
        near.recv(1)
    assert trap.sprung == 1
    with socket.create_connection((HOST, proxy.port), timeout=PATIENCE_S) as again:
        assert said_back(again, b"COMMIT") == b"COMMIT"


def test_a_request_that_is_held_up_arrives_after_its_sender_has_gone() -> None:
    with socket.create_server((HOST, 0)) as server, Proxy(server.getsockname()[1]) as proxy:
        proxy.trap = Trap(re.compile(b"COMMIT"), held_s=0.3)
        with socket.create_connection((HOST, proxy.port), timeout=PATIENCE_S) as near:
            near.sendall(b"COMMIT")
        target = server.accept()[0]
        with target:
            target.settimeout(PATIENCE_S)
            assert heard(target, 6) == b"COMMIT"


def test_who_is_refused_hears_nothing(proxy: Proxy) -> None:
    proxy.refusing = True
    with socket.create_connection((HOST, proxy.port), timeout=PATIENCE_S) as refused, contextlib.suppress(OSError):
        assert refused.recv(1) == b""
