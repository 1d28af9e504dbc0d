"""
The operator's own certificate in place of enrolment: PEM files that the operator's file names.

They are the operator's to renew. They are read at each dial, and looked at meanwhile: when they change, the new
certificate is proven on a second connection before the link is dialled anew with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from agent.config_file import Loaded
from agent.errors import AgentError, EnrolmentError, LinkRefused
from agent.identity import authorities
from agent.identity import held as identity
from agent.identity.held import Identity, broker_url
from agent.identity.lineage import Lineage
from agent.identity.papers import Papers, Shown, Voice
from agent.identity.renewal import keep_lineage, prove, read_lineage
from agent.identity.validity import Life, left_text
from agent.link.base import Dialer, Ended, Transport
from agent.link.routes import Routes
from agent.link.websocket import WebsocketDialer
from agent.secrets import SecretStore
from agent.secrets.resolve import resolve
from protocol.messages import RENEWAL, Renewed, Trust, Welcome

LOOK_S: Final = 10.0  # seconds between two looks at the files

Stamp = tuple[tuple[int, int], ...]  # of each file when it was written, and its bytes

log = logging.getLogger(__name__)


class OwnFiles(msgspec.Struct, frozen=True):
    """
    What the operator's file says of them.

    Attributes:
        agent: the name that the certificate must have.
        url: of the broker.
        certificate: PEM.
        key: PEM; may be the same file.
        passphrase: of the key, as it stands in the file; "" if there is none.
        authorities: PEM.
    """

    agent: str
    url: str
    certificate: Path
    key: Path
    passphrase: str
    authorities: Path


def own_files(loaded: Loaded) -> OwnFiles | None:
    """Return the files that the operator's file names, or ``None`` where the agent enrols."""
    link = loaded.settings.link
    if link.certificate is None or link.authorities is None or link.url is None:
        return None
    return OwnFiles(
        agent=loaded.settings.agent,
        url=broker_url(link.url),
        certificate=loaded.base_dir / link.certificate,
        key=loaded.base_dir / (link.key or link.certificate),
        passphrase=link.passphrase or "",
        authorities=loaded.base_dir / link.authorities,
    )


def find(loaded: Loaded) -> Identity | None:
    """
    Return who this agent is, by enrolment or by its own files, without the key's passphrase; ``None`` before it is.

    Raises:
        EnrolmentError: it is damaged; the text names file and fix.
    """
    files = own_files(loaded)
    return identity.find(loaded.base_dir / loaded.settings.state_dir) if files is None else read(files)


def load_any(loaded: Loaded, secrets: SecretStore) -> Identity:
    """
    Return who this agent is, ready to dial.

    Raises:
        EnrolmentError: it has no certificate, or a damaged one.
        SecretError: the key's passphrase is missing.
    """
    files = own_files(loaded)
    if files is None:
        return identity.load(loaded.base_dir / loaded.settings.state_dir, secrets)
    return load(files, secrets)


def read(files: OwnFiles) -> Identity:
    """
    Return the identity that the files make, without the key's passphrase.

    Raises:
        EnrolmentError: they are not as they must be; the text names file and fix.
    """
    # Imported here: it costs the agent 10 MiB, and one that enrolled seldom needs it.
    from agent.identity import certificates

    try:
        issued = certificates.read(files.certificate.read_bytes())
    except OSError as exc:
        raise EnrolmentError(
            f"link.certificate {files.certificate}: can't be read: {exc.strerror or exc}; it must be a PEM file that "
            "the agent's account may read"
        ) from exc
    except EnrolmentError as exc:
        raise EnrolmentError(f"link.certificate {files.certificate}: {exc}") from exc
    if issued.agent != files.agent:
        raise EnrolmentError(
            f"link.certificate {files.certificate}: is for the agent {issued.agent!r}, and the operator's file says "
            f"{files.agent!r}; they must be the same"
        )
    return Identity(
        certificate=files.certificate,
        key=files.key,
        authorities=files.authorities,
        tenant=issued.tenant,
        agent=issued.agent,
        url=files.url,
        serial=issued.serial,
        obtained_at=issued.not_before,
        not_after=issued.not_after,
        passphrase="",
        own=True,
    )


def load(files: OwnFiles, secrets: SecretStore) -> Identity:
    """
    Return the identity that the files make, once they were seen to fit together.

    Raises:
        EnrolmentError: they do not; the text names file and fix.
        SecretError: the passphrase is missing.
    """
    who = read(files)
    if files.passphrase:
        who = msgspec.structs.replace(who, passphrase=resolve(files.passphrase, secrets))
    identity.client_context(who)
    return who


class OwnPapers(Dialer, Papers):
    """
    Dials with the operator's certificate, and again when there is another one.

    Args:
        files: what they are.
        routes: the way to the broker.
        now: returns seconds since 1970; replaced in tests.
        look_s: seconds between two looks at the files.
    """

    def __init__(
        self,
        files: OwnFiles,
        state_dir: Path,
        routes: Routes,
        secrets: SecretStore,
        *,
        now: Callable[[], float] = time.time,
        look_s: float = LOOK_S,
    ) -> None:
        self._files = files
        self._routes = routes
        self._secrets = secrets
        self._now = now
        self._look_s = look_s
        self._dialer = WebsocketDialer(state_dir, routes, secrets)
        self.target = files.url
        self._lineage = Lineage(state_dir)
        self._link: Voice | None = None
        self._who: Identity | None = None  # with whom was dialled last
        self._used: Stamp = ()  # of the files then
        self._seen: Stamp = ()  # of files that did not prove good
        self._wanted: Trust | None = None  # the last of its kind that was told
        self._warned: tuple[str, float] | None = None

    async def connect(self) -> Transport:
        stamp, who = await asyncio.to_thread(self._read)
        if who.not_after <= self._now():
            raise LinkRefused(
                f"link.certificate {who.certificate}: ran out on {_when(who.not_after)}; put a renewed one there, the "
                "agent notices it by itself. If it has not run out, set this machine's clock",
                stage="certificate",
            )
        transport = await self._dialer.connect_as(who)
        self._who, self._used = who, stamp
        return transport

    async def shown(self) -> Shown:
        return await asyncio.to_thread(self._shown)

    def _shown(self) -> Shown:
        trusts = authorities.fingerprints(authorities.authorities_of(read(self._files)))
        # The feature is for the lineage; the agent asks for no certificate.
        return Shown(read_lineage(self._lineage), tuple(trusts), (RENEWAL,))

    async def welcomed(self, link: Voice, welcome: Welcome) -> None:
        await keep_lineage(self._lineage, welcome.lineage)
        self._link = link

    def heard(self, message: Renewed | Trust, payload: bytes) -> None:
        """Whom to trust is the operator's to say: what the broker wants is told, once."""
        if isinstance(message, Trust) and message != self._wanted:
            self._wanted = message
            log.info(
                "the broker would have its agents trust %d authorities; link.authorities says whom this one does",
                len(message.authorities),
                extra={"event": "trust_wanted"},
            )

    async def left(self, ended: Ended) -> None:
        self._link = None

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)
            try:
                await self._look()
            except AgentError as exc:
                log.warning("the certificate in use stays: %s", exc, extra={"event": "own_certificate_waits"})
            except Exception:  # a mistake of ours must not end all later looks
                log.exception("the certificate's files are not looked at", extra={"event": "papers_bug"})

    async def _look(self) -> None:
        """See whether there is another certificate, and dial with it if it proves good; if not, that is told once."""
        link = self._link
        if link is None or self._who is None:
            return
        stamp = await asyncio.to_thread(self._stamp)
        if stamp in (self._used, self._seen):
            self._warn(self._who)
            return
        try:
            who = await asyncio.to_thread(load, self._files, self._secrets)
            await prove(who, self._routes, self._secrets)
        except (LinkRefused, EnrolmentError):
            self._seen = stamp
            raise
        log.info(
            "there is another certificate; it %s",
            left_text(who.not_after, self._now()),
            extra={"event": "own_certificate_read", "serial": who.serial},
        )
        link.end("renewed", "the agent dials again with its new certificate")

    def _read(self) -> tuple[Stamp, Identity]:
        # The stamp first: what is written between the two is then seen as a change.
        return self._stamp(), load(self._files, self._secrets)

    def _stamp(self) -> Stamp:
        """Return what changes when one of the files does; also when it goes."""
        files = (self._files.certificate, self._files.key, self._files.authorities)
        with contextlib.suppress(OSError):
            return tuple((entry.st_mtime_ns, entry.st_size) for entry in (path.stat() for path in files))
        return ()

    def _warn(self, who: Identity) -> None:
        limit = Life(who.obtained_at, who.not_after).warning(self._now())
        if limit is None or self._warned == (who.serial, limit):
            return
        self._warned = (who.serial, limit)
        log.warning(
            "link.certificate %s %s; put a renewed one there, the agent notices it by itself",
            who.certificate,
            left_text(who.not_after, self._now()),
            extra={"event": "certificate_ends", "serial": who.serial, "not_after": who.not_after},
        )


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
