"""What the lock files in ``requirements/`` name: packages with versions, conditions, hashes and licences."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any, Final, cast

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAMS: Final = ("agent", "broker", "client")

# Older packages tell their licence in words or in classifiers only.
_SPDX: Final = {
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
# Packages of other systems, whose metadata is not here, and one that has two classifiers.
_LICENCES: Final = {
    "httpx2-jsfetch": "BSD-3-Clause",
    "pywin32": "PSF-2.0",
    "pywin32-ctypes": "BSD-3-Clause",
    "sspilib": "MIT",
    "uvloop": "Apache-2.0 OR MIT",
}


@dataclass(frozen=True, slots=True)
class Pin:
    """One package of a lock file; ``marker`` is empty where it is wanted on every system."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]


def pins(program: str) -> list[Pin]:
    """The packages of ``requirements/PROGRAM.txt``, by name."""
    text = (ROOT / "requirements" / f"{program}.txt").read_text("utf-8").replace("\\\n", " ")
    return [_pin(line) for line in text.splitlines() if line[:1].isalnum()]


def _pin(line: str) -> Pin:
    said, *hashes = line.split("--hash=sha256:")
    requirement, _, marker = said.partition(";")
    name, _, version = requirement.strip().partition("==")
    return Pin(name, version.strip(), marker.strip(), tuple(found.strip() for found in hashes))


def wanted(program: str) -> list[Requirement]:
    """What pyproject.toml wants for a program."""
    found = project()
    return [Requirement(text) for text in (*found["dependencies"], *found["optional-dependencies"][program])]


def project() -> dict[str, Any]:
    """The project's table of pyproject.toml."""
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return found


def licence(name: str) -> str:
    """
    The licence of a package as an SPDX expression.

    Raises:
        KeyError: it says nothing that we know; the tables above want a line.
    """
    if name in _LICENCES:
        return _LICENCES[name]
    try:
        found = cast(Message, metadata.metadata(name))  # which it is; its protocol knows less
    except metadata.PackageNotFoundError:
        raise KeyError(f"{name} is not installed here: config/dev/locked.py wants its licence") from None
    if expression := found.get("License-Expression"):
        return str(expression)
    classifiers = [text for text in found.get_all("Classifier") or [] if str(text).startswith("License ::")]
    words = [str(text).rpartition(" :: ")[2] for text in classifiers] or [str(found.get("License"))]
    if len(words) != 1 or not re.fullmatch(r"[A-Za-z0-9. ()-]+", words[0]):
        raise KeyError(f"{name} tells its licence as {words}: config/dev/locked.py wants one")
    return _SPDX.get(words[0], words[0])


def needs(name: str) -> set[str]:
    """The packages that an installed one needs, on any system; nothing of one that is not installed here."""
    try:
        texts = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return set()
    return {canonicalize_name(Requirement(text).name) for text in texts}
