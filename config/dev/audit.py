"""
``make audit``: asks whether a package that we lock is known to be vulnerable.

Exit code 0 only if every package was asked for and none is; 1 if one is; 3 if somebody could not be asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from config.dev.locked import ROOT

CLEAN, FOUND, NOT_ASKED = 0, 1, 3

# The development one holds those of all programs, in the same versions.
LOCKS: Final = (ROOT / "requirements" / "dev.txt", ROOT / "requirements" / "fuzz.txt")
NODE: Final = (*sorted((ROOT / "config" / "dev").glob("*/package-lock.json")),)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one source of advisories said of one lock file: what is known, and what could not be asked."""

    known: tuple[str, ...] = ()
    not_asked: str = ""


def main(service: str) -> int:
    """Ask for every lock file, print a line for each, and give the exit code."""
    answers = [(lock, pip_audit(lock, service)) for lock in LOCKS] + [(lock, npm_audit(lock)) for lock in NODE]
    for lock, answer in answers:
        told = [*answer.known, *([f"could not be asked: {answer.not_asked}"] if answer.not_asked else [])]
        for line in told or ["nothing known"]:
            print(f"{lock.relative_to(ROOT)}: {line}")
    if any(answer.known for _, answer in answers):
        return FOUND
    return NOT_ASKED if any(answer.not_asked for _, answer in answers) else CLEAN


def pip_audit(lock: Path, service: str) -> Answer:
    """Ask PyPI (``pypi``) or OSV (``osv``) with pip-audit; nothing is installed or resolved."""
    words = ["--progress-spinner", "off", "--disable-pip", "--require-hashes", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", *words, "--vulnerability-service", service, "-r", str(lock)]
    return _asked(command, lock.parent, of_pip_audit)


def npm_audit(lock: Path) -> Answer:
    """Ask npm's registry with npm's own audit."""
    return _asked(["npm", "audit", "--json"], lock.parent, of_npm_audit)


def of_pip_audit(said: dict[str, Any]) -> Answer:
    """
    Read pip-audit's JSON.

    A package that the source does not know is one that it was not asked for: pip-audit's exit code is 0 then.
    """
    packages = said["dependencies"]
    skipped = [entry["name"] for entry in packages if "skip_reason" in entry]
    known = [
        f"{entry['name']} {entry['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'none yet'}"
        for entry in packages
        for found in entry.get("vulns", [])
    ]
    told = f"{len(skipped)} of {len(packages)} packages are not known to the source of advisories" if skipped else ""
    return Answer(tuple(known), told)


def of_npm_audit(said: dict[str, Any]) -> Answer:
    """Read npm's JSON, in which an error has the place of an answer."""
    if "vulnerabilities" not in said:
        return Answer(not_asked=str(said.get("message") or said.get("error", {}).get("summary") or "no answer"))
    return Answer(tuple(f"{name}: {entry['severity']}" for name, entry in sorted(said["vulnerabilities"].items())))


def _asked(command: list[str], folder: Path, read: Callable[[dict[str, Any]], Answer]) -> Answer:
    """Run a program that answers in JSON and read it; whatever else it says is why it could not ask."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return Answer(not_asked=f"{type(exc).__name__}: {exc}")
    try:
        said = json.loads(done.stdout)
    except ValueError:
        words = done.stderr.strip().splitlines()
        return Answer(not_asked=words[-1] if words else f"{command[0]} ended with {done.returncode}")
    return read(said)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "pypi"))
