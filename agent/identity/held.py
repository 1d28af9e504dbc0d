"""
Who this agent is: what enrolment left in ``state_dir/identity/``.

    current                 the name of one of the folders below; replacing it is the moment of change. A second line
                            names another of them, while it is not known which of the two the broker takes
    SERIAL/agent.key        PKCS #8, encrypted with a passphrase that only the store of secrets has
    SERIAL/agent.crt        the agent's certificate
    SERIAL/ca.crt           the authorities that the agent trusts, one or several
    SERIAL/identity.json    tenant, agent, broker's URL, times
    pending/                an enrolment that has not ended
    renewal/                a renewal or recovery that has not ended
    lineage                 what tells this machine from a copy of it (``lineage.py``)

A new certificate is written whole beside the old one before ``current`` names it, so that a
power cut at any instant leaves one of the two complete. Files are readable by the agent's account only;
on Windows the folder's access list, inherited from ``state_dir``, does that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from agent.errors import EnrolmentError, SecretError
from agent.secrets import SecretStore

if TYPE_CHECKING:
    import ssl

PASSPHRASE: Final = "identity-passphrase"  # noqa: S105 - its name in the store of secrets, not its value
ENROL: Final = "run: outhaul-agent enroll --token TOKEN"
_AGAIN: Final = 3  # looks at an identity that is being replaced while it is read


class Identity(msgspec.Struct, frozen=True):
    """
    One certificate and what belongs to it.

    Attributes:
        certificate: PEM file.
        key: PEM file.
        authorities: PEM file with those that a broker's certificate is taken from.
        tenant: as the certificate says.
        agent: as the certificate says.
        url: the broker's, such as ``wss://broker.example.com:8443``.
        serial: of the certificate, hex.
        obtained_at: when this certificate came, seconds since 1970.
        not_after: end of the certificate, seconds since 1970.
        passphrase: of the key.
        own: whether the files are the operator's, in place of enrolment.
    """

    certificate: Path
    key: Path
    authorities: Path
    tenant: str
    agent: str
    url: str
    serial: str
    obtained_at: float
    not_after: float
    passphrase: str
    own: bool = False

    def __repr__(self) -> str:
        return f"<Identity {self.tenant}/{self.agent} {self.serial}>"

    @property
    def folder(self) -> Path:
        """Where the certificate is."""
        return self.certificate.parent


def identity_folder(state_dir: Path) -> Path:
    """Return where identities are kept."""
    return state_dir / "identity"


def load(state_dir: Path, secrets: SecretStore) -> Identity:
    """
    Return the agent's identity.

    Raises:
        EnrolmentError: there is none, or it is damaged; the text has the command to run.
        SecretError: the store of secrets can't be opened, or has lost the key's passphrase.
    """
    identity = find(state_dir)
    if identity is None:
        raise EnrolmentError(f"{identity_folder(state_dir)}: this agent has no certificate yet; {ENROL}")
    passphrase = secrets.get(PASSPHRASE)
    if passphrase is None:
        raise SecretError(
            f"the secret {PASSPHRASE!r}, which opens the agent's key in {identity.folder}, is missing. Run this as the "
            f"agent's account; if the store of secrets was lost, enrol again with a new token: {ENROL}"
        )
    return msgspec.structs.replace(identity, passphrase=passphrase)


def find(state_dir: Path) -> Identity | None:
    """
    Return the agent's identity without the key's passphrase, or ``None`` if it never enrolled.

    Raises:
        EnrolmentError: it is damaged, or not ours to read.
    """
    for _ in range(_AGAIN):
        serial = current_serial(state_dir)
        if serial is None:
            return None
        try:
            return of_serial(state_dir, serial)
        except EnrolmentError:
            # Replaced and cleared away since we read its name; or damaged indeed.
            if serial == current_serial(state_dir):
                raise
    raise EnrolmentError(f"{identity_folder(state_dir)}: changes all the time; is enrolment run again and again?")


def of_serial(state_dir: Path, serial: str, passphrase: str = "") -> Identity:
    """
    Return the identity in one of the folders.

    Raises:
        EnrolmentError: it is damaged, or not ours to read.
    """
    folder = identity_folder(state_dir) / serial
    path = folder / "identity.json"
    try:
        facts = json.loads(path.read_bytes())
        return Identity(
            certificate=folder / "agent.crt",
            key=folder / "agent.key",
            authorities=folder / "ca.crt",
            tenant=str(facts["tenant"]),
            agent=str(facts["agent"]),
            url=broker_url(str(facts["url"])),
            serial=serial,
            obtained_at=float(facts["obtained_at"]),
            not_after=float(facts["not_after"]),
            passphrase=passphrase,
        )
    except PermissionError as exc:
        raise EnrolmentError(f"{path}: can't be read: {exc.strerror}; run this as the agent's account") from exc
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise EnrolmentError(f"{path}: is damaged ({exc}); enrol again with a new token; {ENROL}") from exc


def current_serial(state_dir: Path) -> str | None:
    """
    Return the serial (hex) of the certificate in force, or ``None`` if this agent never enrolled.

    Raises:
        EnrolmentError: it can't be read.
    """
    return next(iter(_serials(state_dir)), None)


def other_serial(state_dir: Path) -> str | None:
    """
    Return the serial of the certificate that may have to take the place of the one in force, or ``None``.

    Raises:
        EnrolmentError: it can't be read.
    """
    return next(iter(_serials(state_dir)[1:]), None)


def _serials(state_dir: Path) -> list[str]:
    path = identity_folder(state_dir) / "current"
    try:
        return path.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as exc:
        raise EnrolmentError(f"{path}: can't be read: {exc}; run this as the agent's account") from exc


def broker_url(url: str) -> str:
    """
    Return ``url`` without a slash at its end.

    Raises:
        ValueError: it is not ``wss://host:port``.
    """
    parts = urlsplit(url)
    if parts.scheme != "wss" or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError(f"wants wss://host:port, found {url[:200]!r}")
    _ = parts.port  # raises ValueError for a bad one
    return url.rstrip("/")


def client_context(identity: Identity, trusted: Sequence[bytes] | None = None) -> ssl.SSLContext:
    """
    Return how the agent shows itself and whom it trusts; made anew for each dial, as files may have changed.

    Args:
        trusted: authorities to trust instead of those of the identity, DER.

    Raises:
        EnrolmentError: the files do not fit together.
    """
    try:
        context = trusting(identity.authorities.read_text(encoding="utf-8") if trusted is None else b"".join(trusted))
        # A callable: without one OpenSSL would ask on the terminal when a passphrase is wrong.
        context.load_cert_chain(identity.certificate, identity.key, password=lambda: identity.passphrase)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        if identity.own:
            raise EnrolmentError(
                f"link.certificate {identity.certificate}, link.key {identity.key} and link.authorities "
                f"{identity.authorities} can't be used together ({exc}); put files there that belong together"
            ) from exc
        raise EnrolmentError(
            f"{identity.folder}: key and certificates can't be used ({exc}); enrol again with a new token; {ENROL}"
        ) from exc
    return context


def trusting(authorities: str | bytes) -> ssl.SSLContext:
    """Return a client's TLS 1.3 context that trusts authorities (PEM text, or DER bytes) and checks host names."""
    # Imported here: what opens the agent's keys starts without TLS.
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=authorities)
    context.set_alpn_protocols(["http/1.1"])
    return context
