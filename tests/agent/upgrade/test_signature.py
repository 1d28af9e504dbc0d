"""Which packages are believed: those that a trusted key signed, as that release, for this system."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.errors import UpgradeNotAllowed
from agent.upgrade import signature
from installer import sign

KEY = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "outhaul-agent-0.3.0.tar.xz"
    path.write_bytes(b"all of a release" * 1000)
    sign.sign(path, KEY, release="0.3.0")
    return path


def verified(package: Path) -> signature.Signature:
    found = signature.read(package)
    signature.verify(package, found, [sign.public(KEY)])
    return found


def test_a_package_as_it_was_signed_is_believed(package: Path) -> None:
    assert verified(package).release == "0.3.0"


def changed(**members: str) -> Callable[[Path], object]:
    def change(package: Path) -> None:
        path = package.with_name(package.name + ".sig")
        path.write_text(json.dumps(json.loads(path.read_text()) | members))

    return change


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "no signature": (lambda path: path.with_name(path.name + ".sig").unlink(), "is not signed"),
    "no signature but something": (lambda path: path.with_name(path.name + ".sig").write_text("ok"), "can't be read"),
    "changed": (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"), "changed, or not all of it arrived"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "changed, or not all of it arrived"),
    "by somebody else": (lambda path: sign.sign(path, OTHER, release="0.3.0"), r"not trusted here.*\[upgrade\]"),
    "under a trusted name": (changed(key=sign.public(OTHER)), "not trusted here"),
    "as another release": (changed(release="9.9.9"), "not one of the key that it names"),
    "for another system": (
        lambda path: sign.sign(path, KEY, release="0.3.0", system="windows-x86_64"),
        "is for windows-x86_64, and this machine is",
    ),
    "with another digest": (changed(sha256="0" * 64), "not one of the key that it names"),
    "with a member more": (changed(more="x"), "can't be read"),
    "as no release": (changed(release="../../etc"), "its release is none"),
    "with a signature that is none": (changed(signature="?"), "not one of the key that it names"),
}


@pytest.mark.parametrize("harm", HARM)
def test_any_other_is_refused(package: Path, harm: str) -> None:
    change, sentence = HARM[harm]
    change(package)
    with pytest.raises(UpgradeNotAllowed, match=sentence):
        verified(package)


def test_releases_are_compared_by_their_numbers() -> None:
    assert signature.order("0.10.0") > signature.order("0.9.12") > signature.order("0.9.2")


@pytest.mark.parametrize("passphrase", [b"", b"a passphrase"])
def test_a_key_is_made_once_and_read_with_its_passphrase_only(tmp_path: Path, passphrase: bytes) -> None:
    path = tmp_path / "release.key"
    made = sign.make(path, passphrase)
    assert sign.public(sign.load(path, passphrase)) == sign.public(made)
    with pytest.raises(ValueError, match=r"[Pp]ass|decrypt"):
        sign.load(path, b"another")
    with pytest.raises(FileExistsError):
        sign.make(path, passphrase)
