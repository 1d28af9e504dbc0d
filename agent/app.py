"""The agent: its stages made and joined, started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from agent import RELEASE, catalogue
from agent.anchors import Anchors
from agent.check.request import CheckRequests
from agent.config_file import Loaded
from agent.connectors import CONNECTORS
from agent.connectors.base import Call, Connector, DriverSetup, Finding, Outputs, Piece
from agent.connectors.sessions import DriverConnector
from agent.connectors.synthetic import SyntheticConnector
from agent.conversation import Conversation
from agent.dispatcher import Dispatcher
from agent.errors import CommandError, EnrolmentError, JournalUnavailable, SecretError, SourceUnavailable
from agent.identity import own_identity
from agent.identity.keys import AgentKeys
from agent.identity.own_identity import OwnPapers, own_files
from agent.identity.papers import MemoryPapers, Papers
from agent.identity.renewal import Renewals
from agent.journal.file import FileJournal
from agent.journal.resolutions import resolutions, take_resolution
from agent.link.base import Dialer, Ended, Transport
from agent.link.routes import Routes
from agent.link.supervisor import Supervisor
from agent.local_control import LocalControl
from agent.parameters import takes_anything
from agent.pauses import Pause
from agent.places import places
from agent.sealing import Seals
from agent.secrets import SecretStore
from agent.secrets.opener import Opener
from agent.secrets.resolve import resolve, secret_values
from agent.secrets.unlocking import UnlockedSecrets
from agent.service.base import Nobody, Notifier
from agent.service.pulse import Pulse, alive_meanwhile
from agent.service.readiness import wait_until_ready
from agent.settings import CallOperation, Settings
from agent.signatures import Signatures
from agent.spool import SpoolFolder
from agent.status import Status
from protocol import limits

log = logging.getLogger(__name__)

DESCRIBE_S: Final = 10.0  # seconds that sources have to describe their operations before the first link
HEAD_S: Final = 5.0  # seconds after a command came until the broker hears where the journal stands
WINDOWS_S: Final = 30.0  # seconds between two looks at the local clock, which may be set at any time
RESOLUTIONS_S: Final = 2.0  # seconds between two looks for what people found out, where something waits for it
RESOLUTIONS_IDLE_S: Final = 60.0  # seconds where nothing does
DESCRIBE_AGAIN_S: Final = 60.0  # seconds until one that could not is asked again


class Unusable(Connector):
    """A connection that can't be used before somebody mends it; its commands are refused with the reason."""

    def __init__(self, name: str, reason: str) -> None:
        self._name = name
        self._reason = reason

    async def run(self, call: Call) -> AsyncGenerator[Piece, None]:
        raise SourceUnavailable(self._reason, touched=False)
        yield  # makes this a generator, as the interface wants

    async def find(self, call: Call) -> Outputs | None:
        raise SourceUnavailable(self._reason)  # asked again, by the process that can ask

    async def check(self, operation: str | None = None) -> list[Finding]:
        return [Finding(f"connection {self._name}", False, self._reason, code="secrets.missing")]


def connectors(loaded: Loaded, secrets: SecretStore | None) -> dict[str, Connector]:
    """
    Return a connector for each connection of the file.

    Args:
        secrets: ``None`` if the store can't be opened; connections that need a secret are then unusable.
    """
    made: dict[str, Connector] = {}
    for name, connection in loaded.settings.connections.items():
        try:
            resolved = resolve(connection, secrets) if secrets is not None else connection
            values = secret_values(connection, secrets) if secrets is not None else ()
        except SecretError as exc:
            log.error("connection %s can't be used: %s", name, exc, extra={"event": "secret_missing"})
            made[name] = Unusable(name, str(exc))
            continue
        setup = DriverSetup(
            name=name,
            connection=resolved,
            operations={
                key: operation for key, operation in loaded.settings.operations.items() if operation.connection == name
            },
            base_dir=str(loaded.base_dir),
            state_dir=str(state_dir(loaded)),
            secrets=values,
        )
        made[name] = (
            SyntheticConnector(setup)
            if connection.type == "synthetic"
            else DriverConnector(setup, CONNECTORS[connection.type])
        )
    return made


def state_dir(loaded: Loaded) -> Path:
    """Return the agent's own folder."""
    return loaded.base_dir / loaded.settings.state_dir


class Agent:
    """
    One agent, from ``open`` to the end of ``run``.

    Attributes:
        journal: what it knows of its commands.
        dispatcher: of its commands.
        supervisor: of its link.
    """

    def __init__(
        self,
        loaded: Loaded,
        journal: FileJournal,
        secrets: SecretStore,
        keys: AgentKeys,
        *,
        dialer: Dialer | None = None,
    ) -> None:
        """
        Args:
            loaded: the operator's file.
            journal: open; closed at the end of ``run``.
            keys: the agent's own.
            dialer: the way to the broker; a test may give its own.
        """
        self._loaded = loaded
        settings = loaded.settings
        self._keys = keys
        self._known = ("", settings.agent)
        self._connectors = connectors(loaded, secrets)
        self._described: dict[str, dict[str, Any]] = {}
        self._conversation: Conversation | None = None
        self._stirred = asyncio.Event()  # set when something happened that the journal knows of
        self.journal = journal
        self.journal.changed = self._tell_condition
        self._anchors = Anchors(journal, tenant=lambda: self._who()[0])
        spool = SpoolFolder(state_dir(loaded) / "spool")
        seals = Seals(lambda: keys.seal, self._who)
        signatures = Signatures(settings, self._who, keys)
        self._places = _places(settings, secrets, journal.mark, keys)
        self.dispatcher = Dispatcher(settings, self._connectors, journal, spool, signatures, seals, self._places)
        self.dispatcher.stirred = self._stir
        self._papers: Papers = MemoryPapers()
        if dialer is None:
            files, routes = own_files(loaded), Routes.of(settings.link, loaded.base_dir)
            self._papers = dialer = (
                Renewals(state_dir(loaded), routes, secrets)
                if files is None
                else OwnPapers(files, state_dir(loaded), routes, secrets)
            )
        self._control = LocalControl(state_dir(loaded), tuple(settings.connections), self._obey, self._status)
        self._checks = CheckRequests(state_dir(loaded), loaded.path)
        self._started_at = time.time()
        self.supervisor = Supervisor(dialer, self._converse)

    @classmethod
    async def open(
        cls, loaded: Loaded, *, dialer: Dialer | None = None, secrets: UnlockedSecrets | None = None
    ) -> Agent:
        """
        Return an agent that has read its journal and taken up what an earlier process left.

        Raises:
            ConfigError: another agent runs with this state_dir, or the journal can't be read at all.
            EnrolmentError: the agent's own keys can't be opened.
            SecretError: the store of secrets can't be used.
        """
        folder = state_dir(loaded)
        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        secrets = secrets or UnlockedSecrets(loaded.settings, loaded.base_dir)
        try:
            journal = await FileJournal.open(folder)
        except BaseException:  # being stopped too: who holds the secrets must not outlive us
            await asyncio.to_thread(secrets.close)
            raise
        try:
            # After the journal, whose lock makes this the only process that may make keys.
            keys = await asyncio.to_thread(secrets.open_keys)
        except BaseException:  # being stopped too: the folder must not stay locked in this process
            await journal.close()
            raise
        agent = cls(loaded, journal, secrets, keys, dialer=dialer)
        await agent._know_itself()
        await agent._hear_resolutions()  # before anybody is asked who knows less
        await agent._control.look()  # before anything is asked or run
        agent.dispatcher.recover()
        return agent

    def what_hangs(self) -> str | None:
        """Return what of the link does not move on and never will by itself; ``None`` if all does."""
        if self.supervisor.stuck:
            return "the loop that keeps the link has not gone on"
        if self._conversation is not None and self._conversation.stuck:
            return "the conversation with the broker neither goes on nor ends"
        return None

    def in_a_line(self) -> str:
        """Return how the agent is, for people who look at the service."""
        how = self._status()
        link = f"linked to {how.broker}" if how.linked_since else f"not linked: {how.link_error or how.link}"
        return "; ".join((link, f"{self.dispatcher.running} running", *how.problems))

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop`` is set; then bring what runs to its end, keep it, tell, and close."""
        chores = [
            asyncio.create_task(self._watch_windows(), name="watch the windows"),
            asyncio.create_task(self._take_resolutions(), name="take what people found out"),
            asyncio.create_task(self._control.run(), name="obey who sits here"),
            asyncio.create_task(self._papers.run(), name="keep the papers"),
            asyncio.create_task(self._tell_head(), name="tell where the journal stands"),
            asyncio.create_task(self._checks.run(), name="try what is asked for"),
        ]
        describing = asyncio.create_task(self._describe(), name="describe operations")
        stopping = asyncio.create_task(stop.wait(), name="wait for stop")
        await asyncio.wait((describing, stopping), timeout=DESCRIBE_S, return_when=asyncio.FIRST_COMPLETED)
        unlink = asyncio.Event()
        linking = asyncio.create_task(self.supervisor.run(unlink), name="keep the link")
        try:
            await asyncio.wait((linking, stopping), return_when=asyncio.FIRST_COMPLETED)
            log.info("stopping", extra={"event": "agent_stopping", "running": self.dispatcher.running})
            self.dispatcher.take_no_more()
            self._tell_condition()
            await self.dispatcher.stop()
            if self._conversation is not None:
                self._conversation.end("stopping", "the agent is stopping")
            unlink.set()
            await linking
        finally:
            for task in (describing, linking, stopping, *chores):
                task.cancel()
            await asyncio.gather(describing, linking, stopping, *chores, return_exceptions=True)
            for connector in self._connectors.values():
                await connector.close()
            await self.journal.close()

    async def _converse(self, transport: Transport) -> Ended:
        await self._know_itself()
        self._conversation = conversation = Conversation(
            transport,
            self.dispatcher,
            release=RELEASE,
            journal=self.journal,
            anchors=self._anchors,
            max_running=self._loaded.settings.max_running,
            silence_s=self._loaded.settings.link.heartbeat * limits.BEATS_IN_SILENCE,
            catalogue=self._catalogue,
            papers=self._papers,
            beat=self._control.wake,
        )
        ended = Ended()
        self._stir()
        try:
            ended = await conversation.serve()
            return ended
        finally:
            await self._papers.left(ended)
            if self._conversation is conversation:
                self._conversation = None
            self._stir()

    def _who(self) -> tuple[str, str]:
        """Return tenant and name as the certificate has them; a broker's word for them is not asked."""
        return self._known

    async def _know_itself(self) -> None:
        """Look at the identity again, which may have become another one."""
        try:
            found = await asyncio.to_thread(own_identity.find, self._loaded)
        except EnrolmentError as exc:
            log.error("%s", exc, extra={"event": "identity_unreadable"})
            return
        if found is not None:
            self._known = (found.tenant, found.agent)

    def _stir(self) -> None:
        self._stirred.set()
        self._control.work_began()

    def _tell_condition(self) -> None:
        if self._conversation is not None:
            self._conversation.tell_condition()

    def _obey(self, paused: Mapping[str, Pause]) -> None:
        # In one breath: what is turned away ends a moment later, when the broker knows why.
        self.dispatcher.obey(paused)
        self._tell_condition()

    def _status(self) -> Status:
        link = self.supervisor.state
        welcomed = self._conversation is not None and self._conversation.welcomed
        return Status(
            at=time.time(),
            pid=os.getpid(),
            release=RELEASE,
            started_at=self._started_at,
            link=link.state,
            linked_since=link.connected_since if welcomed else None,
            broker=link.target,
            link_error="" if welcomed else link.last_error,
            problems=self.dispatcher.condition().problems,
            connections=self.dispatcher.connections(),
        )

    async def _tell_head(self) -> None:
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            await asyncio.sleep(HEAD_S)
            if self.dispatcher.running:
                self._stirred.set()
            if self._conversation is not None:
                self._conversation.tell_head()

    async def _watch_windows(self) -> None:
        """Tell the broker when a connection's window opens or closes."""
        if not any(connection.windows for connection in self._loaded.settings.connections.values()):
            return
        while True:
            self._tell_condition()
            await asyncio.sleep(WINDOWS_S)

    async def _take_resolutions(self) -> None:
        while True:
            await asyncio.sleep(RESOLUTIONS_S if self.dispatcher.inquiring else RESOLUTIONS_IDLE_S)
            await self._hear_resolutions()

    async def _hear_resolutions(self) -> None:
        """Hear what people found out with ``outhaul-agent journal resolve``."""
        folder = state_dir(self._loaded)
        try:
            for command_id, resolution in await asyncio.to_thread(resolutions, folder):
                self._stir()
                try:
                    await self.dispatcher.resolve(command_id, resolution)
                except KeyError:
                    log.warning("no command %s is in the journal", command_id, extra={"event": "resolution_unknown"})
                await asyncio.to_thread(take_resolution, folder, command_id)
        except JournalUnavailable:
            pass  # kept for the next time
        except OSError as exc:
            log.warning(
                "%s: what people found out can't be taken: %s", folder, exc, extra={"event": "resolution_waits"}
            )

    def _catalogue(self) -> tuple[str, bytes]:
        built = catalogue.build(self._loaded.settings, self._described, self._keys.public, self._places)
        return catalogue.digest(built), catalogue.encode(built)

    async def _describe(self) -> None:
        """Ask sources for the types that stand with them (WSDL), again and again until all have told."""
        wanted = {
            name: operation
            for name, operation in self._loaded.settings.operations.items()
            if isinstance(operation, CallOperation) and takes_anything(operation)
        }
        while wanted:
            for name, operation in list(wanted.items()):
                if operation.connection in self.dispatcher.condition().paused:
                    continue  # a paused system is asked nothing
                try:
                    schema = await self._connectors[operation.connection].describe(name)
                except CommandError as exc:
                    log.warning(
                        "operation %s is not described yet: %s", name, exc.message, extra={"event": "not_described"}
                    )
                    continue
                del wanted[name]
                if schema is not None:
                    self._described[name] = schema
            if self._conversation is not None:
                self._conversation.announce()
            if wanted:
                await asyncio.sleep(DESCRIBE_AGAIN_S)


def _places(settings: Settings, secrets: SecretStore, mark: str, keys: AgentKeys) -> dict[str, str]:
    """Return the words for where connections lead; none for those that can't be used, for want of a secret."""
    usable = {}
    for name, connection in settings.connections.items():
        with contextlib.suppress(SecretError):
            usable[name] = resolve(connection, secrets)
    return places(usable, mark, keys.seal_bytes)


def _nothing() -> None:
    pass


def run(loaded: Loaded, started: Callable[[], None] = _nothing, *, secrets: UnlockedSecrets | None = None) -> None:
    """
    Run the agent in the foreground until SIGINT, SIGTERM or Ctrl-Break.

    Args:
        started: called once the agent runs.
        secrets: of the file; one may have been made early.
    """
    for remark in loaded.remarks:
        log.warning("%s", remark, extra={"event": "config_remark"})
    asyncio.run(_run(loaded, started, secrets))


def run_as_service(config: Path, notifier: Notifier, opener: Opener) -> None:
    """
    Run until the service manager says to stop; what is missing, such as a certificate, is waited for.

    Args:
        config: the operator's file.
        notifier: the service manager's ear.
        opener: of secrets, made early; closed where there is something to wait for.
    """
    asyncio.run(_run_as_service(config, notifier, opener))


async def _run(loaded: Loaded, started: Callable[[], None], secrets: UnlockedSecrets | None) -> None:
    await serve(loaded, _told_to_stop(), Nobody(), started, secrets)


async def _run_as_service(config: Path, notifier: Notifier, opener: Opener) -> None:
    stop = _told_to_stop()

    def tell(waits_for: str) -> None:
        opener.close()
        notifier.ready()  # or it would be started again and again
        notifier.status(waits_for)

    async with alive_meanwhile(notifier):
        loaded = await wait_until_ready(config, stop, tell)
    if loaded is not None:
        secrets = UnlockedSecrets(loaded.settings, loaded.base_dir, opener)
        await serve(loaded, stop, notifier, secrets=secrets)


def _told_to_stop() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if sys.platform == "win32":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGBREAK):
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    else:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
    return stop


async def serve(
    loaded: Loaded,
    stop: asyncio.Event,
    notifier: Notifier,
    started: Callable[[], None] = _nothing,
    secrets: UnlockedSecrets | None = None,
) -> None:
    """
    Run the agent until ``stop`` is set, and tell the system's service manager how it is.

    Args:
        notifier: the service manager's ear.
        started: called once the agent runs.
        secrets: as for ``run``.
    """
    async with alive_meanwhile(notifier):  # a long journal is read first
        agent = await Agent.open(loaded, secrets=secrets)
    pulse = Pulse(notifier, journal=agent.journal.sign_of_life, link=agent.what_hangs, line=agent.in_a_line)
    feeling = asyncio.create_task(pulse.run(stop), name="feel the pulse")
    notifier.ready()
    started()
    try:
        await agent.run(stop)
    finally:
        feeling.cancel()
        await asyncio.gather(feeling, return_exceptions=True)
