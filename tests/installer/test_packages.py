"""What goes into the packages, whatever the program in them is."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from installer.linux.package import KINDS, PackageError, package

MADE_AT = 1_700_000_000


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A folder in place of the frozen program."""
    folder = tmp_path / "program"
    (folder / "_internal").mkdir(parents=True)
    (folder / "outhaul-agent").write_text("#!/bin/sh\n")
    (folder / "outhaul-agent").chmod(0o700)
    (folder / "_internal" / "library.so").write_bytes(b"\x7fELF")
    (folder / "_internal" / "link.so").symlink_to("library.so")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_program_gives_the_same_bytes(program: Path, tmp_path: Path, kind: str) -> None:
    digests = set()
    for number in range(2):
        os.utime(program / "outhaul-agent", (number, number))
        (program / "_internal" / "library.so").chmod(0o600 + 0o44 * number)
        (made,) = package(program, tmp_path / str(number), MADE_AT, kinds=(kind,))
        digests.add((made.name, hashlib.sha256(made.read_bytes()).hexdigest()))
    assert len(digests) == 1


def test_a_deb_keeps_the_operator_s_file_and_what_only_the_agent_may_read(program: Path, tmp_path: Path) -> None:
    (made,) = package(program, tmp_path, MADE_AT, kinds=("deb",), release="1.2.3")
    fields = subprocess.check_output(["dpkg-deb", "-f", str(made)], text=True)
    assert "Version: 1.2.3-1\n" in fields
    assert "Recommends: libodbc2 | libodbc1" in fields
    subprocess.run(["dpkg-deb", "-e", str(made), str(tmp_path / "control")], check=True)
    assert (tmp_path / "control" / "conffiles").read_text().split() == ["/etc/outhaul-agent/agent.toml"]
    listed = subprocess.check_output(["dpkg-deb", "-c", str(made)], text=True)
    rights = {line.split()[5]: " ".join(line.split()[:2]) for line in listed.splitlines()}
    assert rights["./etc/outhaul-agent/agent.toml"] == "-rw-r----- root/outhaul-agent"
    assert rights["./var/lib/outhaul-agent/"] == "drwx------ outhaul-agent/outhaul-agent"
    assert rights["./usr/libexec/outhaul-agent/outhaul-agent"] == "-rwxr-xr-x root/root"
    assert rights["./usr/libexec/outhaul-agent/_internal/library.so"] == "-rw-r--r-- root/root"
    assert rights["./usr/lib/systemd/system/outhaul-agent.service"] == "-rw-r--r-- root/root"


def test_an_archive_is_one_folder_with_all_that_the_service_command_needs(program: Path, tmp_path: Path) -> None:
    (made,) = package(program, tmp_path, MADE_AT, kinds=("archive",))
    with tarfile.open(made) as archive:
        entries = {entry.name: entry for entry in archive}
    assert {entry.uname for entry in entries.values()} == {"root"}
    assert entries["outhaul-agent/outhaul-agent"].mode == 0o755
    assert entries["outhaul-agent/_internal/link.so"].linkname == "library.so"
    assert {"outhaul-agent/agent.toml", "outhaul-agent/drop-ins/driver-folders.conf"} <= entries.keys()
    assert not [name for name in entries if name.endswith(".service")]


def test_what_the_packager_could_not_do_is_said_in_its_words(program: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"nfpm made no flatpak:[\s\S]*flatpak"):
        package(program, tmp_path, MADE_AT, kinds=("flatpak",))
