"""
Many agents in one process: their certificates, TLS, websocket frames and the words of the link; they run nothing.

``python -m bench.swarm FOLDER`` keeps all whose certificates are in the folder linked, dialling as fast as it can. It
answers each line on its standard input with one of JSON: how many are linked, and when the first and the last of them
was answered (seconds of the monotonic clock). It ends with its input. A bare server, which sends back what it hears, is
dialled in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import json
import os
import ssl
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, cast

import uvloop

from protocol import codec, limits
from protocol.codec import Record
from protocol.messages import RENEWAL, AnyMessage, Beat, Catalogue, Hello, Holding, Limits, Welcome

DIALS: Final = 24  # at once; what an agents' port has in its lobby of one address is more
AGAIN_S: Final = 0.05  # seconds until a server that is not there is dialled again
WORDS: Final = "swarm.json"
_KEY: Final = b"\0\0\0\0"  # a mask that changes nothing: RFC 6455 wants one, and says nothing of its chance here
_REQUEST: Final = (
    b"GET /link HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: outhaul.1\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Words:
    """
    What a swarm is told, in the folder's ``swarm.json``.

    Attributes:
        authority: the file with whom it trusts.
        trusted: SHA-256 of that one's certificate, hex.
        catalogue: the document that each has.
        beat_s: seconds between two beats of one.
    """

    port: int
    authority: str
    trusted: str
    catalogue: str
    beat_s: float = limits.BEAT_S

    def write(self, folder: Path) -> None:
        """Put it where the swarm finds it."""
        (folder / WORDS).write_text(json.dumps(asdict(self)), "utf-8")


class Agent(asyncio.Protocol):
    """
    One agent, through all its links.

    Attributes:
        answered_at: when the server answered its greeting, on the monotonic clock; 0 while it is not linked.
    """

    def __init__(self, swarm: Swarm, name: str, tls: ssl.SSLContext) -> None:
        self.name = name
        self.tls = tls
        self.answered_at = 0.0
        self._swarm = swarm
        self._lineage = ""
        self._buffer = b""
        self._upgraded = False
        self._transport: asyncio.WriteTransport | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._settled: asyncio.Future[None] | None = None

    async def dial(self) -> None:
        """Return once it is linked, or can't be now."""
        loop = asyncio.get_running_loop()
        self._buffer, self._upgraded = b"", False
        self._settled = loop.create_future()
        await loop.create_connection(
            lambda: self, "127.0.0.1", self._swarm.words.port, ssl=self.tls, server_hostname=""
        )
        await self._settled

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's has all of it, and is none by name.
        self._transport = cast(asyncio.WriteTransport, transport)
        self._transport.write(_REQUEST)

    def connection_lost(self, exc: Exception | None) -> None:
        self.answered_at = 0.0
        if self._beat is not None:
            self._beat.cancel()
        self._settle()
        self._swarm.lost(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self._close()
                return
            self._upgraded, self._buffer = True, rest
            self._say(self._hello())
        while (frame := _frame(self._buffer)) is not None:
            kind, payload, length = frame
            self._buffer = self._buffer[length:]
            if kind == 0x2:
                self._heard(payload)
            elif kind == 0x8:
                self._close()

    def _heard(self, payload: bytes) -> None:
        if not self.answered_at:
            self.answered_at = time.monotonic()
            self._settle()
            self._beat_on(self._swarm.words.beat_s)
        for message, _ in codec.decode(payload):
            if isinstance(message, Welcome):
                self._lineage = message.lineage
                document = self._swarm.catalogue_of(self.name)
                digest = hashlib.sha256(document).hexdigest()
                self._say(Catalogue(digest=digest), document, Holding(commands=[]))

    def _hello(self) -> Hello:
        return Hello(
            versions=[limits.VERSION],
            release="0.1.0",
            features=[RENEWAL],
            limits=Limits(remembers=limits.REMEMBERS),
            journal=f"swarm-{self.name}",
            time=time.time(),
            system="swarm",
            lineage=self._lineage,
            trusts=[self._swarm.words.trusted],
        )

    def _say(self, message: AnyMessage, payload: bytes = b"", *more: AnyMessage) -> None:
        if self._transport is not None:
            data = codec.encode_all([Record(message, payload), *(Record(one) for one in more)])
            self._transport.write(_masked(data))

    def _beat_on(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()

        def beat() -> None:
            self._say(Beat())
            self._beat = loop.call_later(seconds, beat)

        self._beat = loop.call_later(seconds, beat)

    def _settle(self) -> None:
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Swarm:
    """
    Many agents.

    Args:
        folder: with ``swarm.json`` and a PEM file, certificate and key, for each; its name is the agent's.
    """

    def __init__(self, folder: Path) -> None:
        self.words = Words(**json.loads((folder / WORDS).read_text("utf-8")))
        catalogue = json.loads(Path(self.words.catalogue).read_text("utf-8"))
        one = json.dumps({**catalogue, "keys": {"seal": "KEY"}}, separators=(",", ":")).encode()
        self._before_key, _, self._after_key = one.partition(b"KEY")
        self.agents = [Agent(self, file.stem, _context(self.words, file)) for file in sorted(folder.glob("*.pem"))]
        self._waiting: asyncio.Queue[Agent] = asyncio.Queue()

    def lost(self, agent: Agent) -> None:
        """Let an agent dial again."""
        self._waiting.put_nowait(agent)

    def catalogue_of(self, name: str) -> bytes:
        """Return what one agent says may be run there: the same operations as everywhere, and a key of its own."""
        # Put together: what each of a swarm does takes from the processor of who is measured.
        return self._before_key + hashlib.sha256(name.encode()).hexdigest().encode() + self._after_key

    async def run(self) -> None:
        """Keep all linked, and answer, until the input ends."""
        for agent in self.agents:
            self._waiting.put_nowait(agent)
        dialling = [asyncio.create_task(self._dial()) for _ in range(DIALS)]
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while await lines.readline():
            at = [agent.answered_at for agent in self.agents if agent.answered_at] or [0.0]
            print(json.dumps([len(at) if at[0] else 0, min(at), max(at)]), flush=True)
        for task in dialling:
            task.cancel()

    async def _dial(self) -> None:
        while True:
            agent = await self._waiting.get()
            try:
                await agent.dial()
            except OSError:
                # Nobody listens: then there was no connection that could be lost.
                await asyncio.sleep(AGAIN_S)
                self._waiting.put_nowait(agent)


def _context(words: Words, file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(words.authority)
    context.load_cert_chain(file)
    return context


def _masked(payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((0x82, 0x80 | size)) + _KEY + payload
    return bytes((0x82, 0x80 | 126)) + size.to_bytes(2) + _KEY + payload


def _frame(data: bytes) -> tuple[int, bytes, int] | None:
    """Return kind, payload and length of the first frame; ``None`` if it is not whole."""
    if len(data) < 2:
        return None
    size, start = data[1] & 0x7F, 2
    if size >= 126:
        start = 4 if size == 126 else 10
        size = int.from_bytes(data[2:start])
    if len(data) < start + size:
        return None
    return data[0] & 0x0F, data[start : start + size], start + size


def main() -> None:
    """Run a swarm."""
    with contextlib.suppress(KeyboardInterrupt):
        swarm = Swarm(Path(sys.argv[1]))
        gc.freeze()  # what is there now stays; looking through it again and again would take from who is measured
        uvloop.run(swarm.run())
    os._exit(0)  # without ten thousand goodbyes


if __name__ == "__main__":
    main()
