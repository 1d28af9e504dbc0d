"""How an agent without a certificate gets one: a one-time token for a signing request."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Final

from cloud_broker.identity.authority import DEFAULT_TERMS, Authority, Terms
from cloud_broker.identity.certificates import CertificateInvalid, end_of, same_key
from cloud_broker.store.agents import Agent
from cloud_broker.store.base import Store
from cloud_broker.store.tenants import Token
from cloud_broker.tenants import Scope
from protocol.messages import Enrol, Enrolled

SECRET_BYTES: Final = 32  # bytes of chance in a token
WRONG_PER_MINUTE: Final = 10  # wrong secrets from one address; a person mistypes less often
MAX_SOURCES: Final = 10_000  # addresses remembered; the oldest is forgotten
MINUTE_S: Final = 60.0
MAX_REQUEST_CHARS: Final = 100  # of the agent's request id, which is kept
_NEW_TOKEN: Final = "create a new one with `outhaul-broker token create`"  # noqa: S105 - says where a token comes from


class EnrolmentRefused(Exception):
    """
    The agent gets no certificate.

    Attributes:
        reason: for the person at the agent.
        retry_after_s: seconds after which it may be tried again; 0: never with this token.
    """

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class WrongSecrets:
    """Counts wrong secrets by address, so that nobody tries them by the thousand."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()  # address: (start of its minute, count)

    def wait_s(self, source: str, now: float) -> float:
        """Return the seconds until ``source`` may try again; 0 if it may now."""
        since, count = self._seen.get(source, (now, 0))
        return max(0.0, since + MINUTE_S - now) if count >= WRONG_PER_MINUTE else 0.0

    def note(self, source: str, now: float) -> None:
        """Count one wrong secret."""
        since, count = self._seen.pop(source, (now, 0))
        if now - since >= MINUTE_S:
            since, count = now, 0
        self._seen[source] = (since, count + 1)
        if len(self._seen) > MAX_SOURCES:
            self._seen.popitem(last=False)


_WRONG_SECRETS: Final = WrongSecrets()


def new_token(url: str, tenant: str, agent: str, ca_der: bytes) -> tuple[str, bytes]:
    """
    Return a token's text, which is shown once, and the SHA-256 of its secret, which is kept.

    Args:
        url: where agents dial, ``wss://host:port``.
        ca_der: the authority that the agent is to trust.
    """
    secret = secrets.token_urlsafe(SECRET_BYTES)
    ca = base64.b64encode(ca_der).decode("ascii")
    content = {"v": 1, "url": url, "tenant": tenant, "agent": agent, "ca": ca, "secret": secret}
    text = base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).rstrip(b"=").decode("ascii")
    return f"oht1.{text}", hashlib.sha256(secret.encode()).digest()


async def enrol(
    store: Store,
    authority: Authority,
    message: Enrol,
    csr: bytes,
    now: float,
    *,
    source: str = "",
    wrong: WrongSecrets = _WRONG_SECRETS,
    terms: Terms = DEFAULT_TERMS,
    agent: str | None = None,
    two_replace: bool = False,
) -> tuple[Enrolled, bytes]:
    """
    Return the answer and the certificate (DER) for an agent that shows a token.

    The same request id with the same key gives the same certificate again: the first answer may have been lost.

    Args:
        csr: the signing request, DER.
        now: seconds since 1970.
        source: the address it comes from, without its port.
        wrong: counts wrong secrets; one for the process unless a test gives its own.
        terms: of the certificate.
        agent: the name under which the token must be; ``None`` where only the token has it.
        two_replace: whether two people are wanted to replace an agent; then a token that is older than the enrolment
            of the agent that is there, and so was made without asking a second person, replaces none.

    Raises:
        EnrolmentRefused: with the reason for the person at the agent.
    """
    sha256 = hashlib.sha256(message.secret.encode()).digest()
    token = await store.token_by_hash(sha256)
    if token is None or agent not in (None, token.agent):
        # Only who shows a wrong one waits: many may come from the address of one gateway.
        wait_s = wrong.wait_s(source, now)
        if wait_s:
            raise EnrolmentRefused(f"too many wrong tokens from this address; try again in {wait_s:.0f} s", wait_s)
        wrong.note(source, now)
        raise EnrolmentRefused(f"unknown token; copy all of it, or {_NEW_TOKEN}")
    if not 1 <= len(message.request) <= MAX_REQUEST_CHARS:
        raise EnrolmentRefused(f"a request id wants 1 to {MAX_REQUEST_CHARS} characters")
    try:
        if token.spent_at is None:
            if two_replace:
                await _spare(store, token)
            issued = await _first(store, authority, token, message.request, csr, now, terms)
            if issued is not None:
                return issued
            # Two requests with one token at the same moment: the other was first.
            token = await store.token_by_hash(sha256) or token
        return _again(token, message.request, csr)
    except CertificateInvalid as exc:
        raise EnrolmentRefused(str(exc)) from exc


async def _spare(store: Store, token: Token) -> None:
    there = await store.agent(Scope(token.tenant), token.agent)
    if there is not None and there.revoked_at is None and token.created_at <= there.enrolled_at:
        raise EnrolmentRefused(
            f"the agent {token.agent} has enrolled since this token was made, and two people are wanted to replace it; "
            f"{_NEW_TOKEN}, which a second person approves"
        )


async def _first(
    store: Store, authority: Authority, token: Token, request: str, csr: bytes, now: float, terms: Terms
) -> tuple[Enrolled, bytes] | None:
    if now >= token.expires_at:
        raise EnrolmentRefused(f"this token expired on {_when(token.expires_at)}; {_NEW_TOKEN}")
    certificate, serial, not_after = authority.sign_agent(csr, token.tenant, token.agent, now, terms)
    agent = Agent(
        tenant=token.tenant,
        name=token.agent,
        group=token.group,
        serial=serial,
        not_after=not_after,
        enrolled_at=now,
        issuer=authority.fingerprint,
    )
    if not await store.spend_token(token.id, agent, request, certificate, now):
        return None
    return Enrolled(tenant=token.tenant, agent=token.agent, not_after=not_after), certificate


def _again(token: Token, request: str, csr: bytes) -> tuple[Enrolled, bytes]:
    certificate = token.certificate
    if certificate is None or token.spent_by != request or not same_key(certificate, csr):
        raise EnrolmentRefused(f"this token was used already on {_when(token.spent_at or 0.0)}; {_NEW_TOKEN}")
    return Enrolled(tenant=token.tenant, agent=token.agent, not_after=end_of(certificate)), certificate


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d at %H:%M UTC")
