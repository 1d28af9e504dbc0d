"""The broker: its stages made and joined, started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Final

import uvicorn

from cloud_broker import RELEASE
from cloud_broker.api.app import create_app
from cloud_broker.api.server import config as server_of
from cloud_broker.api.services import Services
from cloud_broker.approvals import Approvals
from cloud_broker.approved import acts
from cloud_broker.audit import start_note
from cloud_broker.audit.anchors import TELL_S
from cloud_broker.audit.notary import Notary
from cloud_broker.blobs import Blobs
from cloud_broker.commands import Commands
from cloud_broker.dead_letters import DeadLetters
from cloud_broker.desk import AgentDesk
from cloud_broker.identity import tokens
from cloud_broker.identity.authorities import remove_dropped
from cloud_broker.identity.authority import Terms
from cloud_broker.identity.renewals import Renewals
from cloud_broker.identity.trust import Trust
from cloud_broker.link.admission import Admission
from cloud_broker.link.base import Peer, Transport
from cloud_broker.link.conversation import Conversation
from cloud_broker.link.identification import Identification
from cloud_broker.link.lobby import Lobby
from cloud_broker.link.terminators import Terminators
from cloud_broker.link.tls import Door, server_context
from cloud_broker.link.websocket import listen
from cloud_broker.replays import ReplayRuns
from cloud_broker.results import Results
from cloud_broker.retries import Schedule
from cloud_broker.router import Router
from cloud_broker.settings import ConfigError, Settings, split_address
from cloud_broker.store.agents import Linked
from cloud_broker.store.base import Store
from cloud_broker.store.open import migration, open_store
from cloud_broker.tenants import Scope
from protocol import limits
from protocol.messages import Limits

log = logging.getLogger(__name__)

GARBAGE: Final = (5_000, 20, 10)  # made and not freed between two looks for garbage: at the young, the older, all
M_MMAP_THRESHOLD: Final = -3  # of glibc's malloc.h
MAPPED_BYTES: Final = 250_000  # less than uvloop's buffer, more than a message of rows, which come and go all the time
DAY_S: Final = 86_400.0
TIDY_S: Final = 3_600.0  # seconds between two looks at what is past its retention
LOOK_AGAIN_S: Final = 5.0  # seconds until a revocation by the command line acts on a live link
POSITIONS_S: Final = 5.0  # seconds between two notes of how far the agents' journals have come
TIDY_COMMANDS: Final = 20  # removed in one transaction: whoever writes meanwhile waits for a millisecond or two
SWITCH_S: Final = 0.0005  # seconds that a thread waits for the interpreter before it asks for it
API_GRACE_S: Final = 5  # seconds that requests under way have when the broker stops


def serve(settings: Settings) -> None:
    """
    Run the broker until it is told to stop.

    Raises:
        ConfigError: the data folder was never initialised, or an address is taken.
    """
    # The store's thread lets go of the interpreter for each statement, and a busy event loop keeps it from then on for
    # as long as this: with the usual 5 ms one tenant's flood makes every transaction of all tenants slow.
    sys.setswitchinterval(SWITCH_S)
    # What was imported stays. Links are made by the thousand and stay as well: with Python's own numbers all of them
    # are looked through again and again while they come, each time for as long as a second.
    gc.freeze()
    gc.set_threshold(*GARBAGE)
    _raise_file_limit()
    _map_large_buffers()
    if sys.platform == "win32":
        asyncio.run(_serve(settings))
    else:
        # Imported here: there is none on Windows. It takes a fifth of the memory for an idle TLS connection.
        import uvloop

        uvloop.run(_serve(settings))


def _raise_file_limit() -> None:
    """Let this process have as many connections as the system lets it: shells and services are given 1,024 at first."""
    if sys.platform != "win32":
        # Imported here: there is none on Windows.
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            with contextlib.suppress(ValueError, OSError):  # some systems allow less than they say
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _map_large_buffers() -> None:
    """
    Let memory of MAPPED_BYTES and more be mapped by itself, always.

    uvloop has a buffer of 256 KiB for each TLS connection, of which an idle one has touched a page or two. Once one
    such buffer was given back, glibc would take the next from its heap, among all else: some 10 KiB more a link.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # another C library, which has no such setting
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
        else:
            loop.add_signal_handler(number, stop.set)
    async with running(settings):
        await stop.wait()
        log.info("stopping", extra={"event": "broker_stopping"})


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Services]:
    """Start a broker; it is stopped when the context is left."""
    trust = Trust.of(settings)
    await asyncio.to_thread(_tidy_authorities, settings)
    migrated = await asyncio.to_thread(migration, settings, do=True)
    store = open_store(settings)
    await store.open()
    try:
        if migrated is not None:
            log.warning(
                "the store was brought from schema %d to %d; a copy as it was: %s",
                migrated.found,
                migrated.wanted,
                migrated.copy,
                extra={"event": "store_migrated"},
            )
            store.note_soon(start_note.migrated(migrated, "broker", time.time()))
        results = Results(settings.data_dir / "results", settings.limits.inline_bytes, settings.limits.result_bytes)
        retries = settings.retries
        blobs = Blobs(store, settings.data_dir / "blobs", settings.limits)
        await blobs.open()
        router = Router(store, results, blobs, time.time, Schedule(retries.attempts, retries.first, retries.most))
        await router.start()
        store.note_soon(start_note.started(settings, time.time()))
        try:
            async with _listening(settings, trust, store, router, results) as services:
                yield services
        finally:
            await router.stop()
            store.note_soon(start_note.stopped(time.time()))
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def _listening(
    settings: Settings, trust: Trust, store: Store, router: Router, results: Results
) -> AsyncIterator[Services]:
    link_host, link_port = split_address(settings.link.listen)
    hosts = sorted({link_host, split_address(settings.link.url.removeprefix("wss://"))[0], "localhost"})
    door = await asyncio.to_thread(Door, partial(_context, settings, trust, hosts))
    terms = Terms(settings.certificates.life, settings.certificates.trust_domain)
    front = Terminators(settings.link.terminators)
    who = Identification(trust, terms.trust_domain, front)
    lobby = Lobby(settings.limits.strangers, settings.limits.strangers_per_address, front)
    own = Limits(
        stream_window_bytes=limits.STREAM_WINDOW_BYTES,
        link_window_bytes=limits.LINK_WINDOW_BYTES,
        max_command_bytes=settings.limits.command_bytes,
        sends_again=limits.SENDS_AGAIN,
    )

    renewals = Renewals(store, trust, terms, settings.certificates.grace, time.time)
    notary = Notary(store.note_soon)
    desk = AgentDesk(store, router, time.time, renewals, notary)

    async def converse(transport: Transport, peer: Peer) -> None:
        await Conversation(transport, peer, desk, release=RELEASE, own=own).serve()

    async def issue_token(scope: Scope, agent: str, group: str | None, ttl_s: float, by: str) -> tuple[str, float]:
        return await tokens.new_token(store, trust, settings, scope.tenant, agent, group, ttl_s, by)

    async def revoke_agent(scope: Scope, agent: str, by: str) -> bool:
        found = await store.revoke_agent(scope, agent, time.time(), by=by)
        router.revoke(scope, agent)
        return found

    two_replace = "replace_agent" in settings.approvals.required
    admission = Admission(store, trust, renewals, terms, notary, two_replace=two_replace)
    commands = Commands(store, router, results, settings.limits.open_commands)
    dead_letters = DeadLetters(store, commands)
    replay_runs = ReplayRuns(store, dead_letters)
    approvals = Approvals(store, settings.approvals, acts(store, dead_letters, replay_runs, revoke_agent))
    services = Services(
        settings=settings,
        store=store,
        commands=commands,
        issue_token=issue_token,
        revoke_agent=revoke_agent,
        link_listening=lambda: not router.stopping,
        dead_letters=dead_letters,
        replay_runs=replay_runs,
        approvals=approvals,
        blobs=router.blobs,
        enrol=lambda agent, message, csr, source: admission.enrolled(message, csr, source, agent),
        authorities=lambda: trust.for_agents,
    )
    # The API comes last and goes first: whoever gets through to it finds everything behind it.
    async with contextlib.AsyncExitStack() as link:
        with _taken(settings.link.listen, "link.listen"):
            await link.enter_async_context(
                listen(link_host, link_port, door.context, who, admission.admit, converse, admission.enrol, lobby)
            )
        chores = [
            asyncio.create_task(every(seconds, chore), name=name)
            for name, seconds, chore in (
                ("tidy what is past its retention", TIDY_S, lambda: _tidy(settings, store, results)),
                ("remove blobs that nothing needs", TIDY_S, router.blobs.tidy),
                ("look again at who is linked", LOOK_AGAIN_S, lambda: _look_again(router, admission, store)),
                ("keep how far the agents' journals have come", POSITIONS_S, desk.keep_positions),
                ("tell agents where the audit trail stands", TELL_S, desk.tell_audit),
                ("show the server's certificate of today", DAY_S, lambda: asyncio.to_thread(door.change)),
                ("see whether the authorities changed", LOOK_AGAIN_S, lambda: _look_at_trust(trust, door, desk)),
            )
        ]
        await replay_runs.start()
        await approvals.start()
        try:
            async with _api(settings, services):
                log.info(
                    "serving: API at %s, agents at %s",
                    settings.api_url,
                    settings.link.url,
                    extra={"event": "broker_serving", "release": RELEASE},
                )
                try:
                    yield services
                finally:
                    await approvals.stop()
                    await replay_runs.stop()
                    # First of all: who asks now is to ask this broker when it is back.
                    router.stop_taking()
        finally:
            await replay_runs.stop()
            for task in chores:
                task.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
            # Before the listener goes, so that every agent hears why and when to come back.
            await router.farewell()


class _Server(uvicorn.Server):
    """uvicorn, with the signals left to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def _api(settings: Settings, services: Services) -> AsyncIterator[None]:
    host, port = split_address(settings.api.listen)
    with _taken(settings.api.listen, "api.listen"):
        bound = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    server = _Server(server_of(create_app(services), settings, timeout_graceful_shutdown=API_GRACE_S))
    task = asyncio.create_task(server.serve(sockets=[bound]), name="serve the HTTP API")
    try:
        yield
    finally:
        server.should_exit = True
        await task
        bound.close()


@contextlib.contextmanager
def _taken(address: str, key: str) -> Iterator[None]:
    """Say which setting names an address that can't be listened on."""
    try:
        yield
    except OSError as exc:
        raise ConfigError(f"{key} = {address!r}: can't listen there: {exc.strerror}; is a broker running?") from exc


async def every(seconds: float, chore: Callable[[], Awaitable[None]]) -> None:
    """Do a chore now and then, for good: one that fails, on a full disk for instance, is told and done again."""
    while True:
        try:
            await chore()
        except Exception:  # a chore that failed once is done again at its next time
            task = asyncio.current_task()
            log.exception("a chore failed", extra={"event": "chore_failed", "chore": task.get_name() if task else ""})
        await asyncio.sleep(seconds)


async def _tidy(settings: Settings, store: Store, results: Results) -> None:
    before = time.time() - settings.limits.retention_days * DAY_S
    while gone := await store.forget_before(before, TIDY_COMMANDS):
        for tenant, command_id in gone:
            await asyncio.to_thread(results.remove, Scope(tenant), command_id)
    await store.shrink()


async def _look_again(router: Router, admission: Admission, store: Store) -> None:
    """End the links of those who were revoked or suspended meanwhile, by the command line for instance."""
    links = router.links()
    doubtful = await store.doubtful(
        [Linked(link.peer.tenant, link.peer.agent, link.peer.serial, link.peer.own_pki) for link in links]
    )
    now = time.time()
    run_out = [number for number, link in enumerate(links) if not admission.good(link.peer, now)]
    for number in {*doubtful, *run_out}:
        link = links[number]
        refusal = await admission.standing(link.peer)
        if refusal is not None:
            link.end("expired" if link.peer.not_after <= time.time() else "revoked", refusal)


def _tidy_authorities(settings: Settings) -> None:
    """Remove what a drop that was cut off has left; a broker without that right serves all the same."""
    try:
        removed = remove_dropped(settings.data_dir)
    except OSError as exc:
        log.error("%s: the key of a dropped authority can't be removed: %s", exc.filename, exc.strerror or exc)
        return
    if removed:
        log.warning("removed what was left of a dropped authority: %s", ", ".join(removed))


def _context(settings: Settings, trust: Trust, hosts: list[str]) -> ssl.SSLContext:
    link = settings.link
    own = (link.certificate, link.key) if link.certificate is not None and link.key is not None else None
    try:
        return server_context(trust.issuing, hosts, time.time(), trusted=trust.for_clients, own=own)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        if own is None:
            raise
        raise ConfigError(f"link.certificate = {str(own[0])!r}: can't be used with {str(own[1])!r}: {exc}") from exc


async def _look_at_trust(trust: Trust, door: Door, desk: AgentDesk) -> None:
    """Take over what `outhaul-broker authority` changed."""
    if await asyncio.to_thread(trust.look_again):
        await asyncio.to_thread(door.change)
        desk.tell_trust()
        log.info("the authorities are %s now", trust.ours.phase, extra={"event": "authorities_changed"})
