"""A relay that both programs take for each other, because it has their keys: it keeps what they say in clear."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_HEAD_END = b"\r\n\r\n"


@dataclass
class Said:
    """One connection; ``path`` is where its HTTP request went."""

    path: str
    by_agent: bytearray = field(default_factory=bytearray)
    by_broker: bytearray = field(default_factory=bytearray)

    def clear(self) -> bytes:
        """Return both directions as they were meant, without the masks of the agent's frames."""
        return _unmasked(bytes(self.by_agent)) + bytes(self.by_broker)


class Relay:
    """Listens on ``port`` once it runs; ``heard`` has all connections."""

    def __init__(self, server: Callable[[], ssl.SSLContext], client: Callable[[str], ssl.SSLContext], to: int) -> None:
        """
        Args:
            server: returns the context with the broker's certificate and key.
            client: returns, by path, the context to dial the broker with.
            to: the broker's port.
        """
        self.heard: list[Said] = []
        self._server = server
        self._client = client
        self._to = to
        self._links: set[asyncio.Task[None]] = set()

    async def serve(self, port: int, ready: threading.Event, stop: asyncio.Event) -> None:
        there = await asyncio.start_server(self._join, "127.0.0.1", port, ssl=self._server())
        ready.set()
        async with there:
            await stop.wait()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            head = await reader.readuntil(_HEAD_END)
            said = Said(head.split(b" ")[1].decode())
            self.heard.append(said)
            said.by_agent += head
            theirs, to_broker = await asyncio.open_connection("127.0.0.1", self._to, ssl=self._client(said.path))
            to_broker.write(head)
            await asyncio.gather(_pump(reader, to_broker, said.by_agent), _pump(theirs, writer, said.by_broker))
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(65_536):
            kept += data
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def running(relay: Relay, port: int) -> Iterator[Relay]:
    """Run a relay on a thread of its own while the block runs."""
    ready, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def work() -> None:
        loops.append(asyncio.get_running_loop())
        await relay.serve(port, ready, stop)

    thread = threading.Thread(target=lambda: asyncio.run(work()), name="relay", daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield relay
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(20)


def _unmasked(data: bytes) -> bytes:
    """Return a client's frames without their masks; what is cut off at the end is left out."""
    head, found, frames = data.partition(_HEAD_END)
    clear, at = bytearray(head + found), 0
    while at + 6 <= len(frames):
        length, at = frames[at + 1] & 0x7F, at + 2
        if length > 125:
            size = 2 if length == 126 else 8
            length, at = int.from_bytes(frames[at : at + size], "big"), at + size
        mask, at = frames[at : at + 4], at + 4
        body, at = frames[at : at + length], at + length
        key = int.from_bytes((mask * (len(body) // 4 + 1))[: len(body)], "big")
        clear += (int.from_bytes(body, "big") ^ key).to_bytes(len(body), "big")
    return bytes(clear)
