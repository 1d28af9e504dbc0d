"""
A SOAP service that costs next to nothing: ``python -m bench.still``.

It answers as the demo's finance service does to ``GetOrders``, and reads no more of the request than how many are
wanted. It prints its port.
"""

from __future__ import annotations

import contextlib
import functools
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Final

PORTION: Final = 1_000  # orders sent at once
_COUNT: Final = re.compile(rb"count>(\d+)<")
_LENGTH: Final = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_BEGIN: Final = (
    b'<?xml version="1.0" encoding="utf-8"?><soap:Envelope xmlns:soap="http://schemas.xmlsoap.org/soap/envelope/" '
    b'xmlns:tns="urn:example:finance"><soap:Body><tns:GetOrdersResponse>\n'
)
_END: Final = b"</tns:GetOrdersResponse></soap:Body></soap:Envelope>"


@contextlib.contextmanager
def still_service() -> Iterator[str]:
    """Run the service in a process of its own; yields its address."""
    process = subprocess.Popen([sys.executable, "-m", "bench.still"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/finance"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@functools.cache
def orders(count: int) -> bytes:
    """Return so many orders, the numbers from 1."""
    return b"".join(
        b"  <tns:order><tns:orderNo>C1-%d</tns:orderNo><tns:total>%d.50</tns:total></tns:order>\n" % (n, n)
        for n in range(1, count + 1)
    )


def main() -> None:
    """Serve until the process is ended."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_serve, args=(connection,), daemon=True).start()


def _serve(connection: socket.socket) -> None:
    came = b""
    with connection, contextlib.suppress(OSError):
        while True:
            while b"\r\n\r\n" not in came:
                came += _more(connection)
            head, _, rest = came.partition(b"\r\n\r\n")
            length = _LENGTH.search(head)
            if length is None:
                return
            while len(rest) < int(length[1]):
                rest += _more(connection)
            wanted, came = _COUNT.search(rest), rest[int(length[1]) :]
            _reply(connection, int(wanted[1]) if wanted else 0)


def _more(connection: socket.socket) -> bytes:
    piece = connection.recv(65_536)
    if not piece:
        raise ConnectionError
    return piece


def _reply(connection: socket.socket, count: int) -> None:
    portions, left = divmod(count, PORTION)
    length = len(_BEGIN) + portions * len(orders(PORTION)) + len(orders(left)) + len(_END)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml; charset=utf-8\r\nContent-Length: %d\r\n\r\n" % length
    if not portions:
        return connection.sendall(head + _BEGIN + orders(left) + _END)
    connection.sendall(head + _BEGIN)
    for _ in range(portions):
        connection.sendall(orders(PORTION))
    connection.sendall(orders(left) + _END)


if __name__ == "__main__":
    main()
