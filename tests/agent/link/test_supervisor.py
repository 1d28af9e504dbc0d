"""The loop that keeps a link up: it goes on whatever happens, and says what happens once."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.errors import AgentError, EnrolmentError, LinkError, LinkRefused
from agent.identity.enrolment import enroll
from agent.link.backoff import Backoff
from agent.link.base import Dialer, Ended, Serve, Transport
from agent.link.memory import MemoryTransport, pair
from agent.link.routes import Routes
from agent.link.supervisor import Supervisor
from agent.link.websocket import WebsocketDialer
from cloud_broker.link.base import LinkLost, Peer
from cloud_broker.link.base import Transport as BrokerTransport
from tests.agent.link.broker import broker, secrets_in, settings_of
from tests.waiting import until

QUICK = 0.001  # of every wait, so that tests take no time


class MemoryDialer(Dialer):
    """Gives out the outcomes it was given, then memory links."""

    def __init__(self, outcomes: Sequence[Exception] = ()) -> None:
        self.target = "memory:"
        self.outcomes = list(outcomes)
        self.dials = 0
        self.far: list[MemoryTransport] = []

    async def connect(self) -> Transport:
        self.dials += 1
        if self.outcomes:
            raise self.outcomes.pop(0)
        near, far = pair()
        self.far.append(far)
        return near


@asynccontextmanager
async def running(supervisor: Supervisor) -> AsyncIterator[asyncio.Event]:
    """Run a supervisor while the block runs."""
    stop = asyncio.Event()
    task = asyncio.create_task(supervisor.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(10):
            await task


async def read_to_the_end(transport: Transport) -> Ended:
    """A conversation that only listens."""
    try:
        while True:
            await transport.receive()
    except LinkError as exc:
        return Ended(reason=str(exc))


def ends_with(*ends: Ended | BaseException) -> Serve:
    """Conversations that end so, one after the other; the last one's way goes on."""
    left = list(ends)

    async def serve(transport: Transport) -> Ended:
        end = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(end, BaseException):
            raise end
        return end

    return serve


TROUBLES: list[Exception] = [
    LinkError("no route", stage="tcp"),
    LinkRefused("revoked", stage="http"),
    EnrolmentError("no certificate"),
    AgentError("something"),
    ValueError("a bug"),
    TimeoutError(),
    OSError("odd"),
]


async def test_no_trouble_of_a_dial_ends_the_loop() -> None:
    dialer = MemoryDialer(TROUBLES)
    supervisor = Supervisor(dialer, read_to_the_end, drain_s=0.01, backoff=Backoff(lambda: QUICK))
    async with running(supervisor):
        await until(lambda: supervisor.state.state == "connected")
        assert dialer.dials == len(TROUBLES) + 1
        assert "odd" in supervisor.state.last_error
    assert supervisor.state.state == "stopped"


class Buffers:
    """Something large that a dial holds, and that holds the dial's error."""

    def __init__(self) -> None:
        self.error: Exception | None = None


class HoldingDialer(MemoryDialer):
    """Fails once, with an error and a cause that its own frames hold."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[weakref.ref[Buffers]] = []

    async def connect(self) -> Transport:
        if not self.held:
            try:
                await self._begin()
            except OSError as exc:
                mine = Buffers()
                self.held.append(weakref.ref(mine))
                mine.error = LinkError("no route", stage="tcp")
                raise mine.error from exc
        return await super().connect()

    async def _begin(self) -> None:
        mine = Buffers()
        self.held.append(weakref.ref(mine))
        mine.error = OSError("unreachable")
        raise mine.error


async def test_what_a_failed_dial_held_is_freed_at_once() -> None:
    dialer = HoldingDialer()
    supervisor = Supervisor(dialer, read_to_the_end, drain_s=0.01, backoff=Backoff(lambda: QUICK))
    gc.disable()
    try:
        async with running(supervisor):
            await until(lambda: supervisor.state.state == "connected")
            assert [held() for held in dialer.held] == [None, None]
    finally:
        gc.enable()


async def test_no_end_of_a_conversation_ends_the_loop() -> None:
    dialer = MemoryDialer()
    ends: list[Ended | BaseException] = [Ended("stopping"), Ended("refused"), LinkError("lost"), RuntimeError("a bug")]
    ends.append(asyncio.CancelledError())
    supervisor = Supervisor(dialer, ends_with(*ends, Ended()), backoff=Backoff(lambda: QUICK))
    async with running(supervisor):
        await until(lambda: dialer.dials > len(ends))
    for far in dialer.far:
        with pytest.raises(LinkError):
            await far.receive()


async def test_the_state_tells_what_status_shows() -> None:
    dialer = MemoryDialer([LinkError("the name b can't be resolved", stage="dns")])
    chances = [0.0, 0.5]  # the grace, then half of the first second
    supervisor = Supervisor(
        dialer, read_to_the_end, drain_s=0.01, backoff=Backoff(lambda: chances.pop(0) if chances else QUICK)
    )
    assert supervisor.state.state == "stopped"
    async with running(supervisor):
        await until(lambda: supervisor.state.state == "waiting")
        state = supervisor.state
        assert (state.last_error, state.last_stage, state.tries) == ("the name b can't be resolved", "dns", 1)
        assert state.last_error_at is not None
        assert state.next_try_at == pytest.approx(state.last_error_at + 0.5)
        await until(lambda: supervisor.state.state == "connected")
        state = supervisor.state
        assert state.connected_since is not None
        assert state.peer is not None
        assert (state.next_try_at, state.last_stage) == (None, "dns")
        assert repr(supervisor) == "<Supervisor memory: connected>"
        await dialer.far[-1].close()
        await until(lambda: dialer.dials == 3)


async def test_a_trouble_is_told_once_and_a_new_one_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    dialer = MemoryDialer(
        [
            *(LinkError(f"no answer from port {port}", stage="tcp") for port in range(5)),
            LinkError("not trusted", stage="tls"),
            LinkError("no answer from port 7", stage="tcp"),
        ]
    )
    supervisor = Supervisor(dialer, read_to_the_end, drain_s=0.01, backoff=Backoff(lambda: QUICK))
    async with running(supervisor):
        await until(lambda: supervisor.state.state == "connected")
        await dialer.far[-1].close()
        await until(lambda: dialer.dials == 9)
    told = [(record.levelname, record.__dict__["event"], record.__dict__.get("stage")) for record in caplog.records]
    assert told[:5] == [
        ("WARNING", "link_failed", "tcp"),
        ("WARNING", "link_failed", "tls"),
        ("WARNING", "link_failed", "tcp"),
        ("INFO", "link_up", None),
        ("WARNING", "link_lost", "link"),
    ]


@pytest.mark.parametrize(
    ("ended", "least_s", "most_s"),
    [
        (Ended("stopping", retry_after_s=100), 80, 120),
        (Ended("revoked"), 899, 900),
        (Ended("superseded"), 899, 900),
        (Ended("lost"), 59, 60),
    ],
)
async def test_the_wait_follows_the_goodbye(ended: Ended, least_s: float, most_s: float) -> None:
    backoff = Backoff(lambda: 0.9999)
    backoff.tries = 20
    supervisor = Supervisor(MemoryDialer(), ends_with(ended), backoff=backoff)
    async with running(supervisor):
        await until(lambda: supervisor.state.state == "waiting")
        state = supervisor.state
        assert state.next_try_at is not None
        assert state.last_error_at is not None
        assert least_s <= state.next_try_at - state.last_error_at <= most_s


async def test_a_copied_machine_is_told() -> None:
    supervisor = Supervisor(MemoryDialer(), ends_with(Ended("superseded", "a newer link")))
    async with running(supervisor):
        await until(lambda: supervisor.state.state == "waiting")
        assert "a copy?" in supervisor.state.last_error


async def test_stopping_lets_a_conversation_end_by_itself() -> None:
    stop_seen = asyncio.Event()

    async def serve(transport: Transport) -> Ended:
        await stop_seen.wait()
        await transport.send(b"goodbye")
        return Ended("stopping")

    dialer = MemoryDialer()
    supervisor = Supervisor(dialer, serve)
    async with running(supervisor) as stop:
        await until(lambda: supervisor.state.state == "connected")
        stop.set()
        stop_seen.set()
    assert await dialer.far[0].receive() == b"goodbye"


async def test_a_conversation_that_does_not_end_is_cancelled() -> None:
    cancelled = asyncio.Event()

    async def serve(transport: Transport) -> Ended:
        try:
            return await read_to_the_end(transport)
        finally:
            cancelled.set()

    supervisor = Supervisor(MemoryDialer(), serve, drain_s=0.01)
    async with running(supervisor):
        await until(lambda: supervisor.state.state == "connected")
    assert cancelled.is_set()
    assert supervisor.state.state == "stopped"


async def test_stopping_does_not_wait_for_a_dial() -> None:
    class Stuck(MemoryDialer):
        async def connect(self) -> Transport:
            await asyncio.Event().wait()
            raise AssertionError

    supervisor = Supervisor(Stuck(), read_to_the_end)
    async with running(supervisor):
        await until(lambda: supervisor.state.state == "connecting")
    assert supervisor.state.state == "stopped"


async def test_the_link_comes_back_when_the_broker_does(tmp_path: Path) -> None:
    state, secrets = tmp_path / "agent", secrets_in(tmp_path / "agent")
    async with broker(tmp_path / "broker") as there:
        await enroll(settings_of(state), await there.token(), secrets, state)
        port = int(there.url.rsplit(":", 1)[1])

    async def hang_up_once(transport: BrokerTransport, peer: Peer) -> None:
        try:
            await transport.receive()
        except LinkLost:
            return

    supervisor = Supervisor(
        WebsocketDialer(state, Routes("none"), secrets), read_to_the_end, drain_s=0.01, backoff=Backoff(lambda: 0.02)
    )
    async with running(supervisor):
        await until(lambda: supervisor.state.last_stage == "tcp")
        for _ in range(2):
            async with broker(tmp_path / "broker", port=port, converse=hang_up_once):
                await until(lambda: supervisor.state.state == "connected")
                assert supervisor.state.target == f"wss://127.0.0.1:{port}"
            await until(lambda: supervisor.state.state != "connected")
