"""
One agent's websocket: the library's rules of RFC 6455, between TLS and whoever reads and writes messages.

The library's own connection can do more: it pings, sends messages in parts, and lets many tasks send at once. Ten
thousand links pay for that with memory, and each message with time, and none of it is wanted here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, cast

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from cloud_broker.link.base import LinkLost, Transport
from protocol import limits

SUBPROTOCOL: Final = Subprotocol("outhaul.1")
CLOSE_S: Final = 2.0  # seconds; a peer that does not answer the closing handshake is not waited for
SERVER: Final = "outhaul-broker"
HIGH: Final = 16  # messages that nobody has taken: then TCP slows the agent down,
LOW: Final = 4  # until so few are left
MAX_PARTS: Final = 4_096  # of one message, which something on the way may have divided
MAX_UNSENT_BYTES: Final = 32_768  # of one websocket; whoever sends more waits

# What TLS has read is taken before anything else is read, so all share it: without it uvloop asks the system for
# memory, and gives it back, each time.
_ARRIVING: Final = memoryview(bytearray(262_144))
_DATA: Final = (Opcode.BINARY, Opcode.TEXT, Opcode.CONT)


class Wire(asyncio.BufferedProtocol, Transport):
    """
    A websocket as a transport; one task reads from it, and one writes.

    Args:
        known: called when it is over.

    Attributes:
        known: to be called earlier, once it is known who this is.
        address: of the other end; empty until it is known.
    """

    # There are ten thousand of it.
    __slots__ = (
        "_closing",
        "_gone",
        "_held",
        "_messages",
        "_parts",
        "_paused",
        "_protocol",
        "_request",
        "_room",
        "_transport",
        "_waiting",
        "address",
        "known",
    )

    _transport: asyncio.Transport

    def __init__(self, known: Callable[[], None]) -> None:
        self.known = known
        self.address = ""
        self._protocol = ServerProtocol(subprotocols=[SUBPROTOCOL], max_size=limits.MAX_MESSAGE_BYTES)
        self._request: Request | None = None
        self._messages: list[bytes] = []
        self._parts: list[bytes] | None = None
        self._held = False  # whether the agent is slowed down
        self._paused = False  # whether we are
        self._closing = False
        self._waiting: asyncio.Future[None] | None = None  # of who reads
        self._room: asyncio.Future[None] | None = None  # of who writes
        self._gone: asyncio.Future[None] | None = None  # of who closes

    # --- before it is a websocket -------------------------------------------------------------------

    async def request(self) -> Request | None:
        """Return what is asked for; ``None`` if nothing is that could be read, and the connection has ended."""
        if self._request is None and self._protocol.state is not State.CLOSED:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        request, self._request = self._request, None
        return request

    def accept(self, request: Request) -> bool:
        """Make it a websocket, if that is what is asked for; return whether it is one."""
        self._answer(self._protocol.accept(request))
        return self._protocol.state is State.OPEN

    def reject(self, status: HTTPStatus, text: str) -> None:
        """Answer that it gets none."""
        self._answer(self._protocol.reject(status, text))

    def _answer(self, response: Response) -> None:
        response.headers["Server"] = SERVER
        if self._protocol.state is State.CONNECTING and not self._transport.is_closing():
            self._protocol.send_response(response)
            self._flush()

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port at the other end."""
        host, port = (self._transport.get_extra_info("peername") or ("?", 0))[:2]
        return str(host), int(port)

    @property
    def tls(self) -> ssl.SSLObject | None:
        """What TLS knows."""
        found: ssl.SSLObject | None = self._transport.get_extra_info("ssl_object")
        return found

    @property
    def certificate(self) -> dict[str, Any]:
        """What TLS has read of the certificate that it verified; empty without one."""
        found: dict[str, Any] | None = self._transport.get_extra_info("peercert")
        return found or {}

    # --- messages -----------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        if self._protocol.state is not State.OPEN or self._transport.is_closing():
            raise LinkLost(self._why())
        self._protocol.send_binary(data)
        self._flush()
        if self._paused:
            self._room = asyncio.get_running_loop().create_future()
            try:
                await self._room
            finally:
                self._room = None

    async def receive(self) -> bytes:
        while not self._messages:
            if self._protocol.state is State.CLOSED:
                raise LinkLost(self._why())
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        message = self._messages.pop(0)
        if self._held and len(self._messages) <= LOW:
            self._hold(False)
        return message

    async def close(self, reason: str = "") -> None:
        # A close frame has room for 123 bytes of reason.
        await self._close(CloseCode.NORMAL_CLOSURE, reason.encode()[:120].decode(errors="ignore"))

    async def go(self) -> None:
        """End it as this broker stops."""
        await self._close(CloseCode.GOING_AWAY, "")

    def abort(self) -> None:
        """End it at once."""
        self._transport.abort()

    async def _close(self, code: CloseCode, reason: str) -> None:
        self._drop()
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason)
            self._flush()
        if self._protocol.state is State.CLOSED:
            return
        if self._gone is None:
            self._gone = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(CLOSE_S):
                await asyncio.shield(self._gone)
        except TimeoutError:
            self._transport.abort()

    def _why(self) -> str:
        closed = self._protocol.state is State.CLOSED
        return str(self._protocol.close_exc) if closed else "the connection is being closed"

    # --- what TLS calls -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's has all of it, and is none by name.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(MAX_UNSENT_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _ARRIVING

    def buffer_updated(self, nbytes: int) -> None:
        self._protocol.receive_data(bytes(_ARRIVING[:nbytes]))
        self._take()

    def eof_received(self) -> None:
        self._protocol.receive_eof()
        self._take()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.receive_eof()
        for waiting in (self._waiting, self._room, self._gone):
            _wake(waiting)
        self.known()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        _wake(self._room)

    def _take(self) -> None:
        """Take what came; what the library answers by itself is sent."""
        events = self._protocol.events_received()
        self._flush()
        for event in events:
            if isinstance(event, Frame):
                self._take_frame(event)
            elif isinstance(event, Request):
                self._request = event
        if self._messages or self._request is not None:
            _wake(self._waiting)
        if len(self._messages) >= HIGH and not self._held:
            self._hold(True)

    def _take_frame(self, frame: Frame) -> None:
        if self._closing or frame.opcode not in _DATA:
            return
        data = bytes(frame.data)
        if self._parts is None and frame.fin:
            self._messages.append(data)
            return
        self._parts = self._parts or []
        self._parts.append(data)
        if frame.fin:
            self._messages.append(b"".join(self._parts))
            self._parts = None
        elif len(self._parts) >= MAX_PARTS:
            self._drop()
            self._protocol.fail(CloseCode.MESSAGE_TOO_BIG, f"a message in more than {MAX_PARTS} parts")
            self._flush()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)
            else:
                # TLS ends in both directions at once.
                self._transport.close()

    def _drop(self) -> None:
        """Take no more messages: what comes is only looked at for the other side's last word."""
        self._closing = True
        self._messages.clear()
        self._parts = None
        if self._held:
            self._hold(False)

    def _hold(self, held: bool) -> None:
        self._held = held
        if self._transport.is_closing():
            return
        if held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
