"""Whom the running broker trusts, and whom its agents are to trust; another process may change the authorities."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from cloud_broker.identity.authorities import STATE_FILE, Authorities, certificates_in
from cloud_broker.identity.authority import Authority
from cloud_broker.identity.certificates import CertificateInvalid
from cloud_broker.settings import Settings


class Trust:
    """
    The authorities of now.

    Attributes:
        folder: where ours are.
        issues: whether ours issue, and are trusted.
        clients: the operator's own, whose certificates registered agents may show.
        servers: whom agents are to trust besides ours.
    """

    def __init__(
        self,
        folder: Path,
        *,
        issues: bool = True,
        clients: Sequence[x509.Certificate] = (),
        servers: Sequence[x509.Certificate] = (),
    ) -> None:
        self.folder = folder
        self.issues = issues
        self.clients = tuple(clients)
        self.servers = tuple(servers)
        # First what tells one state from another: what changes in between is seen at the next look.
        self._seen = self._facts()
        self._ours = Authorities.load(folder)
        self._wanted: frozenset[str] | None = None  # until somebody asks
        self._names: dict[object, str] | None = None  # likewise

    @classmethod
    def of(cls, settings: Settings) -> Trust:
        """
        Return that of a broker with this file.

        Raises:
            CertificateInvalid: a file of certificates is not as it should be.
            FileNotFoundError: no broker was set up here.
        """
        link = settings.link
        return cls(
            settings.data_dir,
            issues=settings.certificates.issue,
            clients=certificates_in(link.client_authorities) if link.client_authorities else (),
            servers=certificates_in(link.authorities) if link.authorities else (),
        )

    @property
    def ours(self) -> Authorities:
        """Our own."""
        return self._ours

    @property
    def issuing(self) -> Authority:
        """The one that issues; its certificate stands in the broker's own too."""
        return self._ours.issuing

    @property
    def for_clients(self) -> list[x509.Certificate]:
        """Whose certificates are taken from who dials."""
        ours = [authority.certificate for authority in self._ours.trusted] if self.issues else []
        return [*ours, *self.clients]

    @property
    def for_agents(self) -> list[x509.Certificate]:
        """Whom agents are to trust; first the one that issues."""
        others = [authority.certificate for authority in self._ours.trusted if authority is not self.issuing]
        return [self.issuing.certificate, *others, *self.servers]

    @property
    def bundle(self) -> list[str]:
        """``for_agents`` as messages have them: DER in base64."""
        return [base64.b64encode(one.public_bytes(Encoding.DER)).decode("ascii") for one in self.for_agents]

    @property
    def wanted(self) -> frozenset[str]:
        """SHA-256 (hex) of ``for_agents``, as an agent tells whom it trusts."""
        if self._wanted is None:
            self._wanted = frozenset(one.fingerprint(hashes.SHA256()).hex() for one in self.for_agents)
        return self._wanted

    @property
    def for_tokens(self) -> bytes:
        """The one (DER) that an agent which enrols is to know the broker by."""
        return (self.servers[0] if self.servers else self.issuing.certificate).public_bytes(Encoding.DER)

    def issuer_of(self, certificate_der: bytes) -> str:
        """Return the fingerprint of the one of ours that issued a certificate; "" if none did, or none is trusted."""
        return (self._ours.issuer_of(certificate_der) or "") if self.issues else ""

    def issuer_named(self, issuer: object) -> str | None:
        """
        Return the same of a certificate of which it is known that one of ``for_clients`` issued it, by its issuer's
        name as ``ssl`` tells it; ``None`` if the name does not tell.

        Where all of these are ours it does: each has another name. An authority of the operator's own might have any.
        """
        if not self.issues:
            return ""
        if self.clients:
            return None
        if self._names is None:
            self._names = {_told(one.certificate.subject): one.fingerprint for one in self._ours.trusted}
        return self._names.get(issuer, "")

    def trusts(self, issuer: str) -> bool:
        """Whether the one of ours with this fingerprint is trusted still."""
        return self.issues and any(authority.fingerprint == issuer for authority in self._ours.trusted)

    def look_again(self) -> bool:
        """
        Load what another process changed; return whether it did.

        Raises:
            CertificateInvalid: the files are not as they should be; what was known stays.
        """
        facts = self._facts()
        if facts == self._seen:
            return False
        try:
            self._ours = Authorities.load(self.folder)
        except FileNotFoundError as exc:
            raise CertificateInvalid(f"{exc.filename}: is missing; put it back from a backup") from exc
        self._seen, self._wanted, self._names = facts, None, None
        return True

    def _facts(self) -> bytes:
        """What tells one state from another."""
        try:
            return (self.folder / STATE_FILE).read_bytes()
        except FileNotFoundError:
            return b""


def _told(name: x509.Name) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Return the name of one of ours as ``ssl`` tells names: they have a common name, and nothing else."""
    return tuple((("commonName", str(part.value)),) for part in name)
