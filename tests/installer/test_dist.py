"""What is packed, under which names, and how two builds are compared; in small, without a build."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.connectors import CONNECTORS
from installer import contents
from installer.dist import differences, digests
from installer.libraries import own_name


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("libssl.so.3", "libssl-outhaul.so.3"),
        ("libbz2.so.1.0", "libbz2-outhaul.so.1.0"),
        ("libfoo.so", "libfoo-outhaul.so"),
    ],
)
def test_a_packed_library_has_a_name_of_its_own(name: str, own: str) -> None:
    assert own_name(name) == own


def test_what_drivers_share_with_us_is_the_systems() -> None:
    names = ["libodbc.so.2", "libodbcinst.so.2", "libltdl.so.7", "libstdc++.so.6", "libgcc_s.so.1", "libssl.so.3"]
    kept = contents.own_libraries([(name, f"/lib/{name}", "BINARY") for name in names])
    assert [name for name, _, _ in kept] == ["libssl.so.3"]


def test_files_that_nobody_reads_stay_out() -> None:
    names = [
        "certifi/cacert.pem",
        "zeep-4.dist-info/METADATA",
        "click/py.typed",
        "keyring-25.dist-info/entry_points.txt",
    ]
    kept = contents.read_files([(name, name, "DATA") for name in names])
    assert [name for name, _, _ in kept] == ["certifi/cacert.pem", "keyring-25.dist-info/entry_points.txt"]


def test_nothing_runs_before_the_program_that_only_tells_where_sources_are() -> None:
    scripts = [(name, f"{name}.py", "PYSOURCE") for name in ("pyi_rth_inspect", "pyi_rth_pkgutil", "start")]
    assert [name for name, _, _ in contents.first_scripts(scripts)] == ["pyi_rth_pkgutil", "start"]


def test_every_connector_is_named_to_the_packer_and_only_our_texts_are_kept() -> None:
    assert {driver.partition(":")[0] for driver in CONNECTORS.values()} <= set(contents.named())
    modules = [("agent.cli", "a.py", "PYMODULE-2"), ("click.core", "c.py", "PYMODULE-2")]
    assert [kind for _, _, kind in contents.documented(modules)] == ["PYMODULE-1", "PYMODULE-2"]


def test_a_byte_a_file_and_a_link_that_differ_are_found(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "same").write_text("x")
        (tmp_path / name / "inner" / "changed").write_text(name)
        (tmp_path / name / "leads").symlink_to(name)
    (tmp_path / "one" / "more").touch()
    assert differences(digests(tmp_path / "one"), digests(tmp_path / "other")) == ["inner/changed", "leads", "more"]
