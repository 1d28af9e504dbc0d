"""The loop that keeps one link up: dial, converse, wait, again, without end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import re
import time
from collections.abc import Coroutine
from typing import Any, Final, Literal, TypeVar

import msgspec

from agent.errors import AgentError, LinkError, LinkRefused
from agent.link.backoff import Backoff
from agent.link.base import Dialer, Ended, Peer, Serve, Transport

T = TypeVar("T")

DRAIN_S: Final = 10.0  # seconds that a conversation has to end by itself once the agent stops
CLOSE_S: Final = 5.0  # seconds to close a transport; then it is left to the operating system
DIALLED_S: Final = 900.0  # seconds in which any dial has ended; each of its steps has its own limit, far below
LATE_S: Final = 60.0  # seconds after the end of a wait in which the next dial has begun
REFUSED_CODES: Final = ("refused", "revoked", "version", "superseded")  # cured by a person, so tried at a slower pace
RENEWED: Final = "renewed"  # the agent's own goodbye, to dial again with another certificate

log = logging.getLogger(__name__)


class LinkState(msgspec.Struct, frozen=True):
    """
    How the link stands, for `outhaul-agent status`; times in seconds since 1970.

    Attributes:
        state: ``connected`` means that the websocket is up.
        target: the broker's URL.
        peer: what is at the other end; ``None`` unless connected.
        connected_since: ``None`` unless connected.
        tries: how often in a row it failed.
        last_error: the last failure, for people; "" if there was none. It stays after a success.
        last_stage: how far the last failure came, as in LinkError; "" if there was none.
        last_error_at: when that was.
        next_try_at: ``None`` unless waiting.
    """

    state: Literal["connecting", "connected", "waiting", "stopped"] = "stopped"
    target: str = ""
    peer: Peer | None = None
    connected_since: float | None = None
    tries: int = 0
    last_error: str = ""
    last_stage: str = ""
    last_error_at: float | None = None
    next_try_at: float | None = None


class _Try(msgspec.Struct, frozen=True):
    """One dial and, if it came about, one conversation."""

    error: AgentError
    up_s: float = 0.0
    again: bool = False  # at once: the agent ended it itself, to come back

    @property
    def refused(self) -> bool:
        return isinstance(self.error, LinkRefused)

    @property
    def stage(self) -> str:
        return self.error.stage if isinstance(self.error, LinkError) else "setup"

    @property
    def retry_after_s(self) -> float:
        return self.error.retry_after_s if isinstance(self.error, LinkError) else 0.0

    @property
    def floor_s(self) -> float:
        return self.error.floor_s if isinstance(self.error, LinkError) else 0.0

    @property
    def kind(self) -> tuple[str, str]:
        """What tells one trouble from another: its numbers (ports, times) do not."""
        return self.stage, re.sub(r"\d+", "#", str(self.error))


class Supervisor:
    """
    Keeps a link up.

    Attributes:
        state: how it stands.
    """

    def __init__(
        self, dialer: Dialer, serve: Serve, *, backoff: Backoff | None = None, drain_s: float = DRAIN_S
    ) -> None:
        """
        Args:
            dialer: opens a transport.
            serve: carries one conversation over it, and returns how it ended; it need not close the transport.
            backoff: draws the waits; replaced in tests.
            drain_s: how long a conversation may go on after the wish to stop.
        """
        self.state = LinkState(target=dialer.target)
        self._dialer = dialer
        self._serve = serve
        self._backoff = backoff or Backoff()
        self._drain_s = drain_s
        self._told: tuple[str, str] | None = None  # the trouble that the log has already
        self._due = math.inf  # when, on the monotonic clock, it has gone on from this state at the latest

    @property
    def stuck(self) -> bool:
        """Whether it has not gone on though it should have; without a broker it goes on dialling, and is well."""
        return time.monotonic() > self._due

    def __repr__(self) -> str:
        return f"<Supervisor {self.state.target} {self.state.state}>"

    async def run(self, stop: asyncio.Event) -> None:
        """
        Keep the link up until ``stop`` is set; nothing else ends it.

        A conversation under way then has ``drain_s`` to end by itself; it is cancelled after that.
        """
        try:
            while not stop.is_set():
                ended = await self._once(stop)
                _let_go(ended.error)
                if not stop.is_set() and not ended.again:
                    await self._pause(ended, stop)
        finally:
            self._now(state="stopped", peer=None, connected_since=None, next_try_at=None)
            self._due = math.inf

    async def _once(self, stop: asyncio.Event) -> _Try:
        self._now(state="connecting", next_try_at=None)
        self._due = time.monotonic() + DIALLED_S
        try:
            transport = await _unless(stop, self._dialer.connect(), drain_s=0.0)
        except AgentError as exc:
            return _Try(exc)
        except Exception as exc:  # a mistake of ours must not end the agent: it is told, and dialled again
            log.exception("dialling failed in a way that is not foreseen", extra={"event": "link_bug"})
            return _Try(LinkError(f"{type(exc).__name__}: {exc}", stage="setup"))
        if transport is None:
            return _Try(LinkError("the dial was given up"))
        return await self._converse(transport, stop)

    async def _converse(self, transport: Transport, stop: asyncio.Event) -> _Try:
        begun, again = time.monotonic(), False
        self._now(state="connected", peer=transport.peer, connected_since=time.time(), target=self._dialer.target)
        self._due = math.inf  # the conversation knows for itself
        self._told = None
        peer = transport.peer
        log.info(
            "link is up",
            extra={
                "event": "link_up",
                "url": peer.url,
                "address": peer.address,
                "proxy": peer.proxy,
                "tls": peer.tls,
            },
        )
        try:
            ended = await _unless(stop, self._serve(transport), drain_s=self._drain_s)
            ended = ended or Ended(reason="the conversation was given up")
            error, again = _error_of(ended), ended.code == RENEWED
        except AgentError as exc:
            error = exc
        except Exception as exc:  # a mistake of ours costs this link, and must not cost every later one
            log.exception("the conversation failed in a way that is not foreseen", extra={"event": "link_bug"})
            error = LinkError(f"{type(exc).__name__}: {exc}")
        finally:
            with contextlib.suppress(TimeoutError, AgentError):
                async with asyncio.timeout(CLOSE_S):
                    await transport.close()
        return _Try(error, time.monotonic() - begun, again)

    async def _pause(self, ended: _Try, stop: asyncio.Event) -> None:
        delay_s = self._backoff.next_delay(
            ended.up_s, refused=ended.refused, retry_after_s=ended.retry_after_s, floor_s=ended.floor_s
        )
        now = time.time()
        self._now(
            state="waiting",
            target=self._dialer.target,
            peer=None,
            connected_since=None,
            tries=self._backoff.tries,
            last_error=str(ended.error),
            last_stage=ended.stage,
            last_error_at=now,
            next_try_at=now + delay_s,
        )
        self._due = time.monotonic() + delay_s + LATE_S
        facts = {
            "event": "link_lost" if ended.up_s else "link_failed",
            "stage": ended.stage,
            "trouble": ended.error.trouble if isinstance(ended.error, LinkError) else "",
            "reason": str(ended.error),
            "tries": self._backoff.tries,
            "next_try_s": round(delay_s, 1),
        }
        # A broker that is away for a night is one line in the log, not thousands.
        level = logging.DEBUG if ended.kind == self._told else logging.WARNING
        self._told = ended.kind
        log.log(level, "no link: %s; dialling again in %.1f s", ended.error, delay_s, extra=facts)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await stop.wait()

    def _now(self, **changes: Any) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)


def _let_go(error: BaseException) -> None:
    """
    Free what a failed dial held.

    Errors, frames, tasks and TLS hold each other, and half a megabyte of buffers with them: until the collector comes
    by, which on an agent that only dials is after dozens of them. It is asked for all: what one dial leaves to the old
    ones is little, and would be looked through after tens of thousands. It takes some milliseconds.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    gc.collect()


def _error_of(ended: Ended) -> AgentError:
    text = ended.reason or ("the link was lost" if ended.code == "lost" else f"goodbye: {ended.code}")
    if ended.code == "superseded":
        text += "; another agent came in with this one's certificate: is this machine, or the other, a copy?"
    kind = LinkRefused if ended.code in REFUSED_CODES else LinkError
    return kind(text, retry_after_s=ended.retry_after_s)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T], *, drain_s: float) -> T | None:
    """Return what ``work`` gives, or ``None`` if it had not ended ``drain_s`` after ``stop``; then it is cancelled."""
    task = asyncio.create_task(work, name="link")
    stopped = asyncio.create_task(stop.wait(), name="link stop")
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await asyncio.wait((task,), timeout=drain_s)
        # A cancellation that leaks out of the work must not end the loop.
        return task.result() if task.done() and not task.cancelled() else None
    finally:
        stopped.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,), timeout=CLOSE_S)
            if task.done() and not task.cancelled():
                task.exception()  # or asyncio complains that nobody asked
