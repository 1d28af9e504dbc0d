"""
The HTTP server: uvicorn, with limits on what a connection may hold without giving anything.

uvicorn's parser has no limit of the headers' size, and no time for headers, body or reader. They stand here, in a
protocol that is uvicorn's own with a watch on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any, ClassVar, Final

import httptools
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cloud_broker.api.express import ROUTES, Express, Hurried, Route, whole
from cloud_broker.api.problems import answer
from cloud_broker.errors import (
    BrokerError,
    HeadersTooLarge,
    RequestInvalid,
    RequestTimeout,
    TooManyConnections,
    UriTooLong,
)
from cloud_broker.settings import Settings

MAX_URI_BYTES: Final = 8_192
MAX_HEAD_BYTES: Final = 32_768  # of path and headers; the longest token of an issuer fits
MAX_FIELDS: Final = 100  # headers, and trailers
MAX_IGNORED_BYTES: Final = 1_048_576  # of a body after its answer was given
MIN_BODY_RATE: Final = 1_024.0  # bytes a second that a body comes with beyond its first seconds
LINGER_S: Final = 2.0  # seconds that the other side has to read why, and again for the last bytes
READER_TICK_S: Final = 5.0  # seconds between two looks at a reader that stopped

log = logging.getLogger(__name__)


def config(app: FastAPI, settings: Settings, **more: Any) -> uvicorn.Config:
    """Return the configuration of a server for ``app``; ``more`` is uvicorn's own."""
    return uvicorn.Config(
        app,
        http=guarded(settings, Express(app, settings.api.proxies)),
        log_config=None,
        access_log=False,
        ws="none",
        lifespan="off",
        server_header=False,
        forwarded_allow_ips=list(settings.api.proxies),
        ssl_certfile=settings.api.certificate,
        ssl_keyfile=settings.api.key,
        **more,
    )


def guarded(settings: Settings, express: Express) -> type[Guarded]:
    """Return the protocol of a server with these settings; its connections count for it alone."""
    return type("GuardedProtocol", (Guarded,), {"settings": settings, "express": express, "addresses": Counter()})


class Guarded(HttpToolsProtocol):
    """One connection."""

    settings: ClassVar[Settings]
    express: ClassVar[Express]
    addresses: ClassVar[Counter[str]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._address = ""
        self._phase = "idle"  # idle, head or body: what is awaited from the other side
        self._began = 0.0
        self._came = 0  # bytes of this phase
        self._refusal: BrokerError | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._reader_watch: asyncio.TimerHandle | None = None
        self._unread = 0
        self._idle_since = 0.0
        self._refused = False
        self._last_resort: asyncio.TimerHandle | None = None

    # --- connections ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self.addresses[self._address] += 1
        limits = self.settings.limits
        if limits.connections and len(self.connections) > limits.connections:
            self._refuse(TooManyConnections("The API has as many connections as it may.", retry_after_s=1.0))
        elif (
            limits.connections_per_address
            and self._address not in self.settings.api.proxies
            and self.addresses[self._address] > limits.connections_per_address
        ):
            self._refuse(
                TooManyConnections(
                    f"This address has {limits.connections_per_address} connections, and may have no more; "
                    "use one of them again, or close some.",
                    retry_after_s=1.0,
                )
            )
        else:
            # Also who says nothing at all holds a place.
            self._await("head")

    def connection_lost(self, exc: Exception | None) -> None:
        self.addresses[self._address] -= 1
        if self.addresses[self._address] <= 0:
            del self.addresses[self._address]
        for watch in (self._watch, self._reader_watch, self._last_resort):
            if watch is not None:
                watch.cancel()
        self._watch = self._reader_watch = self._last_resort = None
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    # --- what comes -------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._refused or self.transport.is_closing():
            return
        if self._phase == "idle":
            self._await("head")
        self._came += len(data)
        super().data_received(data)
        # The parser keeps a header that has not ended to itself.
        if self._phase == "head" and self._came > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(self._too_large())

    def on_header(self, name: bytes, value: bytes) -> None:
        # All that uvicorn's does but to look for Expect, which is done once for all.
        self.headers.append((name.lower(), value))
        if len(self.headers) > MAX_FIELDS:
            self._refusal = HeadersTooLarge(f"The request has more than {MAX_FIELDS} headers.")
            raise httptools.HttpParserError("too many headers")

    def on_headers_complete(self) -> None:
        field_bytes = 0
        for name, value in self.headers:
            field_bytes += len(name) + len(value)
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
        if len(self.url) > MAX_URI_BYTES:
            self._refusal = UriTooLong(f"Path and query have {len(self.url)} bytes; at most {MAX_URI_BYTES} are read.")
        elif len(self.url) + field_bytes > MAX_HEAD_BYTES:
            self._refusal = self._too_large()
        if self._refusal is not None:
            raise httptools.HttpParserError("too much before the body")
        self._await("body")
        route = ROUTES.get((self.parser.get_method(), self.url))
        if route is None:
            super().on_headers_complete()
        else:
            self._hurry(route)

    def _hurry(self, route: Route) -> None:
        """Let a request go the short way; as uvicorn does it, but for what such a route has no use for."""
        version = self.parser.get_http_version()
        path = self.url.decode("ascii")
        self.scope |= {"method": "POST", "http_version": version, "path": path, "raw_path": self.url}
        self.scope["query_string"] = b""
        before = self.cycle
        self.cycle = cycle = Hurried(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        cycle.takes(self.express, route)
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if self.cycle.response_complete and self._came > MAX_IGNORED_BYTES:
            # It was answered, and goes on and on.
            self.transport.close()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._await("idle")

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refused; uvicorn calls it so."""
        self._refuse(self._refusal or RequestInvalid("The request can't be read as HTTP/1.1."))

    # --- time -------------------------------------------------------------------------------------

    def _await(self, phase: str) -> None:
        self._phase, self._came = phase, 0
        slow_s = self.settings.limits.slow_request
        if phase != "idle" and slow_s:
            self._began = self.loop.time()
            # One for many phases: to make and cancel one for each costs more than to look too early now and then.
            if self._watch is None:
                self._watch = self.loop.call_later(slow_s, self._late)

    def _late(self) -> None:
        """See whether what is awaited may still come."""
        self._watch = None
        if self._phase == "idle" or self.transport.is_closing():
            return
        now = self.loop.time()
        left_s = self._began + self.settings.limits.slow_request - now
        if self._phase == "body":
            if self.flow.read_paused:
                # It is us who do not read: no fault of the other side.
                left_s += now - self._began
                self._began = now
            left_s += self._came / MIN_BODY_RATE
        if left_s > 0:
            self._watch = self.loop.call_later(left_s, self._late)
            return
        if self._phase == "head" and self._came == 0:
            # Nobody asked for anything, so nobody waits for an answer.
            self._close()
            return
        self._refuse(RequestTimeout(f"The {self._phase} of the request took longer than it may."))

    def pause_writing(self) -> None:
        super().pause_writing()
        slow_s = self.settings.limits.slow_reader
        if slow_s and self._reader_watch is None:
            self._unread, self._idle_since = self.transport.get_write_buffer_size(), self.loop.time()
            self._reader_watch = self.loop.call_later(min(slow_s, READER_TICK_S), self._look_at_reader)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reader_watch is not None:
            self._reader_watch.cancel()
            self._reader_watch = None

    def _look_at_reader(self) -> None:
        slow_s = self.settings.limits.slow_reader
        unread, now = self.transport.get_write_buffer_size(), self.loop.time()
        if unread < self._unread:
            self._unread, self._idle_since = unread, now
        if now - self._idle_since >= slow_s:
            log.warning("an answer is not read, and cut", extra={"event": "slow_reader_cut", "address": self._address})
            self._reader_watch = None
            self.transport.abort()
            return
        self._reader_watch = self.loop.call_later(min(slow_s, READER_TICK_S), self._look_at_reader)

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    # --- the end ----------------------------------------------------------------------------------

    def _too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(f"The headers have more than the {MAX_HEAD_BYTES} bytes that are read.")

    def _refuse(self, error: BrokerError) -> None:
        """Answer for the application, if it has not begun to, and close."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        begun = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not begun:
            told = answer(error)
            closing = (b"connection", b"close")
            self.transport.write(whole(told, [*self.server_state.default_headers, *told.raw_headers, closing]))
        if self.cycle is not None and not self.cycle.response_complete:
            # The application must not answer a second time.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if begun or isinstance(error, TooManyConnections):
            self._close()
            return
        # A connection that is closed with something unread in it loses its answer too: what comes is passed over.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._last_resort = self.loop.call_later(LINGER_S, self._close)

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
        # Closing waits for what is still to be sent, and its reader may never read it.
        if self._last_resort is not None:
            self._last_resort.cancel()
        self._last_resort = self.loop.call_later(LINGER_S, self.transport.abort)

    def eof_received(self) -> None:
        if self._refused:
            self._close()
        super().eof_received()
