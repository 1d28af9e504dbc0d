"""The door for agents: who may link, and enrolment of those who can't yet."""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from cloud_broker.audit.notary import Notary
from cloud_broker.audit.trail import BROKER
from cloud_broker.errors import StoreUnavailable
from cloud_broker.identity.authority import DEFAULT_TERMS, Terms
from cloud_broker.identity.enrolment import EnrolmentRefused, WrongSecrets, enrol
from cloud_broker.identity.renewals import NOTHING_KEPT, STORE_S, RecoveryForged, RenewalRefused, Renewals
from cloud_broker.identity.standing import refusal
from cloud_broker.identity.trust import Trust
from cloud_broker.link.base import LinkLost, Peer, Transport
from cloud_broker.store.base import Store
from cloud_broker.tenants import Scope
from protocol import codec, limits
from protocol.codec import Record
from protocol.errors import RemoteProtocolError
from protocol.messages import Enrol, Enrolled, Goodbye, Recover

log = logging.getLogger(__name__)


class Admission:
    """
    Looks peers up in the store.

    Attributes:
        wrong: what was tried without right.
    """

    def __init__(
        self,
        store: Store,
        trust: Trust,
        renewals: Renewals,
        terms: Terms = DEFAULT_TERMS,
        notary: Notary | None = None,
        *,
        two_replace: bool = False,
    ) -> None:
        self._store = store
        self._trust = trust
        self._renewals = renewals
        self._terms = terms
        self._two_replace = two_replace
        self.wrong = WrongSecrets()
        self._notary = notary or Notary(store.note_soon)

    async def admit(self, peer: Peer) -> str | None:
        """Return why a peer with a good certificate that dials may not come in, or ``None``; a no is noted."""
        refused = await self.standing(peer)
        if refused is not None and await self._store.tenant(peer.tenant) is not None:
            self._notary.refused(peer.tenant, "agent_refused", f"agent:{peer.agent}", refused, peer.address)
        return refused

    async def standing(self, peer: Peer) -> str | None:
        """Return why a peer with a good certificate may not be linked, or ``None``."""
        tenant, agent = await self._store.standing(Scope(peer.tenant), peer.agent)
        refused = refusal(tenant, agent, peer, time.time())
        if refused is None and peer.issuer and not self._trust.trusts(peer.issuer):
            return "the authority that issued this certificate was replaced; enrol again with a new token"
        return refused

    def good(self, peer: Peer, now: float) -> bool:
        """Whether a peer's certificate itself is good still, without asking the store."""
        return peer.not_after > now and (not peer.issuer or self._trust.trusts(peer.issuer))

    async def enrol(self, transport: Transport) -> None:
        """Carry one enrolment: one message each way, then the end."""
        try:
            async with asyncio.timeout(limits.GREETING_S):
                answer = await self._answer(transport)
                await transport.send(codec.encode(answer))
        except (LinkLost, TimeoutError):
            log.info("an enrolment ended early", extra={"event": "enrolment_lost", "address": transport.address})
        finally:
            await transport.close()

    async def _answer(self, transport: Transport) -> Record:
        try:
            records = codec.decode(await transport.receive())
        except RemoteProtocolError as exc:
            return Record(Goodbye(code="protocol", reason=str(exc)))
        message, csr = records[0].message, bytes(records[0].payload)
        if len(records) != 1 or not isinstance(message, Enrol | Recover):
            return Record(Goodbye(code="protocol", reason="an enrolment is one Enrol or one Recover"))
        source = transport.address.rpartition(":")[0]
        event = "enrolled" if isinstance(message, Enrol) else "recovered"
        try:
            if isinstance(message, Recover):
                enrolled, certificate = await self._recover(message, csr, source)
            else:
                enrolled, certificate = await self.enrolled(message, csr, source)
        except (EnrolmentRefused, RenewalRefused) as exc:
            self._notary.refused(BROKER, "token_refused", "", exc.reason, source)
            log.warning("enrolment refused: %s", exc.reason, extra={"event": "enrolment_refused", "address": source})
            return Record(Goodbye(code="refused", reason=exc.reason, retry_after_s=exc.retry_after_s))
        except StoreUnavailable as exc:
            return Record(Goodbye("refused", NOTHING_KEPT, exc.retry_after_s or STORE_S))
        log.info(
            "%s %s/%s",
            event,
            enrolled.tenant,
            enrolled.agent,
            extra={"event": event, "tenant": enrolled.tenant, "agent": enrolled.agent, "address": source},
        )
        return Record(enrolled, certificate)

    async def enrolled(
        self, message: Enrol, csr: bytes, source: str, agent: str | None = None
    ) -> tuple[Enrolled, bytes]:
        """
        Return the answer and the certificate (DER) for an agent that shows a token.

        Args:
            agent: the name that the token must be for, where the agent has said one.

        Raises:
            EnrolmentRefused: it gets none.
        """
        if not self._trust.issues:
            raise EnrolmentRefused(
                "this broker issues no certificates; register the agent with `outhaul-broker agent add`, and give it "
                "one of your own PKI"
            )
        answer, certificate = await enrol(
            self._store,
            self._trust.issuing,
            message,
            csr,
            time.time(),
            source=source,
            wrong=self.wrong,
            terms=self._terms,
            agent=agent,
            two_replace=self._two_replace,
        )
        return msgspec.structs.replace(answer, authorities=self._trust.bundle), certificate

    async def _recover(self, message: Recover, csr: bytes, source: str) -> tuple[Enrolled, bytes]:
        try:
            return await self._renewals.recover(message, csr)
        except RecoveryForged as exc:
            # Only who has no right waits, and not the others behind one gateway.
            wait_s = self.wrong.wait_s(source, time.time())
            if wait_s:
                raise EnrolmentRefused(
                    f"too many wrong requests from this address; try again in {wait_s:.0f} s", wait_s
                ) from exc
            self.wrong.note(source, time.time())
            raise EnrolmentRefused(f"{exc}; enrol again with a new token") from exc
