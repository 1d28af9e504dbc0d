"""What is unpacked beside the release that runs: only what lies within its folder."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from agent.errors import UpgradeNotAllowed
from agent.upgrade.side_by_side import SideBySide


def package(folder: Path, *extra: tarfile.TarInfo) -> Path:
    """An archive of a release, and what does not belong into one."""
    made = folder / "outhaul-agent.tar"
    with tarfile.open(made, "w") as archive:
        for name, data in (("VERSION", b"9.9.9\n"), ("outhaul-agent", b"#!/bin/sh\n")):
            member = tarfile.TarInfo(f"outhaul-agent/{name}")
            member.size, member.mode = len(data), 0o6777
            archive.addfile(member, io.BytesIO(data))
        for member in extra:
            archive.addfile(member)
    return made


def member(name: str, kind: bytes = tarfile.REGTYPE, leads_to: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, leads_to
    return made


@pytest.fixture
def side(tmp_path: Path) -> SideBySide:
    (tmp_path / "root" / "versions" / "1.0.0").mkdir(parents=True)
    (tmp_path / "root" / "current").symlink_to("versions/1.0.0")
    return SideBySide(tmp_path / "root")


@pytest.mark.parametrize(
    "strange",
    [
        member("../../etc/cron.d/x"),
        member("/etc/cron.d/x"),
        member("outhaul-agent/../../x"),
        member("outhaul-agent/lib", tarfile.SYMTYPE, "/etc"),
        member("outhaul-agent/lib", tarfile.SYMTYPE, "../../../etc"),
        member("outhaul-agent/lib", tarfile.LNKTYPE, "/etc/shadow"),
        member("outhaul-agent/lib", tarfile.LNKTYPE, "../etc/shadow"),
        member("outhaul-agent/disk", tarfile.BLKTYPE),
        member("outhaul-agent/pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda found: f"{found.name} {found.linkname}".strip(),
)
def test_what_leads_out_of_the_folder_is_refused(side: SideBySide, tmp_path: Path, strange: tarfile.TarInfo) -> None:
    with pytest.raises(UpgradeNotAllowed, match="not within its folder"):
        side.unpack(package(tmp_path, strange), "9.9.9")
    assert [path.name for path in (tmp_path / "root" / "versions").iterdir() if path.name[0] != "."] == ["1.0.0"]


def test_what_is_unpacked_is_written_by_its_owner_only(side: SideBySide, tmp_path: Path) -> None:
    inside = member("outhaul-agent/link", tarfile.SYMTYPE, "./VERSION")
    side.unpack(package(tmp_path, inside), "9.9.9")
    made = tmp_path / "root" / "versions" / "9.9.9"
    assert (made / "outhaul-agent").stat().st_mode & 0o7777 == 0o755
    assert (made / "link").read_text() == "9.9.9\n"
