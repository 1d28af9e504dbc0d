"""
Who says that a package is a release: ``PACKAGE.sig``, an Ed25519 signature beside it, in one line of JSON.

Signed are the digest of the package, its release and the system that it is for, so that a genuine package can't be
passed off as another release or for another machine.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import platform
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from agent.errors import UpgradeNotAllowed
from protocol import canonical
from protocol.signing import SignatureMalformed, public_key_bytes

SUFFIX: Final = ".sig"
# Of this project's own releases; there are none yet, so an operator names those that are trusted: [upgrade].
BUILT_IN_KEYS: Final[tuple[str, ...]] = ()
READ_BYTES: Final = 1_048_576  # bytes of a package in memory at a time
_CONTEXT: Final = b"outhaul-agent package 1\n"  # so that this key's signature under anything else means nothing here
_RELEASE: Final = re.compile(r"\d{1,6}(\.\d{1,6}){2}")
_MACHINES: Final = {"amd64": "x86_64", "aarch64": "arm64"}  # as systems call them, and how they are called here


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    What stands in the file.

    Attributes:
        release: of the package.
        system: that it is for, as ``system`` has it.
        sha256: of the package, hex.
        key: that signed, ``ed25519:BASE64``.
        signature: over all of the others but the key, base64.
    """

    release: str
    system: str
    sha256: str
    key: str
    signature: str


def system() -> str:
    """Return the name of systems such as this one: ``linux-x86_64``."""
    machine = platform.machine().lower()
    return f"{'windows' if sys.platform == 'win32' else sys.platform}-{_MACHINES.get(machine, machine)}"


def order(release: str) -> tuple[int, ...]:
    """Return what releases are compared by: ``0.10.0`` is later than ``0.9.1``."""
    return tuple(int(part) for part in release.split("."))


def signed_bytes(release: str, system: str, sha256: str) -> bytes:
    """Return what is signed."""
    return _CONTEXT + canonical.encode({"release": release, "system": system, "sha256": sha256})


def digest(package: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    found = hashlib.sha256()
    with package.open("rb") as file:
        while piece := file.read(READ_BYTES):
            found.update(piece)
    return found.hexdigest()


def read(package: Path) -> Signature:
    """
    Return the signature beside a package; nothing of it is verified yet.

    Raises:
        UpgradeNotAllowed: there is none, or it can't be read as one.
    """
    path = package.with_name(package.name + SUFFIX)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Signature)
    except FileNotFoundError:
        raise UpgradeNotAllowed(
            f"{package}: is not signed: there is no {path.name} beside it; get it where the package comes from"
        ) from None
    except (OSError, ValueError) as exc:
        raise UpgradeNotAllowed(f"{path}: can't be read as a signature ({exc})") from exc
    if not _RELEASE.fullmatch(found.release):
        raise UpgradeNotAllowed(f"{path}: its release is none, such as 0.3.0: {found.release[:80]!r}")
    return found


def verify(package: Path, signature: Signature, trusted: Iterable[str]) -> None:
    """
    See that a trusted key signed these very bytes for this very system.

    Args:
        trusted: keys as ``ed25519:BASE64``.

    Raises:
        UpgradeNotAllowed: it did not; the text says why.
    """
    # Only who upgrades needs it.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if signature.key not in {*BUILT_IN_KEYS, *trusted}:
        raise UpgradeNotAllowed(
            f"{package}: is signed with the key {signature.key[:80]}, which is not trusted here; if it is that of who "
            "makes your packages, add it to [upgrade] trusted_keys in the operator's file"
        )
    what = signed_bytes(signature.release, signature.system, signature.sha256)
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key_bytes(signature.key))
        key.verify(base64.b64decode(signature.signature, validate=True), what)
    except (InvalidSignature, SignatureMalformed, ValueError):
        raise UpgradeNotAllowed(f"{package}: its signature is not one of the key that it names; don't use it") from None
    if not hmac.compare_digest(digest(package), signature.sha256):
        raise UpgradeNotAllowed(
            f"{package}: is not what was signed: it was changed, or not all of it arrived; get it again"
        )
    if signature.system != system():
        raise UpgradeNotAllowed(f"{package}: is for {signature.system}, and this machine is {system()}")
