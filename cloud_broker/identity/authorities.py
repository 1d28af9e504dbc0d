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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from cloud_broker.identity.authority import FIRST, Authority, sync_folder, write_whole
from cloud_broker.identity.certificates import CertificateInvalid

STATE_FILE: Final = "authority.json"
_NAME: Final = re.compile(r"ca(-[1-9]\d{0,5})?")
_FILE: Final = re.compile(rf"({_NAME.pattern})\.(crt|key)(\.[0-9a-f]{{8}}\.tmp)?")  # half written ones as well


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
        return self.issuer_in(x509.load_der_x509_certificate(certificate_der))

    def issuer_in(self, certificate: x509.Certificate) -> str | None:
        """Likewise, of one that was read already."""
        return next((one.fingerprint for one in self.trusted if one.issued(certificate)), None)


def add(folder: Path, now: float) -> Authority:
    """
    Begin a change: make the authority that is to come, and trust it too.

    Raises:
        WrongPhase: a change has begun already.
    """
    there = _in_phase(folder, "steady")
    name = f"{FIRST}-{_number(there.issuing.name) + 1}"
    _remove(folder, lambda left: left != there.issuing.name)  # of an earlier change that was cut off
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

    First it is forgotten, then removed: whatever ends in between, the next start or ``remove_dropped`` does the rest.

    Raises:
        WrongPhase: the new one does not issue yet.
    """
    there = _in_phase(folder, "switched")
    old = there.trusted[0]
    _keep(folder, [there.issuing], there.issuing)
    remove_dropped(folder)
    return old


def remove_dropped(folder: Path) -> list[str]:
    """
    Remove what is left of authorities that were dropped; return the names of the files.

    One that is being added meanwhile is left alone, for it is younger than all that are trusted.

    Raises:
        CertificateInvalid: which are trusted can't be read.
        OSError: a file can't be removed.
    """
    names, _ = _state(folder)
    oldest = min(map(_number, names))
    return _remove(folder, lambda name: _number(name) < oldest)


def are_in(folder: Path) -> bool:
    """Whether a folder has authorities."""
    return (folder / STATE_FILE).exists() or (folder / f"{FIRST}.crt").exists()


def _remove(folder: Path, gone: Callable[[str], bool]) -> list[str]:
    """Remove the files of authorities whose name says so, keys first; return their names."""
    paths = [path for path in folder.glob(f"{FIRST}*") if (found := _FILE.fullmatch(path.name)) and gone(found[1])]
    for path in sorted(paths, key=lambda path: ".key" not in path.name):
        path.unlink(missing_ok=True)
    if paths:
        sync_folder(folder)
    return sorted(path.name for path in paths)


def _number(name: str) -> int:
    """Return which one it is, from 1 on."""
    return 1 if name == FIRST else int(name.partition("-")[2])


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
