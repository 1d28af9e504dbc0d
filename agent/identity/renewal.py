"""
The agent's certificate, renewed over the link before it runs out, and got back after it did.

A renewal never takes away what works: the new identity is written beside the old one, proven on a second connection,
put in force, and the old one goes when the broker took the new one on a link. Whatever ends in between, of the two
certificates one is good, and whichever the broker refuses makes room for the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent.errors import AgentError, EnrolmentError, LinkError, LinkRefused
from agent.identity import authorities, recovery, succession
from agent.identity import held as identity
from agent.identity.exchange import Refused
from agent.identity.held import Identity
from agent.identity.lineage import Lineage
from agent.identity.papers import Papers, Shown, Voice
from agent.identity.validity import Life, left_text
from agent.link import backoff
from agent.link.base import Dialer, Ended, Transport
from agent.link.routes import Routes
from agent.link.websocket import WebsocketDialer, open_any
from agent.secrets import SecretStore
from protocol.messages import RENEWAL, Renew, Renewed, Trust, Trusts, Welcome

if TYPE_CHECKING:
    from agent.identity.certificates import Pending

LOOK_S: Final = 60.0  # seconds between two looks at the clock and at the identity, which may be changed at any time
ANSWER_S: Final = 30.0  # seconds for the broker to sign; it takes milliseconds
WORD_S: Final = 5.0  # seconds for the broker to say whom it sees on the second connection
REFUSED_CODES: Final = ("refused", "revoked")  # goodbyes that may be about the certificate
LEAST_PAUSE_S: Final = 1.0  # seconds between two tries, however short the life

log = logging.getLogger(__name__)


class Renewals(Dialer, Papers):
    """
    Dials with the certificate in force, and sees that there is always one that is good.

    Args:
        state_dir: the agent's own folder.
        routes: the way to the broker.
        chance: returns a number in [0, 1); replaced in tests.
        now: returns seconds since 1970; replaced in tests.
    """

    def __init__(
        self,
        state_dir: Path,
        routes: Routes,
        secrets: SecretStore,
        *,
        chance: Callable[[], float] = random.random,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._state_dir = state_dir
        self._routes = routes
        self._secrets = secrets
        self._chance = chance
        self._now = now
        self._dialer = WebsocketDialer(state_dir, routes, secrets)
        self.target = self._dialer.target
        self._lineage = Lineage(state_dir)
        self._backoff = backoff.Backoff(chance)
        self._jitter = chance()
        self._changed = asyncio.Event()
        self._link: Voice | None = None
        self._serial = ""  # of the certificate that was dialled with last
        self._answer: asyncio.Future[tuple[Renewed, bytes]] | None = None
        self._trust: Trust | None = None  # that is not kept yet
        self._not_before = 0.0  # when to try again after a failure
        self._refusals = 0  # of the broker, in a row
        self._warned: tuple[str, float] | None = None

    # --- dialling -----------------------------------------------------------------------------------

    async def connect(self) -> Transport:
        who = await asyncio.to_thread(self._load)
        said = ""
        life = Life(who.obtained_at, who.not_after)
        # The broker's clock may be past the end while ours is not; once is not enough, as there may be another to try.
        if life.over(self._now()) or (self._refusals > 1 and self._now() >= life.due(0.0)):
            if (rest_s := life.rest_s(self._now())) > 0:
                raise LinkRefused(
                    f"the broker's last certificate was good for {life.whole_s:.0f} seconds only; another is asked for "
                    f"in {rest_s:.0f} seconds",
                    stage="certificate",
                    retry_after_s=rest_s,
                )
            who, said = await self._recovered(who)
        try:
            transport = await self._dialer.connect_as(who)
        except LinkRefused as exc:
            if exc.stage == "proxy":
                raise
            self._refusals += 1
            await self._go_back(who.serial, str(exc))
            raise (LinkRefused(f"{exc}. It gave no other: {said}", stage=exc.stage) if said else exc) from exc
        finally:
            self.target = self._dialer.target
        self._refusals, self._serial = 0, who.serial
        return transport

    def _load(self) -> Identity:
        try:
            return identity.load(self._state_dir, self._secrets)
        except EnrolmentError:
            serial = identity.current_serial(self._state_dir)
            if serial is None or succession.go_back(self._state_dir, serial) is None:
                raise
            log.exception("the certificate in force can't be used", extra={"event": "identity_damaged"})
            return identity.load(self._state_dir, self._secrets)

    async def _recovered(self, who: Identity) -> tuple[Identity, str]:
        """Return the identity to dial with, and what the broker said if it gave no new one."""
        when = datetime.fromtimestamp(who.not_after, UTC).strftime("%Y-%m-%d %H:%M UTC")
        try:
            found = await recovery.recover(who, self._state_dir, self._routes, self._secrets)
        except Refused as exc:
            if exc.retry_after_s:
                # Not for as long as it likes: what it waits for, such as an operator, may be done at any moment.
                raise LinkRefused(
                    f"the certificate ran out on {when}; the broker gives another later: {exc.reason}",
                    stage="certificate",
                    retry_after_s=min(exc.retry_after_s, backoff.REFUSED_CAP_S),
                ) from exc
            await asyncio.to_thread(recovery.forget_request, self._state_dir)
            return who, exc.reason
        except (OSError, EnrolmentError) as exc:
            raise LinkError(
                f"the certificate ran out on {when}, and no other could be had: {exc}", stage="certificate"
            ) from exc
        log.warning(
            "the certificate ran out on %s; the broker gave another",
            when,
            extra={"event": "certificate_recovered", "serial": found.serial, "before": who.serial},
        )
        self._drawn_anew()
        return found, ""

    async def _go_back(self, refused: str, reason: str) -> None:
        """
        Dial with the other certificate next, if there are two.

        Raises:
            LinkError: there are, so the next dial is not one that was refused.
        """
        try:
            other = await asyncio.to_thread(succession.go_back, self._state_dir, refused)
        except OSError as exc:
            raise LinkError(
                f"{reason}; the agent has another certificate, and can't write down that it is to be used: {exc}",
                stage="certificate",
            ) from exc
        if other is not None:
            await asyncio.to_thread(recovery.forget_request, self._state_dir)
            raise LinkError(
                f"{reason}. This agent has another certificate ({other}), which is shown next", stage="certificate"
            )

    # --- what the link says ---------------------------------------------------------------------------

    async def shown(self) -> Shown:
        return await asyncio.to_thread(self._shown)

    def _shown(self) -> Shown:
        who = identity.find(self._state_dir)
        trusts = authorities.fingerprints(authorities.authorities_of(who)) if who is not None else []
        return Shown(read_lineage(self._lineage), tuple(trusts), (RENEWAL,))

    async def welcomed(self, link: Voice, welcome: Welcome) -> None:
        await keep_lineage(self._lineage, welcome.lineage)
        try:
            await asyncio.to_thread(succession.settle, self._state_dir, self._serial)
        except OSError as exc:
            log.warning("an old certificate is not cleared away yet: %s", exc, extra={"event": "renewal_not_settled"})
        self._link = link
        self._changed.set()

    def heard(self, message: Renewed | Trust, payload: bytes) -> None:
        if isinstance(message, Trust):
            self._trust = message
            self._changed.set()
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result((message, payload))

    async def left(self, ended: Ended) -> None:
        self._link = self._trust = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LinkError("the link was lost before the broker answered"))
        if ended.code in REFUSED_CODES:
            with contextlib.suppress(LinkError):
                await self._go_back(self._serial, ended.reason)

    # --- what is due ----------------------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            self._changed.clear()
            try:
                wait_s = await self._step()
            except AgentError as exc:
                log.error("%s", exc, extra={"event": "identity_unreadable"})
                wait_s = LOOK_S
            except Exception:  # a mistake of ours must not end all later renewals
                log.exception("the agent's papers are not kept", extra={"event": "papers_bug"})
                wait_s = LOOK_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()

    async def _step(self) -> float:
        """Do what is due, and return the seconds until the next look."""
        who = await asyncio.to_thread(identity.find, self._state_dir)
        if who is None:
            return LOOK_S
        self._warn(who)
        link = self._link
        if link is None:
            return LOOK_S
        if who.serial != self._serial:
            link.end("renewed", "the agent dials again with its new certificate")
            return LOOK_S
        if self._trust is not None:
            await self._take_trust(link, self._trust, who)
        life, now = Life(who.obtained_at, who.not_after), self._now()
        due = max(life.due(self._jitter), self._not_before, now + life.rest_s(now))
        if RENEWAL not in link.features:
            return LOOK_S
        if now < due:
            return min(due - now, LOOK_S)
        await self._renew(link, life)
        return 0.0

    async def _renew(self, link: Voice, life: Life) -> None:
        refused, retry_after_s = False, 0.0
        try:
            await self._one_renewal(link)
        except Refused as exc:
            refused, retry_after_s, why = True, exc.retry_after_s, exc.reason
            # What the broker will not sign today it need not be asked tomorrow.
            await asyncio.to_thread(recovery.forget_request, self._state_dir)
        except LinkRefused as exc:
            refused, why = True, f"the new certificate did not prove good: {exc}"
            await asyncio.to_thread(recovery.forget_request, self._state_dir)
        except (AgentError, OSError) as exc:
            why = str(exc)
        else:
            self._drawn_anew()
            return
        pause_s = max(LEAST_PAUSE_S, life.pause_s)
        # A lost answer is asked for again soon, by the way of all that is lost; a no is taken for a while.
        if not refused:
            pause_s = min(pause_s, max(LEAST_PAUSE_S, self._backoff.next_delay()))
        elif retry_after_s > 0:
            pause_s = min(pause_s, max(LEAST_PAUSE_S, retry_after_s))
        self._not_before = self._now() + pause_s
        log.warning(
            "the certificate is not renewed yet: %s; it %s, and is tried again in %.0f s",
            why,
            left_text(life.end, self._now()),
            pause_s,
            extra={"event": "renewal_failed", "reason": why, "next_try_s": round(pause_s)},
        )

    def _drawn_anew(self) -> None:
        self._jitter, self._not_before, self._backoff = self._chance(), 0.0, backoff.Backoff(self._chance)

    async def _one_renewal(self, link: Voice) -> None:
        """
        Get a certificate, prove it, put it in force.

        Raises:
            Refused: the broker gives none.
            AgentError, OSError: it can't be had, proven or kept now.
        """
        who = await asyncio.to_thread(identity.load, self._state_dir, self._secrets)
        pending, csr = await asyncio.to_thread(self._pending, who)
        der = await self._ask(link, Renew(request=pending.request), csr)
        found = await asyncio.to_thread(self._write_beside, who, pending, der)
        await self._prove(found)
        if await asyncio.to_thread(succession.switch, self._state_dir, who.serial, found.serial):
            log.info(
                "the certificate is renewed; it %s",
                left_text(found.not_after, self._now()),
                extra={"event": "certificate_renewed", "serial": found.serial, "before": who.serial},
            )

    def _pending(self, who: Identity) -> tuple[Pending, bytes]:
        # Imported here: it costs the agent 10 MiB, once in a month.
        from agent.identity import certificates

        folder = identity.identity_folder(self._state_dir) / recovery.RENEWAL_FOLDER
        pending = certificates.pending(folder, f"renewal of {who.serial}", who.passphrase)
        return pending, certificates.signing_request(pending.key)

    async def _ask(self, link: Voice, question: Renew, csr: bytes) -> bytes:
        if link is not self._link:
            raise LinkError("the link was lost before the broker was asked")
        self._answer = asyncio.get_running_loop().create_future()
        link.tell(question, csr)
        try:
            async with asyncio.timeout(ANSWER_S):
                answer, der = await self._answer
        except TimeoutError as exc:
            raise LinkError(f"the broker did not answer within {ANSWER_S:.0f} s") from exc
        finally:
            self._answer = None
        if answer.refused or not der:
            raise Refused(answer.refused or "the broker sent no certificate", answer.retry_after_s)
        if answer.request != question.request:
            raise LinkError("the broker answered another request")
        return der

    def _write_beside(self, who: Identity, pending: Pending, der: bytes) -> Identity:
        from agent.identity import certificates

        issued = certificates.checked(der, pending.key, who.tenant, who.agent)
        if issued.not_after <= self._now():
            recovery.forget_request(self._state_dir)
            raise EnrolmentError("the certificate that the broker sent has run out; is this machine's clock right?")
        return msgspec.structs.replace(
            succession.write_beside(
                self._state_dir,
                issued,
                key_pem=pending.key_pem,
                authorities=authorities.authorities_of(who),
                url=who.url,
                obtained_at=self._now(),
            ),
            passphrase=who.passphrase,
        )

    async def _take_trust(self, link: Voice, message: Trust, who: Identity) -> None:
        """Trust other authorities from now on; such that would shut the broker out are not kept."""
        try:
            await self._keep_trust(link, message, who)
        except (AgentError, OSError) as exc:
            log.error("the agent still trusts the authorities that it did: %s", exc, extra={"event": "trust_not_kept"})
        if self._trust is message:
            self._trust = None

    async def _keep_trust(self, link: Voice, message: Trust, who: Identity) -> None:
        wanted = authorities.authorities_in(message.authorities)
        have = await asyncio.to_thread(authorities.authorities_of, who)
        if set(have) - set(wanted):
            # Something is dropped: before that is so, the broker must be reached without it.
            whole = await asyncio.to_thread(identity.load, self._state_dir, self._secrets)
            await self._prove(whole, wanted)
        await asyncio.to_thread(succession.keep_authorities, self._state_dir, who, wanted)
        names = authorities.fingerprints(wanted)
        link.tell(Trusts(authorities=names))
        log.info("authorities kept", extra={"event": "trust_kept", "authorities": names})

    async def _prove(self, who: Identity, trusted: Sequence[bytes] | None = None) -> None:
        await prove(who, self._routes, self._secrets, trusted)

    def _warn(self, who: Identity) -> None:
        limit = Life(who.obtained_at, who.not_after).warning(self._now())
        if limit is None or self._warned == (who.serial, limit):
            return
        self._warned = (who.serial, limit)
        left = left_text(who.not_after, self._now())
        log.warning(
            "the agent's certificate %s and is not renewed; see that the agent reaches the broker at %s",
            left,
            who.url,
            extra={"event": "certificate_ends", "serial": who.serial, "not_after": who.not_after},
        )


async def prove(who: Identity, routes: Routes, secrets: SecretStore, trusted: Sequence[bytes] | None = None) -> None:
    """
    See that the broker takes this certificate, on a connection of its own on which nothing else happens.

    Args:
        trusted: authorities to trust instead of those that are kept with it, DER.

    Raises:
        LinkRefused: it does not.
        LinkError: it was not reached.
        EnrolmentError: the files do not fit together.
    """
    context = await asyncio.to_thread(identity.client_context, who, trusted)
    transport = await open_any(who.url, "/prove", context, routes, secrets, certificate_ends=who.not_after)
    try:
        # That the websocket opened is the proof; what it says is for people who look at the wire.
        with contextlib.suppress(LinkError, TimeoutError):
            async with asyncio.timeout(WORD_S):
                await transport.receive()
    finally:
        await transport.close()


async def keep_lineage(kept: Lineage, lineage: str) -> None:
    """
    Put a new lineage on the disk; an empty one says nothing.

    Raises:
        LinkError: it can't be written.
    """
    if not lineage:
        return
    try:
        await asyncio.to_thread(kept.keep, lineage)
    except (OSError, ValueError) as exc:
        raise LinkError(
            f"the lineage that the broker gave can't be kept ({exc}), and without it this machine could be taken for "
            "a copy of itself; see that state_dir can be written",
            stage="setup",
        ) from exc


def read_lineage(kept: Lineage) -> str:
    """
    Return the lineage that was kept last, or "".

    Raises:
        LinkError: it can't be read.
    """
    try:
        return kept.read()
    except OSError as exc:
        raise LinkError(f"the lineage can't be read: {exc}; run this as the agent's account", stage="setup") from exc
