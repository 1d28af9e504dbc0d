"""The door for agents: who may link, and enrolment of those who can't yet."""

from __future__ import annotations

import asyncio
import logging
import time

from cloud_broker.certificates import Authority
from cloud_broker.enrolment import EnrolmentRefused, WrongSecrets, enrol
from cloud_broker.link.base import LinkLost, Peer, Transport
from cloud_broker.standing import refusal
from cloud_broker.store.base import Store
from cloud_broker.tenants import Scope
from protocol import codec, limits
from protocol.codec import Record
from protocol.errors import RemoteProtocolError
from protocol.messages import Enrol, Goodbye

log = logging.getLogger(__name__)


class Admission:
    """Looks peers up in the store."""

    def __init__(self, store: Store, authority: Authority) -> None:
        self._store = store
        self._authority = authority
        self._wrong = WrongSecrets()

    async def admit(self, peer: Peer) -> str | None:
        """Return why a peer with a good certificate may not link, or ``None``."""
        tenant = await self._store.tenant(peer.tenant)
        agent = await self._store.agent(Scope(peer.tenant), peer.agent)
        return refusal(tenant, agent, peer, time.time())

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
        if len(records) != 1 or not isinstance(records[0].message, Enrol):
            return Record(Goodbye(code="protocol", reason="an enrolment is one Enrol"))
        source = transport.address.rpartition(":")[0]
        try:
            enrolled, certificate = await enrol(
                self._store,
                self._authority,
                records[0].message,
                bytes(records[0].payload),
                time.time(),
                source=source,
                wrong=self._wrong,
            )
        except EnrolmentRefused as exc:
            log.warning("enrolment refused: %s", exc.reason, extra={"event": "enrolment_refused", "address": source})
            return Record(Goodbye(code="refused", reason=exc.reason, retry_after_s=exc.retry_after_s))
        log.info(
            "enrolled %s/%s",
            enrolled.tenant,
            enrolled.agent,
            extra={"event": "enrolled", "tenant": enrolled.tenant, "agent": enrolled.agent, "address": source},
        )
        return Record(enrolled, certificate)
