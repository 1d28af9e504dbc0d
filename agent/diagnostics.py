"""
``outhaul-agent diagnostics``: what somebody who helps from afar wants to know, and nothing that is secret.

Everything is put together here, by this process; what a check finds, and how the service is, this same program is asked
for as a child, so that a part that crashes is only missing.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from agent import RELEASE, status
from agent.check.remedies import REMEDIES
from agent.config_file import Loaded
from agent.connectors.odbc.installed import drivers
from agent.discretion import keep_quiet_about
from agent.errors import AgentError
from agent.journal.disk import Disk
from agent.journal.file import FOLDER
from agent.journal.reading import read
from agent.journal.records import Index
from agent.own_program import own_program
from agent.redaction import Redactor, shown_file
from agent.secrets import open_store

ENTRIES: Final = 500  # newest commands of the journal that are listed
LOG_BYTES: Final = 1_048_576  # of the newest lines
CHILD_S: Final = 600.0  # seconds for a check of everything
LIBRARIES: Final = ("msgspec", "pydantic", "websockets", "cryptography", "python-socks", "pyodbc", "zeep", "keyring")
UNIT: Final = "outhaul-agent"
_LEFT_OUT: Final = "left out here, as it may repeat a system's own words; `outhaul-agent check` shows it"

IN_IT: Final = {
    "README.txt": "this text",
    "version.json": "release, Python, system, libraries, ODBC drivers",
    "file.json": "the operator's file: all keys; of the values only kinds, limits and names of ours, others are ***",
    "check.json": "what `outhaul-agent check` finds; of what fails at a local system without its own words",
    "status.json": "how the running agent says that it is",
    "service.json": "how the system sees the service",
    "journal.json": f"how many commands are in which state; of the newest {ENTRIES}: id, operation, state, times",
    "machine.json": "disk and memory, of the machine and of the agent",
    "log.txt": "the newest lines of the log",
    "link.txt": "those of them that tell of the link",
}
NOT_IN_IT: Final = (
    "secrets, keys, certificates, tokens",
    "parameters and results of commands, messages and correlation ids of callers",
    "what the operator's file says: statements, connection strings, addresses, paths, descriptions",
    "contents and names of files",
)


@dataclass(frozen=True, slots=True)
class Scene:
    """
    What it is put together from.

    Attributes:
        path: of the operator's file.
        loaded: the file; ``None`` if it is broken.
        raw: the file as TOML; empty if it is none.
        redact: takes out of a text what stands in the file, and secrets.
        quiet: whether the values of all secrets are known, so that they can be taken out.
    """

    path: Path
    loaded: Loaded | None
    raw: dict[str, Any]
    redact: Redactor
    quiet: bool

    @property
    def state_dir(self) -> Path | None:
        """The agent's folder."""
        return None if self.loaded is None else self.loaded.base_dir / self.loaded.settings.state_dir


def file_name(agent: str, now: datetime) -> str:
    """Return what the zip is called unless the operator says."""
    return f"outhaul-diagnostics-{agent}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}.zip"


def scene(path: Path, loaded: Loaded | None) -> Scene:
    """Look at the file, and get to know all that must not be told."""
    try:
        raw = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError):
        raw = {}
    quiet = False
    if loaded is not None:
        try:
            store = open_store(loaded.settings, loaded.base_dir)
            keep_quiet_about([value for name in store.names() if (value := store.get(name)) is not None])
            quiet = True
        except AgentError:
            quiet = False
    public = [text for remedy in REMEDIES.values() for text in (remedy.means, remedy.fix)]
    return Scene(path, loaded, raw, Redactor(raw, [*public, *IN_IT.values(), *drivers_or_none()]), quiet)


def write(output: IO[bytes], seen: Scene, tell: Callable[[str], None]) -> None:
    """
    Write the zip.

    Args:
        tell: called with the name of each part before it is put together.
    """
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in _parts(seen, tell):
            packed.writestr(name, text)


def _parts(seen: Scene, tell: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    made: dict[str, Callable[[], Any]] = {
        "version.json": _version,
        "file.json": lambda: shown_file(seen.raw),
        "check.json": lambda: _check(seen),
        "status.json": lambda: _status(seen),
        "service.json": lambda: seen.redact.inside(_asked("service", "status", "--json")),
        "journal.json": lambda: _journal(seen),
        "machine.json": lambda: _machine(seen),
    }
    yield "README.txt", _readme()
    for name, make in made.items():
        tell(name)
        try:
            part = make()
        except Exception as exc:  # what is broken may break any of them, and the others are wanted all the more
            part = {"missing": type(exc).__name__}
        yield name, json.dumps(part, indent=1, ensure_ascii=False, default=str) + "\n"
    tell("log.txt")
    lines = _log(seen)
    yield "log.txt", "".join(f"{line}\n" for line in lines)
    yield "link.txt", "".join(f"{line}\n" for line in lines if " link" in line.lower() or '"link' in line.lower())


def _readme() -> str:
    there = "".join(f"  {name:<14}{what}\n" for name, what in IN_IT.items())
    return (
        f"Diagnostics of an Outhaul agent, release {RELEASE}.\n\nIn it:\n{there}\nNot in it:\n"
        + "".join(f"  {what}\n" for what in NOT_IN_IT)
        + "\nWords that stand in the operator's file, and may not be shown, are *** in every text.\n"
    )


def drivers_or_none() -> list[str]:
    """Return the names of the ODBC drivers; none where the system has no driver manager."""
    try:
        return drivers()
    except Exception:  # the driver manager is a library of the system, and may be broken in ways of its own
        return []


def _version() -> dict[str, Any]:
    return {
        "release": RELEASE,
        "frozen": bool(getattr(sys, "frozen", False)),
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "bits": 8 * struct.calcsize("P"),
        "libraries": {name: _library(name) for name in LIBRARIES},
        "odbc_drivers": drivers_or_none(),
    }


def _library(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check(seen: Scene) -> Any:
    found = _asked("check", "--json", "--config", str(seen.path))
    for one in found.get("stages", []):
        told = one["ok"] is not False or one["stage"] not in ("file", "connections", "operations")
        one["detail"] = seen.redact(one["detail"]) if told else _LEFT_OUT
        one["subject"] = seen.redact(one["subject"])
        one["fix"] = REMEDIES[one["code"]].fix if one["code"] in REMEDIES else ""
    return found


def _asked(*words: str) -> dict[str, Any]:
    """Return what a command of this program prints as JSON."""
    done = subprocess.run(  # noqa: S603 - this same program, and words of ours
        [*own_program(), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=CHILD_S,
        check=False,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"missing": f"exit code {done.returncode}"}
    return answer


def _status(seen: Scene) -> Any:
    told = status.read(seen.state_dir) if seen.state_dir is not None else None
    return (
        {"missing": "the agent has never run here"} if told is None else seen.redact.inside(msgspec.to_builtins(told))
    )


def _journal(seen: Scene) -> Any:
    if seen.state_dir is None:
        return {"missing": "the operator's file is broken"}
    found = read(Disk(), seen.state_dir / FOLDER, Index(), whole=True)
    entries = [
        *found.index.open.values(),
        *(known for known in found.index.remembered.values() if not isinstance(known, int)),
    ]
    newest = sorted(entries, key=lambda entry: entry.claim.at)[-ENTRIES:]
    return {
        "records": found.count,
        "bytes": found.size,
        "damages": len(found.damages),
        "states": Counter(entry.state for entry in entries),
        "outcomes": Counter(entry.completed.outcome for entry in entries if entry.completed is not None),
        "newest": [
            {
                "id": entry.claim.id,
                "operation": entry.claim.operation,
                "effect": entry.claim.effect,
                "attempt": entry.claim.epoch,
                "state": entry.state,
                "outcome": entry.completed.outcome if entry.completed is not None else None,
                # The source's own code may be anything; ours are a short list.
                "error": entry.completed.error_kind if entry.completed is not None else None,
                "started_at": entry.claim.at,
                "ended_at": entry.ended_at or None,
                "resolved": entry.resolution is not None,
            }
            for entry in newest
        ],
    }


def _machine(seen: Scene) -> Any:
    facts: dict[str, Any] = {"processors": os.cpu_count()}
    if hasattr(os, "getloadavg"):
        facts["load"] = os.getloadavg()
    if seen.state_dir is not None:
        usage = shutil.disk_usage(seen.state_dir)
        facts["state_disk"] = {"bytes": usage.total, "free": usage.free}
        facts["state_bytes"] = sum(
            path.lstat().st_size for path in seen.state_dir.rglob("*") if not path.is_symlink() and path.is_file()
        )
        told = status.read(seen.state_dir)
        if told is not None:
            facts["agent_memory"] = _fields(Path(f"/proc/{told.pid}/status"), ("VmRSS", "VmHWM", "Threads", "FDSize"))
    facts["memory"] = _fields(Path("/proc/meminfo"), ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree"))
    return facts


def _fields(path: Path, wanted: tuple[str, ...]) -> dict[str, str]:
    """Return some of the facts that Linux tells in a file of names and values; none on other systems."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name: value.strip() for name, _, value in pairs if name in wanted}


def _log(seen: Scene) -> list[str]:
    if not seen.quiet:
        return ["left out: without file and store of secrets it is not known what must be taken out of it"]
    try:
        return [seen.redact(line) for line in _newest_lines(seen)]
    except (OSError, subprocess.TimeoutExpired) as exc:
        return [f"the log can't be read: {type(exc).__name__}"]


def _newest_lines(seen: Scene) -> list[str]:
    if seen.loaded is not None and seen.loaded.settings.log.file is not None:
        with (seen.loaded.base_dir / seen.loaded.settings.log.file).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
            data = file.read()
    elif journalctl := shutil.which("journalctl"):
        data = subprocess.run(  # noqa: S603 - the system's own program, and words of ours
            [journalctl, "--unit", UNIT, "--lines", "2000", "--no-pager", "--output", "cat", "--quiet"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        ).stdout[-LOG_BYTES:]
    else:
        return ["the log goes to standard error; who started the agent has it"]
    return data.decode("utf-8", "replace").splitlines()
