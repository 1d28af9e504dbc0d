"""``make build``: what is committed, in a wheel and an sdist, with a bill of materials beside them."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import zipfile
from pathlib import Path

from config.dev.build import build
from config.dev.locked import ROOT, project

VERSION = project()["version"]


def test_a_build_holds_what_is_committed_and_its_bills(tmp_path: Path) -> None:
    made = {path.name: path for path in build(tmp_path)}
    assert set(made) == {
        f"outhaul-{VERSION}-py3-none-any.whl",
        f"outhaul-{VERSION}.tar.gz",
        f"outhaul-{VERSION}.sha256",
        f"outhaul-{VERSION}.sbom.cdx.json",
        f"outhaul-agent-{VERSION}.sbom.cdx.json",
        f"outhaul-broker-{VERSION}.sbom.cdx.json",
    }
    sums = made[f"outhaul-{VERSION}.sha256"].read_text("utf-8").splitlines()
    assert dict(line.split("  ")[::-1] for line in sums) == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in made.items() if path.suffix != ".sha256"
    }
    committed = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", "HEAD", "protocol", "agent", "cloud_broker"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    with zipfile.ZipFile(made[f"outhaul-{VERSION}-py3-none-any.whl"]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == set(committed)
    with tarfile.open(made[f"outhaul-{VERSION}.tar.gz"]) as packed:
        inside = {name.partition("/")[2] for name in packed.getnames()}
    assert {*committed, "LICENSE", "pyproject.toml"} <= inside
