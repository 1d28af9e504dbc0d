"""What is taken for an upgrade: only what was verified where nobody else can change it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.errors import UpgradeNotAllowed
from agent.upgrade import signature
from agent.upgrade.installation import Installation
from agent.upgrade.package_managers import Dpkg
from agent.upgrade.packaged import Packaged
from agent.upgrade.side_by_side import SideBySide
from installer import sign

KEY = Ed25519PrivateKey.generate()


def packaged(folder: Path) -> tuple[Installation, Path]:
    (folder / "program").mkdir()
    return Packaged(folder / "program", Dpkg(), folder / "kept"), folder / "kept"


def side_by_side(folder: Path) -> tuple[Installation, Path]:
    (folder / "root" / "versions").mkdir(parents=True)
    return SideBySide(folder / "root"), folder / "root"


KINDS = pytest.mark.parametrize("kind", [packaged, side_by_side])
Kind = Callable[[Path], tuple[Installation, Path]]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "outhaul-agent_0.3.0-1_amd64.deb"
    path.write_bytes(b"all of a release" * 1000)
    sign.sign(path, KEY, release="0.3.0")
    return path


def verifying(package: Path) -> Callable[[Path], None]:
    """As the command does: the signature was read, and fitted, before."""
    found = signature.read(package)
    signature.verify(package, found, [sign.public(KEY)])
    return lambda copy: signature.verify(copy, found, [sign.public(KEY)])


@KINDS
def test_what_was_verified_is_a_copy_of_the_whole_package(package: Path, tmp_path: Path, kind: Kind) -> None:
    installed, _ = kind(tmp_path)
    assert installed.take(package, "0.3.0", verifying(package)).read_bytes() == package.read_bytes()


@KINDS
def test_a_package_swapped_between_two_looks_leaves_nothing_to_believe(
    package: Path, tmp_path: Path, kind: Kind
) -> None:
    installed, kept = kind(tmp_path)
    verify = verifying(package)
    package.write_bytes(b"something else")
    with pytest.raises(UpgradeNotAllowed, match="is not what was signed"):
        installed.take(package, "0.3.0", verify)
    assert not installed.has("0.3.0")
    assert [path for path in kept.rglob("*") if path.is_file()] == []


def test_a_swapped_package_does_not_replace_the_one_that_is_kept(package: Path, tmp_path: Path) -> None:
    installed, kept = packaged(tmp_path)
    verify = verifying(package)
    installed.take(package, "0.3.0", verify)
    genuine = package.read_bytes()
    package.write_bytes(b"something else")
    with pytest.raises(UpgradeNotAllowed):
        installed.take(package, "0.3.0", verify)
    assert [path.name for path in kept.iterdir()] == ["0.3.0.deb"]
    assert (kept / "0.3.0.deb").read_bytes() == genuine


def test_a_folder_that_others_may_write_to_is_not_used(package: Path, tmp_path: Path) -> None:
    installed, kept = packaged(tmp_path)
    kept.mkdir()
    kept.chmod(0o777)
    with pytest.raises(UpgradeNotAllowed, match="others than root have rights to it"):
        installed.take(package, "0.3.0", verifying(package))
    assert list(kept.iterdir()) == []
