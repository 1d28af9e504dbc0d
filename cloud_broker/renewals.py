"""
How an agent gets its next certificate: over its link, or, when it slept past the end, with the old one's key.

The agent's row has two certificates: the one in force and the next one. Both are good until a link came with the next:
then that is in force, and the old one is refused from there on. So whatever is lost on the way, one is left that works.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from cloud_broker import lineage
from cloud_broker.certificates import Authority, CertificateInvalid, same_key
from cloud_broker.lineage import Verdict
from cloud_broker.link.base import Peer
from cloud_broker.standing import refusal, serials
from cloud_broker.store.base import Agent, NextCertificate, Store
from cloud_broker.tenants import Scope
from protocol.messages import Hello, Renew, Renewed

MAX_REQUEST_CHARS: Final = 100  # of the agent's request id, which is kept
AT_ONCE: Final = 10  # new certificates that one agent may be given in a row
PART: Final = 1_000  # then one in this part of a certificate's life
MAX_PACED: Final = 10_000  # agents remembered; the oldest is forgotten
MAX_TRUSTS: Final = 16  # authorities that an agent may say it trusts; there are two during a change
GRACE_S: Final = 90 * 86_400.0  # seconds; a plant that was off for a summer comes back without a visit
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
    """

    given: str
    verdict: Verdict
    promoted: bool
    refusal: str | None


class Renewals:
    """
    Gives next certificates, and puts them in force.

    Args:
        issuing: returns the authority that issues now.
        life_s: of a certificate, seconds.
        grace_s: seconds after its end in which an agent may still recover with it.
        now: seconds since 1970.
    """

    def __init__(
        self, store: Store, issuing: Callable[[], Authority], life_s: float, grace_s: float, now: Callable[[], float]
    ) -> None:
        self._store = store
        self._issuing = issuing
        self._life_s = life_s
        self._grace_s = grace_s
        self._now = now
        self._pace = Pace()

    async def renew(self, peer: Peer, message: Renew, csr: bytes) -> tuple[Renewed, bytes]:
        """Return the answer to an agent that asks on its link, and its next certificate (DER)."""
        try:
            following = await self._next(Scope(peer.tenant), peer.agent, peer.serial, message.request, csr)
        except RenewalRefused as exc:
            return Renewed(message.request[:MAX_REQUEST_CHARS], 0.0, exc.reason, exc.retry_after_s), b""
        return Renewed(message.request, following.not_after), following.certificate

    async def _next(self, scope: Scope, name: str, shown: str, request: str, csr: bytes) -> NextCertificate:
        """
        Return an agent's next certificate: the one it has for this request and key, or a new one.

        Args:
            shown: serial of the certificate that it shows.
        """
        if not 1 <= len(request) <= MAX_REQUEST_CHARS:
            raise RenewalRefused(f"a request id wants 1 to {MAX_REQUEST_CHARS} characters")
        known = await self._store.agent(scope, name)
        try:
            if known is not None and known.next is not None and _repeats(known.next, request, csr):
                return known.next
            wait_s = self._pace.wait_s(scope.tenant, name, self._life_s / PART, self._now())
            if wait_s:
                raise RenewalRefused("this agent was given many certificates in a short time", wait_s)
            authority = self._issuing()
            der, serial, not_after = authority.sign_agent(csr, scope.tenant, name, self._now(), self._life_s)
            fresh = NextCertificate(serial, not_after, authority.fingerprint, request, der)
            kept = await self._store.change_identity(scope, name, partial(_give, fresh=fresh, shown=shown, csr=csr))
        except CertificateInvalid as exc:
            raise RenewalRefused(str(exc)) from exc
        if kept is None or kept.next is None:
            raise RenewalRefused("this broker knows no such agent; enrol again with a new token")
        return kept.next

    async def greet(self, peer: Peer, hello: Hello) -> Greeted:
        """
        Put the certificate in force that an agent greets with, and see whether it is the one that was here last.

        What comes of it is kept before this returns.
        """
        fresh, now = secrets.token_urlsafe(lineage.GIVEN_BYTES), self._now()
        before: list[Agent] = []

        def change(agent: Agent) -> Agent:
            before[:] = [agent]
            return greeted(agent, peer, hello, fresh, now)

        scope = Scope(peer.tenant)
        agent = await self._store.change_identity(scope, peer.agent, change)
        # Asked again: since it was let in, another link may have put another certificate in force.
        refused = refusal(await self._store.tenant(peer.tenant), agent, peer, now)
        if not before:
            return Greeted("", Verdict.SAME, False, refused)
        (known,) = before
        promoted = known.next is not None and peer.serial == known.next.serial
        return Greeted(fresh, lineage.judge(known.lineage, _shown(hello)), promoted, refused)

    async def has_kept(self, peer: Peer, given: str) -> None:
        """Note that an agent has the text that it was given."""

        def change(agent: Agent) -> Agent:
            if agent.lineage.tip != given:
                return agent
            return replace(agent, lineage=replace(agent.lineage, confirmed=True))

        await self._store.change_identity(Scope(peer.tenant), peer.agent, change)

    async def trusts(self, peer: Peer, authorities: list[str]) -> None:
        """Note whom an agent trusts."""
        told = told_trusts(authorities)
        await self._store.change_identity(Scope(peer.tenant), peer.agent, lambda agent: replace(agent, trusts=told))


def greeted(agent: Agent, peer: Peer, hello: Hello, fresh: str, now: float) -> Agent:
    """Return an agent as it is after a greeting that is answered with the text ``fresh``."""
    if agent.next is not None and peer.serial == agent.next.serial:
        following = agent.next
        agent = replace(
            agent, serial=following.serial, not_after=following.not_after, issuer=following.issuer, next=None
        )
    shown = _shown(hello)
    if lineage.judge(agent.lineage, shown) is Verdict.TWO:
        return agent if agent.revoked_at is not None else replace(agent, revoked_at=now, revoked_reason=TWO_ALIVE)
    return replace(
        agent, lineage=lineage.follow(agent.lineage, shown, fresh), trusts=told_trusts(hello.trusts) or agent.trusts
    )


def told_trusts(authorities: list[str]) -> tuple[str, ...]:
    """Return what an agent says of whom it trusts, as it is kept; any text that it likes is cut."""
    return tuple(sorted({text[:64] for text in authorities[:MAX_TRUSTS]}))


def _shown(hello: Hello) -> str:
    return hello.lineage[: lineage.MAX_CHARS]


def _give(agent: Agent, fresh: NextCertificate, shown: str, csr: bytes) -> Agent:
    """Return the agent with its next certificate; two requests may come at the same moment."""
    if agent.revoked_at is not None:
        raise RenewalRefused("this agent was revoked; enrol again with a new token")
    if shown not in serials(agent):
        raise RenewalRefused("this certificate was replaced by a newer one; enrol again with a new token")
    if agent.next is not None and _repeats(agent.next, fresh.request, csr):
        return agent
    return replace(agent, next=fresh)


def _repeats(following: NextCertificate, request: str, csr: bytes) -> bool:
    return following.request == request and same_key(following.certificate, csr)
