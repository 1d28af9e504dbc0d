"""What is installed: the agent's set is light, every file is in the wheel, three programs start."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from config.dev import locked

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("protocol", "agent", "cloud_broker")
PROGRAMS: Final = ("outhaul-agent", "outhaul-broker", "outhaul")
# Web frameworks and servers, drivers of stores, object stores, clients: none of the agent's business.
NOT_THE_AGENTS: Final = (
    "fastapi",
    "starlette",
    "uvicorn",
    "httptools",
    "jinja2",
    "asyncpg",
    "psycopg",
    "aiosqlite",
    "sqlalchemy",
    "boto3",
    "obstore",
    "jsonschema-rs",
    "httpx2",
)
NOT_THE_CALLERS: Final = (*NOT_THE_AGENTS[:-1], "pyodbc", "zeep", "lxml", "keyring", "websockets")


def project() -> dict[str, Any]:
    """The project's table of pyproject.toml."""
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return found


def pinned(extra: str) -> dict[str, str]:
    """Names and versions in requirements/EXTRA.txt."""
    text = (ROOT / "requirements" / f"{extra}.txt").read_text("utf-8")
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", text, re.MULTILINE))


def installed_set(extra: str) -> set[str]:
    """All that an extra pulls in here, by the metadata of what is installed."""
    wanted = [Requirement(text) for text in (*project()["dependencies"], *project()["optional-dependencies"][extra])]
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        requirement = wanted.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        marker = requirement.marker
        if (name, extras) in seen or (marker is not None and not marker.evaluate({"extra": ""})):
            continue
        seen.add((name, extras))
        found.add(name)
        for text in metadata.requires(name) or []:
            child = Requirement(text)
            if child.marker is None or any(child.marker.evaluate({"extra": given}) for given in (*extras, "")):
                child.marker = None
                wanted.append(child)
    return found


@pytest.mark.parametrize(("extra", "unwanted"), [("agent", NOT_THE_AGENTS), ("client", NOT_THE_CALLERS)])
def test_a_light_set_pulls_in_none_of_the_others_libraries(extra: str, unwanted: tuple[str, ...]) -> None:
    assert installed_set(extra) & set(unwanted) == set()
    assert pinned(extra).keys() & set(unwanted) == set()


@pytest.mark.parametrize("extra", ["agent", "arrow", "broker", "client", "dev"])
def test_requirements_are_pinned_for_all_that_an_extra_wants(extra: str) -> None:
    extras = ("agent", "arrow", "broker", "client", "dev") if extra == "dev" else (extra,)
    assert {name for one in extras for name in installed_set(one)} <= pinned(extra).keys()


@pytest.mark.parametrize("extra", ["agent", "arrow", "broker", "client"])
def test_every_program_is_tested_with_the_versions_it_is_installed_with(extra: str) -> None:
    everything = pinned("dev")
    assert {name: everything.get(name) for name in pinned(extra)} == pinned(extra)


@pytest.mark.parametrize("extra", ["agent", "arrow", "broker", "client", "dev"])
def test_requirements_have_hashes_and_no_address(extra: str) -> None:
    text = (ROOT / "requirements" / f"{extra}.txt").read_text("utf-8")
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
    assert "index-url" not in text


@pytest.mark.parametrize("extra", ["agent", "arrow", "broker", "client", "dev", "fuzz"])
def test_what_is_pinned_is_what_the_project_wants(extra: str) -> None:
    found = {pin.name: pin for pin in locked.pins(extra)}
    asked = locked.wanted(extra)
    assert asked
    for requirement in asked:
        # Of one package there may be a version for each system.
        pin = found[canonicalize_name(requirement.name)]
        if requirement.marker is None or requirement.marker.evaluate():
            versions = [one.version for one in locked.pins(extra) if one.name == pin.name]
            assert any(version in requirement.specifier for version in versions), f"run: make lock ({requirement})"


@pytest.mark.parametrize(
    "lock", sorted((ROOT / "config" / "dev").glob("*/package-lock.json")), ids=lambda p: p.parent.name
)
def test_packages_of_npm_have_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text("utf-8")
    read = json.loads(text)
    wanted = json.loads((lock.parent / "package.json").read_text("utf-8"))
    assert read["packages"][""]["dependencies"] == wanted["dependencies"], "run: npm install --package-lock-only"
    parts = {name: entry for name, entry in read["packages"].items() if name}
    assert parts
    assert [name for name, entry in parts.items() if not entry["integrity"].startswith("sha512-")] == []
    assert [name for name, entry in parts.items() if "resolved" in entry] == []


def test_setup_installs_nothing_without_its_hash() -> None:
    script = (ROOT / "config" / "dev" / "setup.sh").read_text("utf-8").replace("\\\n", " ")
    pips = [line for line in script.splitlines() if "pip install" in line and not line.lstrip().startswith("#")]
    assert pips
    assert [line for line in pips if "--require-hashes" not in line and "--no-index" not in line] == []
    # Packages of npm may bring scripts that run when they are installed; here none does.
    nodes = [line for line in script.splitlines() if line.lstrip().startswith("(cd")]
    assert [line for line in nodes if "npm ci" in line and "--ignore-scripts" in line] == nodes != []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built without network from a copy of what git knows or would take."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    # In a process of its own: setuptools changes the folder and more.
    code = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    (copy / "dist").mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(copy / "dist" / done.stdout.split()[-1])


def test_every_file_of_the_packages_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == files
    assert {f"{package}/py.typed" for package in PACKAGES} <= files
    assert any(name.endswith(".sql") for name in files)


def test_the_wheel_has_its_licence_and_three_programs(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {name.rpartition("/")[2] for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}
    entry_points = wheel.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert re.findall(r"^(\S+) = ", entry_points, re.MULTILINE) == sorted(PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_without_its_extra_a_program_says_what_to_install(wheel: zipfile.ZipFile, program: str) -> None:
    module, _, function = project()["scripts"][program].partition(":")
    code = (
        f"import sys; sys.path.insert(0, {wheel.filename!r}); sys.argv[0] = {program!r}\n"
        f"from {module} import {function}; sys.exit({function}())"
    )
    # Isolated and without the packages of this environment.
    bare = [sys.executable, "-I", "-S", "-c", code, "version"]
    done = subprocess.run(bare, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(
        rf"{program}: the Python package '\w+' is not installed here; .*pip install '.*'\n", done.stderr
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_tells_its_words(program: str) -> None:
    path = Path(sys.executable).parent / program
    done = subprocess.run([str(path), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_wrong_word_is_exit_code_2(program: str) -> None:
    path = Path(sys.executable).parent / program
    done = subprocess.run([str(path), "dance"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "dance" in done.stderr
