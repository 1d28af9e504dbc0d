"""
The authorities of a broker, and how one takes the place of another.

``authority.json`` in the data folder names them: which are trusted, oldest first, and which of them issues. Without it
there is one, ``ca``. A change has three phases, so that no agent is ever without an authority that it knows:

1. ``add``: a new one is trusted beside the old one, and agents are told so over their links;
2. ``switch``: the new one issues, also the broker's own certificate; the old one's certificates are good still;
3. ``drop``: the old one is trusted no more, and its key is gone.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from cloud_broker.identity.authority import FIRST, Authority, write_whole
from cloud_broker.identity.certificates import CertificateInvalid

STATE_FILE: Final = "authority.json"
_NAME: Final = re.compile(r"ca(-[1-9]\d{0,5})?")


class WrongPhase(Exception):
    """The change is not at the point where this could be done; the text says what comes next."""


@dataclass(frozen=True, slots=True)
class Authorities:
    """
    Those of one moment.

    Attributes:
        trusted: oldest first; one, or two during a change.
        issuing: one of them.
    """

    trusted: tuple[Authority, ...]
    issuing: Authority

    @classmethod
    def load(cls, folder: Path) -> Authorities:
        """
        Open those in ``folder``.

        Raises:
            FileNotFoundError: there are none.
            CertificateInvalid: their files can't be read as what they should be.
        """
        names, issuing = _state(folder)
        trusted = tuple(Authority.load(folder, name) for name in names)
        return cls(trusted, next(authority for authority in trusted if authority.name == issuing))

    @property
    def phase(self) -> str:
        """``steady``, ``added`` (both trusted, the old one issues) or ``switched`` (both trusted, the new one does)."""
        if len(self.trusted) == 1:
            return "steady"
        return "switched" if self.issuing is self.trusted[-1] else "added"

    def issuer_of(self, certificate_der: bytes) -> str | None:
        """Return the fingerprint of the one that issued a certificate, or ``None`` if none of them did."""
        certificate = x509.load_der_x509_certificate(certificate_der)
        return next((one.fingerprint for one in self.trusted if one.issued(certificate)), None)


def add(folder: Path, now: float) -> Authority:
    """
    Begin a change: make the authority that is to come, and trust it too.

    Raises:
        WrongPhase: a change has begun already.
    """
    there = _in_phase(folder, "steady")
    number = 2 if there.issuing.name == FIRST else int(there.issuing.name.partition("-")[2]) + 1
    name = f"{FIRST}-{number}"
    _tidy(folder, {there.issuing.name})
    made = Authority.create(folder, now, name)
    _keep(folder, [there.issuing, made], there.issuing)
    return made


def switch(folder: Path) -> Authority:
    """
    Let the new authority issue from now on.

    Raises:
        WrongPhase: none was added, or it does already.
    """
    there = _in_phase(folder, "added")
    _keep(folder, there.trusted, there.trusted[-1])
    return there.trusted[-1]


def drop(folder: Path) -> Authority:
    """
    End a change: trust the old authority no more, and remove its key.

    Raises:
        WrongPhase: the new one does not issue yet.
    """
    there = _in_phase(folder, "switched")
    old = there.trusted[0]
    _keep(folder, [there.issuing], there.issuing)
    _tidy(folder, {there.issuing.name})
    return old


def are_in(folder: Path) -> bool:
    """Whether a folder has authorities."""
    return (folder / STATE_FILE).exists() or (folder / f"{FIRST}.crt").exists()


def _tidy(folder: Path, names: set[str]) -> None:
    """Remove authorities that are not among ``names``, also those that an earlier change left half way."""
    for path in folder.glob(f"{FIRST}*"):
        if _NAME.fullmatch(path.stem) and path.suffix in (".crt", ".key") and path.stem not in names:
            path.unlink(missing_ok=True)


def _in_phase(folder: Path, wanted: str) -> Authorities:
    there = Authorities.load(folder)
    if there.phase != wanted:
        following = {"steady": "add", "added": "switch", "switched": "drop"}[there.phase]
        raise WrongPhase(
            f"the authorities are {there.phase}, where {wanted} was wanted; what comes next is "
            f"`outhaul-broker authority {following}`"
        )
    return there


def _state(folder: Path) -> tuple[list[str], str]:
    path = folder / STATE_FILE
    try:
        facts: dict[str, Any] = json.loads(path.read_bytes())
        names, issuing = list(facts["trusted"]), facts["issuing"]
    except FileNotFoundError:
        return [FIRST], FIRST
    except (ValueError, KeyError, TypeError) as exc:
        raise CertificateInvalid(f"{path}: is damaged ({exc}); put it back from a backup") from exc
    if issuing not in names or not 1 <= len(names) <= 2 or not all(_NAME.fullmatch(str(name)) for name in names):
        raise CertificateInvalid(f"{path}: names no authorities that could be; put it back from a backup")
    return names, issuing


def _keep(folder: Path, trusted: tuple[Authority, ...] | list[Authority], issuing: Authority) -> None:
    state = {"trusted": [authority.name for authority in trusted], "issuing": issuing.name}
    write_whole(folder / STATE_FILE, json.dumps(state).encode(), 0o600)


def certificates_in(path: Path) -> tuple[x509.Certificate, ...]:
    """
    Return the certificates of a PEM file, of which there must be one at least.

    Raises:
        CertificateInvalid: it has none, or is damaged.
    """
    try:
        return tuple(x509.load_pem_x509_certificates(path.read_bytes()))
    except OSError as exc:
        raise CertificateInvalid(f"{path}: can't be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise CertificateInvalid(f"{path}: wants certificates as PEM: {exc}") from exc
