"""
``python -m installer.sign PACKAGE… --key FILE``: an Ed25519 signature beside each package, ``PACKAGE.sig``.

``outhaul-agent upgrade`` installs what is signed with a key that the operator trusts. The key is PEM (PKCS #8);
``--make`` makes one where there is none, and prints its public half.
"""

from __future__ import annotations

import argparse
import base64
import getpass
import os
import sys
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from agent import RELEASE
from agent.upgrade import signature
from agent.upgrade.signature import SUFFIX, Signature

PASSPHRASE: Final = "OUTHAUL_RELEASE_PASSPHRASE"  # noqa: S105 - the name of a variable


def sign(package: Path, key: Ed25519PrivateKey, *, release: str = RELEASE, system: str = "") -> Path:
    """
    Write the signature beside a package, and return its path.

    Args:
        release: that the package is of.
        system: that it is for; that of this machine where it is left out.
    """
    system = system or signature.system()
    sha256 = signature.digest(package)
    signed = key.sign(signature.signed_bytes(release, system, sha256))
    made = Signature(release, system, sha256, public(key), base64.b64encode(signed).decode())
    path = package.with_name(package.name + SUFFIX)
    path.write_bytes(msgspec.json.encode(made) + b"\n")
    return path


def public(key: Ed25519PrivateKey) -> str:
    """Return the public half, as an operator's file has it."""
    return "ed25519:" + base64.b64encode(key.public_key().public_bytes_raw()).decode()


def make(path: Path, passphrase: bytes) -> Ed25519PrivateKey:
    """Make a key in a new file; an empty passphrase leaves it in clear."""
    key = Ed25519PrivateKey.generate()
    how = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))
    return key


def load(path: Path, passphrase: bytes) -> Ed25519PrivateKey:
    """
    Read a key.

    Raises:
        ValueError: it is none, or the passphrase is not its own.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), passphrase or None)
    except TypeError as exc:  # a passphrase for a key in clear, or none for one that has one
        raise ValueError(str(exc)) from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("it is no Ed25519 key")
    return key


def _passphrase() -> bytes:
    told = os.environ.get(PASSPHRASE)
    if told is None and sys.stdin.isatty():
        told = getpass.getpass("passphrase of the key (empty: none): ")
    return (told or "").encode()


def main() -> None:
    """Take the words of the command line."""
    parser = argparse.ArgumentParser(prog="python -m installer.sign", description="Sign packages of the agent.")
    parser.add_argument("package", nargs="*", type=Path, help="a package that `make dist` made")
    parser.add_argument("--key", type=Path, required=True, help=f"PEM; its passphrase from ${PASSPHRASE} or a prompt")
    parser.add_argument("--make", action="store_true", help="make the key; the file must not be there")
    parser.add_argument("--release", default=RELEASE, help="that the packages are of")
    parser.add_argument("--system", default="", help="that they are for, such as windows-x86_64; default: this one")
    words = parser.parse_args()
    try:
        key = (make if words.make else load)(words.key, _passphrase())
        made = [sign(package, key, release=words.release, system=words.system) for package in words.package]
    except (OSError, ValueError) as exc:
        sys.exit(f"installer.sign: {exc}")
    print(public(key))  # noqa: T201 - the command's answer
    for path in made:
        print(path)  # noqa: T201 - likewise


if __name__ == "__main__":
    main()
