"""What is installed: the agent's set is light, every file is in the wheel, three programs start."""

from __future__ import annotations

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
NOT_THE_CALLERS: Final = (*NOT_THE_AGENTS[:-1], "pyodbc", "zeep", "lxml", "cryptography", "keyring", "websockets")


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


@pytest.mark.parametrize("extra", ["agent", "broker", "client", "dev"])
def test_requirements_are_pinned_for_all_that_an_extra_wants(extra: str) -> None:
    extras = ("agent", "broker", "client", "dev") if extra == "dev" else (extra,)
    assert {name for one in extras for name in installed_set(one)} <= pinned(extra).keys()


@pytest.mark.parametrize("extra", ["agent", "broker", "client"])
def test_every_program_is_tested_with_the_versions_it_is_installed_with(extra: str) -> None:
    everything = pinned("dev")
    assert {name: everything.get(name) for name in pinned(extra)} == pinned(extra)


@pytest.mark.parametrize("extra", ["agent", "broker", "client", "dev"])
def test_requirements_have_hashes_and_no_address(extra: str) -> None:
    text = (ROOT / "requirements" / f"{extra}.txt").read_text("utf-8")
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
    assert "index-url" not in text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built without network from a copy of what git knows or would take."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
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
    assert any(name.endswith("licenses/LICENSE") for name in names)
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
