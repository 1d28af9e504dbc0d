"""How this agent gets its certificate: the key is made here and never leaves, a signing request goes up."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import json
import secrets as chance
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent import durable_file, identity
from agent.errors import EnrolmentError, LinkError, TokenRefused
from agent.identity import PASSPHRASE, Identity
from agent.keys import open_keys
from agent.link.proxy import Proxy, proxy_for
from agent.link.websocket import open_websocket
from agent.secrets import SecretStore
from agent.settings import Settings
from protocol import codec
from protocol.codec import Record
from protocol.errors import RemoteProtocolError
from protocol.messages import Enrol, Enrolled, Goodbye

PREFIX: Final = "oht1."
ANSWER_S: Final = 30.0  # seconds for the broker to sign; it takes milliseconds
PASSPHRASE_BYTES: Final = 32  # bytes of chance


@dataclass(frozen=True, slots=True)
class Token:
    """
    What `outhaul-broker token create` gave.

    Attributes:
        url: the broker's, ``wss://host:port``.
        tenant: whose agent this is.
        agent: the name that the operator's file must have.
        ca: the one authority to trust, DER.
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


@dataclass(frozen=True, slots=True)
class Pending:
    """
    An enrolment under way, kept before anything is sent: a repeated one is the same one.

    Attributes:
        request: a random id.
        key: made for it.
        key_pem: the same, encrypted.
    """

    request: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    key_pem: bytes = field(repr=False)


async def enroll(
    settings: Settings, token_text: str, secrets: SecretStore, state_dir: Path, *, force: bool = False
) -> Identity:
    """
    Show the token, get a certificate, keep it.

    An identity that is there already is replaced at the very end only. When the answer is lost, the same call
    again gives the same certificate.

    Args:
        settings: the operator's file; its proxy is used.
        state_dir: where the identity goes; made if it is not there.
        force: replace the identity of another tenant or agent too.

    Raises:
        TokenRefused: the broker refused the token for good.
        EnrolmentError: the token, the file or the answer is wrong; the text has the fix.
        LinkError: the broker was not reached; the same call may be tried again.
        SecretError: the store of secrets can't be used.
    """
    token = parse_token(token_text)
    with _written_in(state_dir):
        pending, proxy = await asyncio.to_thread(_prepare, settings, token, secrets, state_dir, force)
    answer, certificate = await _ask(token, pending, proxy)
    with _written_in(state_dir):
        return await asyncio.to_thread(_keep, token, pending, answer, certificate, secrets, state_dir)


@contextlib.contextmanager
def _written_in(state_dir: Path) -> Iterator[None]:
    try:
        yield
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
    except (binascii.Error, ValueError, KeyError, TypeError) as exc:
        raise EnrolmentError("this token is cut or damaged; copy all of it, from 'oht1.' to its end") from exc
    return token


# --- before: what is kept so that a lost answer does no harm ----------------------------------------


def _prepare(
    settings: Settings, token: Token, secrets: SecretStore, state_dir: Path, force: bool
) -> tuple[Pending, Proxy | None]:
    if token.agent != settings.agent:
        raise EnrolmentError(
            f"agent: the operator's file says {settings.agent!r}, the token is for {token.agent!r}; "
            "change the file, or ask for a token for this name"
        )
    _refuse_other_identity(token, state_dir, force)
    proxy = proxy_for(token.url, settings.link.proxy, secrets)
    return _pending(token, _passphrase(secrets), state_dir), proxy


def _refuse_other_identity(token: Token, state_dir: Path, force: bool) -> None:
    if force:
        return
    there = identity.find(state_dir)
    if there is not None and (there.tenant, there.agent) != (token.tenant, token.agent):
        raise EnrolmentError(
            f"{there.folder}: this agent is {there.agent!r} of tenant {there.tenant!r}, the token is for "
            f"{token.agent!r} of {token.tenant!r}; take another state_dir, or give --force to replace it"
        )


def _passphrase(secrets: SecretStore) -> bytes:
    kept = secrets.get(PASSPHRASE)
    if kept is None:
        kept = chance.token_urlsafe(PASSPHRASE_BYTES)
        secrets.set(PASSPHRASE, kept)
    return kept.encode()


def _pending(token: Token, passphrase: bytes, state_dir: Path) -> Pending:
    folder = identity.identity_folder(state_dir) / "pending"
    kept = _kept_pending(folder, token, passphrase)
    if kept is not None:
        return kept
    for path in (folder.parent, folder):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
    request = chance.token_urlsafe(16)
    durable_file.write(folder / "agent.key", key_pem, 0o600)
    # Last, as it says that the key beside it is whole.
    durable_file.write(folder / "pending.json", json.dumps({"request": request, "token": token.sha256}).encode(), 0o600)
    return Pending(request, key, key_pem)


def _kept_pending(folder: Path, token: Token, passphrase: bytes) -> Pending | None:
    try:
        facts = json.loads((folder / "pending.json").read_bytes())
        key_pem = (folder / "agent.key").read_bytes()
        key = load_pem_private_key(key_pem, passphrase)
        if facts["token"] == token.sha256 and isinstance(key, ec.EllipticCurvePrivateKey):
            return Pending(str(facts["request"]), key, key_pem)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        # None, half written, or locked with a passphrase that is gone: a new one is as good.
        return None
    return None


# --- the exchange -----------------------------------------------------------------------------------


async def _ask(token: Token, pending: Pending, proxy: Proxy | None) -> tuple[Enrolled, bytes]:
    context = identity.trusting(token.ca)
    transport = await open_websocket(token.url, "/enrol", context, proxy)
    request = Enrol(secret=token.secret, request=pending.request, release=version("outhaul"))
    try:
        async with asyncio.timeout(ANSWER_S):
            await transport.send(codec.encode(Record(request, _signing_request(pending.key))))
            record = _answer(codec.decode(await transport.receive()))
    except TimeoutError as exc:
        raise LinkError(f"{token.url} did not answer within {ANSWER_S:.0f} s; run the same command again") from exc
    except RemoteProtocolError as exc:
        raise EnrolmentError(f"{token.url} gave an answer that is none of a broker's: {exc}") from exc
    finally:
        await transport.close()
    message = record.message
    if isinstance(message, Enrolled):
        return message, bytes(record.payload)
    if isinstance(message, Goodbye) and message.code == "refused":
        if message.retry_after_s > 0:
            raise EnrolmentError(f"the broker refused for now: {message.reason}")
        raise TokenRefused(f"the broker refused the token: {message.reason}")
    if isinstance(message, Goodbye):
        raise LinkError(f"{token.url} said goodbye ({message.code}: {message.reason}); run the same command again")
    raise EnrolmentError(f"{token.url} answered with {type(message).__name__}, which is no answer to an enrolment")


def _answer(records: Iterable[Record]) -> Record:
    return next(iter(records))


def _signing_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    # The broker takes the public key only; the name comes from the token.
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


# --- after: what came is checked, then kept -----------------------------------------------------------


def _keep(
    token: Token, pending: Pending, answer: Enrolled, der: bytes, secrets: SecretStore, state_dir: Path
) -> Identity:
    certificate = _checked(token, pending, answer, der)
    top = identity.identity_folder(state_dir)
    serial = f"{certificate.serial_number:040x}"
    folder = top / serial
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = {
        "tenant": answer.tenant,
        "agent": answer.agent,
        "url": token.url,
        "enrolled_at": time.time(),
        "not_after": certificate.not_valid_after_utc.timestamp(),
    }
    authority = x509.load_der_x509_certificate(token.ca)
    durable_file.write(folder / "agent.key", pending.key_pem, 0o600)
    durable_file.write(folder / "agent.crt", certificate.public_bytes(Encoding.PEM), 0o600)
    durable_file.write(folder / "ca.crt", authority.public_bytes(Encoding.PEM), 0o600)
    durable_file.write(folder / "identity.json", json.dumps(facts, indent=2).encode(), 0o600)
    before = identity.current_serial(state_dir)
    open_keys(state_dir, secrets, replace=True)  # made now, so that their fingerprints can be compared before the start
    durable_file.write(top / "current", serial.encode(), 0o600)
    _clear(top, keep={serial, before})
    return identity.load(state_dir, secrets)


def _checked(token: Token, pending: Pending, answer: Enrolled, der: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.verify_directly_issued_by(x509.load_der_x509_certificate(token.ca))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as exc:
        raise EnrolmentError(f"{token.url} sent a certificate that its own authority did not issue: {exc}") from exc
    wanted = f"spiffe://outhaul/tenant/{token.tenant}/agent/{token.agent}"
    named = [str(name.value) for name in names]
    if named != [wanted] or (answer.tenant, answer.agent) != (token.tenant, token.agent):
        raise EnrolmentError(f"{token.url} sent a certificate for {named}, where {wanted} was wanted")
    if certificate.public_key() != pending.key.public_key() or ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise EnrolmentError(f"{token.url} sent a certificate that is not for this agent's key")
    return certificate


def _clear(top: Path, keep: set[str | None]) -> None:
    """Remove the pending enrolment and old identities; the one before stays, as a running agent may be reading it."""
    for path in top.iterdir():
        if path.is_dir() and path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)
