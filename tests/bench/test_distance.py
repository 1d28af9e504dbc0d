"""The line of the benchmarks: bytes come later, whole and in order, and do not wait for each other."""

from __future__ import annotations

import socket
import threading
import time

from bench.distance import HOST, Distance

HALF_S = 0.1
PARTS = 200
PART = 10_000


def test_every_byte_comes_later_and_none_waits_for_the_answer_to_another() -> None:
    sent = b"".join(bytes([number]) * PART for number in range(PARTS))
    with (
        socket.create_server((HOST, 0)) as target,
        Distance(target.getsockname()[1], 2 * HALF_S) as line,
        socket.create_connection((HOST, line.port)) as near,
    ):
        far, _ = target.accept()
        with far:
            started = time.monotonic()
            threading.Thread(target=_send, args=(near, sent), daemon=True).start()
            first = far.recv(1)
            assert time.monotonic() - started >= 0.9 * HALF_S  # clocks differ
            assert first + _read(far) == sent
            # One after the other they would take as often as long as there are parts.
            assert time.monotonic() - started < PARTS * HALF_S


def _send(near: socket.socket, data: bytes) -> None:
    for start in range(0, len(data), PART):
        near.sendall(data[start : start + PART])
    near.shutdown(socket.SHUT_WR)


def _read(far: socket.socket) -> bytes:
    found = b""
    while data := far.recv(65_536):
        found += data
    return found
