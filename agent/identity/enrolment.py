"""How this agent gets its certificate: the key is made here and never leaves, a signing request goes up."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import json
import secrets as chance
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509

from agent import RELEASE
from agent.errors import EnrolmentError, TokenRefused
from agent.identity import authorities, certificates, succession
from agent.identity import held as identity
from agent.identity.certificates import Pending
from agent.identity.exchange import Refused, exchange
from agent.identity.held import PASSPHRASE, Identity
from agent.link.routes import Routes
from agent.secrets import SecretStore
from agent.settings import Settings
from protocol.codec import Record
from protocol.messages import Enrol, Enrolled

PREFIX: Final = "oht1."
PASSPHRASE_BYTES: Final = 32  # bytes of chance


@dataclass(frozen=True, slots=True)
class Token:
    """
    What `outhaul-broker token create` gave.

    Attributes:
        url: the broker's, ``wss://host:port``.
        tenant: whose agent this is.
        agent: the name that the operator's file must have.
        ca: the authority to trust, DER; others may come with the answer.
        secret: good for one enrolment.
    """

    url: str
    tenant: str
    agent: str
    ca: bytes
    secret: str = field(repr=False)

    @property
    def sha256(self) -> str:
        """What tells this token from another, hex; safe to keep."""
        return hashlib.sha256(self.secret.encode()).hexdigest()


async def enroll(
    settings: Settings,
    token_text: str,
    secrets: SecretStore,
    state_dir: Path,
    *,
    force: bool = False,
    base_dir: Path = Path(),
) -> Identity:
    """
    Show the token, get a certificate, keep it.

    An identity that is there already is replaced at the very end only. When the answer is lost, the same call
    again gives the same certificate.

    Args:
        settings: the operator's file; its way to the broker is used.
        state_dir: where the identity goes; made if it is not there.
        force: replace the identity of another tenant or agent too.
        base_dir: of the operator's file, where its relative paths begin.

    Raises:
        TokenRefused: the broker refused the token for good.
        EnrolmentError: the token, the file or the answer is wrong; the text has the fix.
        LinkError: the broker was not reached; the same call may be tried again.
        SecretError: the store of secrets can't be used.
    """
    token = parse_token(token_text)
    with written_in(state_dir):
        pending = await asyncio.to_thread(_prepare, settings, token, secrets, state_dir, force)
    answer, certificate = await _ask(token, pending, Routes.of(settings.link, base_dir), secrets)
    with written_in(state_dir):
        return await asyncio.to_thread(_keep, token, pending, answer, certificate, secrets, state_dir)


@contextlib.contextmanager
def written_in(state_dir: Path) -> Iterator[None]:
    """Say what to do where an identity can't be written: ``EnrolmentError`` in place of ``OSError``."""
    try:
        yield
    except succession.Busy as exc:
        raise EnrolmentError(
            f"{exc.filename}: another program changes this agent's identity right now, such as the running agent that "
            "renews its certificate; give the same command again in a minute. If it stays so, stop the agent's "
            "service, enrol, and start it again"
        ) from exc
    except OSError as exc:
        raise EnrolmentError(
            f"{exc.filename or state_dir}: can't be read or written ({exc.strerror or exc}); "
            "run this as the agent's account, and see that state_dir is its own"
        ) from exc


def parse_token(text: str) -> Token:
    """
    Read a token's text.

    Raises:
        EnrolmentError: it is none; the text does not show it, as it holds a secret.
    """
    text = "".join(text.split())  # a token copied from a mail may have line breaks in it
    if not text.startswith("oht"):
        raise EnrolmentError("this is not a token: one begins with 'oht1.'; copy what `token create` printed")
    if not text.startswith(PREFIX):
        raise EnrolmentError("this token is of a later release; upgrade this agent first")
    try:
        body = text[len(PREFIX) :]
        facts = json.loads(base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True))
        if facts["v"] != 1:
            raise EnrolmentError("this token is of a later release; upgrade this agent first")
        token = Token(
            url=identity.broker_url(str(facts["url"])),
            tenant=str(facts["tenant"]),
            agent=str(facts["agent"]),
            ca=base64.b64decode(facts["ca"], validate=True),
            secret=str(facts["secret"]),
        )
        x509.load_der_x509_certificate(token.ca)
    except (binascii.Error, ValueError, KeyError, TypeError, RecursionError) as exc:
        raise EnrolmentError("this token is cut or damaged; copy all of it, from 'oht1.' to its end") from exc
    return token


# --- before: what is kept so that a lost answer does no harm ----------------------------------------


def _prepare(settings: Settings, token: Token, secrets: SecretStore, state_dir: Path, force: bool) -> Pending:
    if token.agent != settings.agent:
        raise EnrolmentError(
            f"agent: the operator's file says {settings.agent!r}, the token is for {token.agent!r}; "
            "change the file, or ask for a token for this name"
        )
    _refuse_other_identity(token, state_dir, force)
    folder = identity.identity_folder(state_dir) / "pending"
    return certificates.pending(folder, token.sha256, _passphrase(secrets))


def _refuse_other_identity(token: Token, state_dir: Path, force: bool) -> None:
    if force:
        return
    there = identity.find(state_dir)
    if there is not None and (there.tenant, there.agent) != (token.tenant, token.agent):
        raise EnrolmentError(
            f"{there.folder}: this agent is {there.agent!r} of tenant {there.tenant!r}, the token is for "
            f"{token.agent!r} of {token.tenant!r}; take another state_dir, or give --force to replace it"
        )


def _passphrase(secrets: SecretStore) -> str:
    kept = secrets.get(PASSPHRASE)
    if kept is None:
        kept = chance.token_urlsafe(PASSPHRASE_BYTES)
        secrets.set(PASSPHRASE, kept)
    return kept


# --- the exchange -----------------------------------------------------------------------------------


async def _ask(token: Token, pending: Pending, routes: Routes, secrets: SecretStore) -> tuple[Enrolled, bytes]:
    request = Enrol(secret=token.secret, request=pending.request, release=RELEASE)
    record = Record(request, certificates.signing_request(pending.key))
    try:
        return await exchange(token.url, identity.trusting(token.ca), routes, secrets, record)
    except Refused as exc:
        if exc.retry_after_s > 0:
            raise EnrolmentError(f"the broker refused for now: {exc.reason}") from exc
        raise TokenRefused(f"the broker refused the token: {exc.reason}") from exc


# --- after: what came is checked, then kept -----------------------------------------------------------


def _keep(
    token: Token, pending: Pending, answer: Enrolled, der: bytes, secrets: SecretStore, state_dir: Path
) -> Identity:
    issued = certificates.checked(der, pending.key, token.tenant, token.agent)
    trusted = authorities.authorities_in(answer.authorities) if answer.authorities else [token.ca]
    succession.replace_all(
        state_dir,
        issued,
        key_pem=pending.key_pem,
        authorities=trusted,
        url=token.url,
        obtained_at=time.time(),
    )
    return identity.load(state_dir, secrets)
