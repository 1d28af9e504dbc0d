"""
How an agent gets its next certificate: over its link, or, when it slept past the end, with the old one's key.

The agent's row has two certificates: the one in force and the next one. Both are good until a link came with the next:
then that is in force, and the old one is refused from there on. So whatever is lost on the way, one is left that works.
"""

from __future__ import annotations

import base64
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cloud_broker.audit.trail import Act, time_text
from cloud_broker.errors import StoreUnavailable
from cloud_broker.identity import lineage
from cloud_broker.identity.authority import Terms
from cloud_broker.identity.certificates import CertificateInvalid, end_of, identity_of, same_key
from cloud_broker.identity.lineage import Verdict
from cloud_broker.identity.standing import refusal, serials
from cloud_broker.identity.trust import Trust
from cloud_broker.link.base import Peer
from cloud_broker.store.agents import Agent, Arrival, NextCertificate
from cloud_broker.store.base import Store
from cloud_broker.tenants import Scope
from protocol import signing
from protocol.messages import Enrolled, Hello, Recover, Renew, Renewed

MAX_SYSTEM_CHARS: Final = 200  # of what an agent says of its program and its machine, for people
MAX_REQUEST_CHARS: Final = 100  # of the agent's request id, which is kept
AT_ONCE: Final = 10  # new certificates that one agent may be given in a row
PART: Final = 1_000  # then one in this part of a certificate's life
MAX_PACED: Final = 10_000  # agents remembered; the oldest is forgotten
MAX_TRUSTS: Final = 16  # authorities that an agent may say it trusts; there are two during a change
MAX_CERTIFICATE_CHARS: Final = 24_000  # of one in base64
STORE_S: Final = 5.0  # seconds until an agent asks again a broker that could keep nothing
NOTHING_KEPT: Final = "the broker can't keep anything now"
SUSPENDED_S: Final = 3_600.0  # seconds until an agent of a suspended tenant asks again
_OWN_PKI: Final = "this agent's certificates come from the operator's own PKI; renew it there"
TWO_ALIVE: Final = (
    "two machines use the identity of this agent, so both are stopped; find out which is the copy, and enrol the "
    "other again with a new token"
)


class RenewalRefused(Exception):
    """
    The agent gets no next certificate.

    Attributes:
        reason: for people.
        retry_after_s: when to ask again; 0: never with this certificate.
    """

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class RecoveryForged(Exception):
    """Who asks for a certificate holds none that was ours; the text is for people."""


class Pace:
    """Bounds how many certificates one agent is given: some at once, then one after the other."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._given: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()  # (when, how many are left)

    def wait_s(self, tenant: str, agent: str, every_s: float, now: float) -> float:
        """Take one, or return the seconds until there is one to take."""
        at, left = self._given.pop((tenant, agent), (now, float(self._at_once)))
        left = min(float(self._at_once), left + max(0.0, now - at) / every_s)
        wait_s = 0.0 if left >= 1 else (1 - left) * every_s
        self._given[(tenant, agent)] = (now, left - 1 if left >= 1 else left)
        if len(self._given) > MAX_PACED:
            self._given.popitem(last=False)
        return wait_s


@dataclass(frozen=True, slots=True)
class Greeted:
    """
    What came of an agent's greeting.

    Attributes:
        given: the text for ``Welcome.lineage``.
        verdict: who it is.
        promoted: whether its next certificate came into force.
        refusal: why it may not be linked, or ``None``.
        trust: the authorities that it is to be told of; empty where it trusts those already.
        known: the agent as it was, without its catalogue; ``None`` if there is none.
        head: number and hash of the last record in its tenant's audit trail.
    """

    given: str
    verdict: Verdict
    promoted: bool
    refusal: str | None
    trust: tuple[str, ...] = ()
    known: Agent | None = None
    head: tuple[int, bytes] = (0, b"")


class Renewals:
    """
    Gives next certificates, and puts them in force.

    Args:
        trust: has the authority that issues.
        terms: of the certificates.
        grace_s: seconds after its end in which an agent may still recover with one.
        now: seconds since 1970.
    """

    def __init__(self, store: Store, trust: Trust, terms: Terms, grace_s: float, now: Callable[[], float]) -> None:
        self._store = store
        self._trust = trust
        self._terms = terms
        self._grace_s = grace_s
        self._now = now
        self._pace = Pace()

    @property
    def bundle(self) -> list[str]:
        """Whom agents are to trust, as messages have it."""
        return self._trust.bundle

    async def renew(self, peer: Peer, message: Renew, csr: bytes) -> tuple[Renewed, bytes]:
        """Return the answer to an agent that asks on its link, and its next certificate (DER)."""
        try:
            following = await self._next(
                Scope(peer.tenant), peer.agent, peer.serial, message.request, csr, "agent_renewed"
            )
        except RenewalRefused as exc:
            return Renewed(message.request[:MAX_REQUEST_CHARS], 0.0, exc.reason, exc.retry_after_s), b""
        except StoreUnavailable as exc:
            return Renewed(message.request[:MAX_REQUEST_CHARS], 0.0, NOTHING_KEPT, exc.retry_after_s or STORE_S), b""
        return Renewed(message.request, following.not_after), following.certificate

    async def _next(
        self, scope: Scope, name: str, shown: str, request: str, csr: bytes, action: str
    ) -> NextCertificate:
        """
        Return an agent's next certificate: the one it has for this request and key, or a new one.

        Args:
            shown: serial of the certificate that it shows.
            action: what the audit trail calls it.
        """
        if not 1 <= len(request) <= MAX_REQUEST_CHARS:
            raise RenewalRefused(f"a request id wants 1 to {MAX_REQUEST_CHARS} characters")
        if not self._trust.issues:
            raise RenewalRefused(_OWN_PKI)
        known = await self._store.agent(scope, name)
        try:
            if known is not None and known.next is not None and _repeats(known.next, request, csr):
                return known.next
            wait_s = self._pace.wait_s(scope.tenant, name, self._terms.life_s / PART, self._now())
            if wait_s:
                raise RenewalRefused("this agent was given many certificates in a short time", wait_s)
            authority = self._trust.issuing
            der, serial, not_after = authority.sign_agent(csr, scope.tenant, name, self._now(), self._terms)
            fresh = NextCertificate(serial, not_after, authority.fingerprint, request, der)
            give = partial(_give, fresh=fresh, shown=shown, csr=csr)
            noted = partial(_given, action=action, now=self._now())
            kept = await self._store.change_identity(scope, name, give, noted)
        except CertificateInvalid as exc:
            raise RenewalRefused(str(exc)) from exc
        if kept is None or kept.next is None:
            raise RenewalRefused("this broker knows no such agent; enrol again with a new token")
        return kept.next

    async def recover(self, message: Recover, csr: bytes) -> tuple[Enrolled, bytes]:
        """
        Return the answer, and the next certificate (DER), for an agent whose certificate has run out.

        Raises:
            RecoveryForged: it does not hold the key of a certificate of ours.
            RenewalRefused: it does, and gets none.
        """
        der = proven(message, csr)
        try:
            tenant, name, serial = identity_of(der, self._terms.trust_domain)
        except CertificateInvalid as exc:
            raise RecoveryForged(str(exc)) from exc
        if not self._trust.issuer_of(der):
            raise RecoveryForged("no authority of this broker issued this certificate")
        ended = end_of(der)
        if self._now() > ended + self._grace_s:
            raise RenewalRefused(
                f"this certificate ran out more than {self._grace_s / 86_400:g} days ago; enrol again with a new token"
            )
        known = await self._store.tenant(tenant)
        if known is not None and known.state != "active":
            raise RenewalRefused("the tenant is suspended", SUSPENDED_S)
        following = await self._next(Scope(tenant), name, serial, message.request, csr, "agent_recovered")
        return Enrolled(tenant, name, following.not_after, self._trust.bundle), following.certificate

    async def greet(self, peer: Peer, hello: Hello, *, renews: bool = True) -> Greeted:
        """
        Put the certificate in force that an agent greets with, and see whether it is the one that was here last.

        What comes of it, and what the agent says of itself, is kept before this returns.

        Args:
            renews: whether it knows of renewals; else it is let in as it is.
        """
        fresh, now = secrets.token_urlsafe(lineage.GIVEN_BYTES) if renews else "", self._now()
        arrived = await self._store.arrived(
            Arrival(
                peer.tenant,
                peer.agent,
                now,
                hello.release[:MAX_SYSTEM_CHARS],
                hello.system[:MAX_SYSTEM_CHARS],
                hello.journal,
                hello.position,
                change=lambda agent: greeted(agent, peer, hello, fresh, now) if renews else agent,
                # Asked again: since it was let in, another link may have put another certificate in force.
                refusal=lambda tenant, agent: refusal(tenant, agent, peer, now),
                noted=partial(_stopped, address=peer.address),
            )
        )
        if arrived is None:
            return Greeted("", Verdict.SAME, False, refusal(None, None, peer, now))
        known = arrived.before
        if not renews:
            return Greeted("", Verdict.SAME, False, arrived.refusal, known=known, head=arrived.head)
        promoted = known.next is not None and peer.serial == known.next.serial
        trust = () if known.own_pki or self._trust.wanted == set(hello.trusts) else tuple(self._trust.bundle)
        verdict = lineage.judge(known.lineage, _shown(hello))
        return Greeted(fresh, verdict, promoted, arrived.refusal, trust, known, arrived.head)

    def has_kept(self, peer: Peer, given: str) -> None:
        """Note that an agent has the text that it was given."""
        self._store.has_kept(Scope(peer.tenant), peer.agent, given)

    async def trusts(self, peer: Peer, authorities: list[str]) -> None:
        """Note whom an agent trusts."""
        told = told_trusts(authorities)
        await self._store.change_identity(Scope(peer.tenant), peer.agent, lambda agent: replace(agent, trusts=told))


def greeted(agent: Agent, peer: Peer, hello: Hello, fresh: str, now: float) -> Agent:
    """Return an agent as it is after a greeting that is answered with the text ``fresh``."""
    if agent.own_pki:
        agent = replace(agent, serial=peer.serial, not_after=peer.not_after)
    else:
        agent = _promoted(agent, peer.serial)
    shown = _shown(hello)
    if lineage.judge(agent.lineage, shown) is Verdict.TWO:
        return agent if agent.revoked_at is not None else replace(agent, revoked_at=now, revoked_reason=TWO_ALIVE)
    return replace(
        agent, lineage=lineage.follow(agent.lineage, shown, fresh), trusts=told_trusts(hello.trusts) or agent.trusts
    )


def _promoted(agent: Agent, shown: str) -> Agent:
    """Return an agent that shows a certificate: if that is its next one, it is in force from now on."""
    following = agent.next
    if following is None or following.serial != shown:
        return agent
    return replace(agent, serial=following.serial, not_after=following.not_after, issuer=following.issuer, next=None)


def proven(message: Recover, csr: bytes) -> bytes:
    """
    Return the certificate (DER) that an agent shows, having seen that it holds its key.

    Raises:
        RecoveryForged: it does not, or it is no certificate.
    """
    if len(message.certificate) > MAX_CERTIFICATE_CHARS or len(message.signature) > MAX_CERTIFICATE_CHARS:
        raise RecoveryForged("a certificate or a signature that is too long")
    try:
        der = base64.b64decode(message.certificate, validate=True)
        key = x509.load_der_x509_certificate(der).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise RecoveryForged("this certificate has no key of ours")
        signature = base64.b64decode(message.signature, validate=True)
        key.verify(signature, signing.recovery(message.request, csr), ec.ECDSA(hashes.SHA256()))
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as exc:
        raise RecoveryForged("this is not signed with the key of a certificate") from exc
    return der


def told_trusts(authorities: list[str]) -> tuple[str, ...]:
    """Return what an agent says of whom it trusts, as it is kept; any text that it likes is cut."""
    return tuple(sorted({text[:64] for text in authorities[:MAX_TRUSTS]}))


def _shown(hello: Hello) -> str:
    return hello.lineage[: lineage.MAX_CHARS]


def _give(agent: Agent, fresh: NextCertificate, shown: str, csr: bytes) -> Agent:
    """Return the agent with its next certificate; two requests may come at the same moment."""
    if agent.own_pki:
        raise RenewalRefused(_OWN_PKI)
    if agent.revoked_at is not None:
        raise RenewalRefused("this agent was revoked; enrol again with a new token")
    if shown not in serials(agent):
        raise RenewalRefused("this certificate was replaced by a newer one; enrol again with a new token")
    if agent.next is not None and _repeats(agent.next, fresh.request, csr):
        return agent
    # It may be linked with its next one though that could not be kept when it greeted: it must not be lost here.
    return replace(_promoted(agent, shown), next=fresh)


def _given(before: Agent, after: Agent, action: str, now: float) -> Act | None:
    following = after.next
    if following is None or following == before.next:
        return None
    detail = {"serial": following.serial, "not_after": time_text(following.not_after), "issuer": following.issuer}
    actor = f"agent:{after.name}"
    return Act(after.tenant, actor, action, actor, now, detail=detail)


def _stopped(before: Agent, after: Agent, address: str) -> Act | None:
    if after.revoked_at is None or before.revoked_at is not None:
        return None
    detail = {"reason": after.revoked_reason, "address": address}
    return Act(after.tenant, "broker", "agent_cloned", f"agent:{after.name}", after.revoked_at, detail=detail)


def _repeats(following: NextCertificate, request: str, csr: bytes) -> bool:
    return following.request == request and same_key(following.certificate, csr)
