"""
Whether this program is whole: every part that is loaded by name, or late, is there and works.

The installer asks it of the program that it froze, where a part that nobody imports by name would be missing; it needs
no file, no network and no other system.
"""

from __future__ import annotations

import asyncio
import codecs
import importlib
import importlib.util
import pkgutil
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from encodings import aliases
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Final

import msgspec

import agent
import protocol
from agent import app, config_file
from agent.config_file import Loaded
from agent.connectors import CONNECTORS
from agent.connectors.base import Call, Finding, Outputs, Piece, Rows
from agent.connectors.worker import load
from agent.errors import SecretError, SourceUnavailable
from agent.journal.base import Claim
from agent.journal.file import FileJournal
from agent.secrets import open_store
from agent.secrets.keyring_store import system_keyring

# What our own modules import of libraries inside functions; a test compares.
LATE: Final = {
    "cryptography",
    "cryptography.exceptions",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.asymmetric.x25519",
    "cryptography.hazmat.primitives.ciphers.aead",
    "cryptography.hazmat.primitives.hpke",
    "cryptography.hazmat.primitives.serialization",
    "python_socks",
    "python_socks.async_.asyncio",
    "spnego",
    "spnego.exceptions",
}
# The same, each for one system only.
OF_A_SYSTEM: Final = {
    "keyring.backends.SecretService": "linux",
    "keyring.backends.Windows": "win32",
    "keyring.backends.macOS": "darwin",
}
# How names of our own begin that live on one system only.
_OURS_OF_A_SYSTEM: Final = {  # and those whose names begin so
    "agent.service.windows": "win32",
    "agent.service.linux": "linux",
    "agent.service.unix": "linux",
    "agent.upgrade.processes": "linux",
}
_OF_ARROW: Final = "agent.connectors.odbc.arrow"  # how names of our own begin that want the extra `arrow`
_NO_CODECS: Final = {"mbcs", "oem"} if sys.platform != "win32" else set[str]()
_TIMEOUT_S: Final = 60.0
_FILE: Final = """
agent = "selfcheck"
state_dir = "state"

[connections.probe]
type = "synthetic"
[operations.echo]
connection = "probe"
synthetic = "echo"
params.text = { type = "string" }

[connections.folder]
type = "file"
root = "drop"
[operations.pick]
connection = "folder"
pick = "*.csv"
format = { type = "csv" }
encoding = "cp037"
"""


def everything() -> list[Finding]:
    """Try every part; none is left out because another failed."""
    with tempfile.TemporaryDirectory(prefix="outhaul-selfcheck-") as folder:
        file = Path(folder) / "agent.toml"
        file.write_text(_FILE, "utf-8")
        steps: dict[str, Callable[[], str]] = {
            "modules": _modules,
            "late imports": _late,
            **{f"connector {name}": partial(_connector, driver) for name, driver in CONNECTORS.items()},
            "system's keyring": _keyring,
            "TLS": _tls,
            "time": _time,
            "encodings": _encodings,
        }
        found = [_tried(subject, step) for subject, step in steps.items()]
        found.append(_tried("operator's file", lambda: _read(file)))
        if found[-1].ok:
            loaded = config_file.load(file)
            found += [
                _tried("secrets in the vault", lambda: _vault(loaded)),
                _tried("journal", lambda: asyncio.run(_journal(app.state_dir(loaded)))),
                _tried("synthetic connector", lambda: asyncio.run(_echo(loaded))),
                _tried("driver process", lambda: asyncio.run(_pick(loaded))),
            ]
        return found


def _tried(subject: str, step: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, True, step())
    except Exception as exc:  # whatever it is, this part of the program can't be relied on
        return Finding(
            subject, False, f"{type(exc).__name__}: {exc}", "install the program again; if it stays, report it"
        )


def _modules() -> str:
    """Import all modules of our own that belong on this system."""
    names = [*_within(protocol), *_within(agent)]
    if importlib.util.find_spec("pyarrow") is None:
        names = [name for name in names if not name.startswith(_OF_ARROW)]
    for name in names:
        importlib.import_module(name)
    return f"{len(names)} of our own"


def _within(package: ModuleType) -> list[str]:
    return [
        found.name
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not any(found.name.startswith(s) and sys.platform != o for s, o in _OURS_OF_A_SYSTEM.items())
    ]


def _late() -> str:
    names = [*LATE, *(name for name, system in OF_A_SYSTEM.items() if system == sys.platform)]
    for name in names:
        importlib.import_module(name)
    return f"{len(names)} modules"


def _connector(driver: str) -> str:
    try:
        load(driver)
    except SourceUnavailable as exc:
        cause = exc.__cause__
        # It is the system's: a site without databases has none, and needs none.
        if isinstance(cause, ImportError) and "libodbc" in str(cause):
            return "packed; this system has no unixODBC yet: install unixodbc where databases are to be reached"
        raise
    return driver


def _keyring() -> str:
    try:
        system_keyring()
    except SecretError as exc:
        if isinstance(exc.__cause__, ImportError):
            raise
        return f"packed; {exc}"
    return "answers"


def _tls() -> str:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return f"{ssl.OPENSSL_VERSION}, {len(context.get_ciphers())} ciphers"


def _time() -> str:
    return f"local time is {datetime.now().astimezone().isoformat(timespec='seconds')}"


def _encodings() -> str:
    names = sorted(set(aliases.aliases.values()) - _NO_CODECS)
    for name in names:
        codecs.lookup(name)
    return f"{len(names)} codecs"


def _read(file: Path) -> str:
    return f"{len(config_file.load(file).settings.operations)} operations"


def _vault(loaded: Loaded) -> str:
    store = open_store(loaded.settings, loaded.base_dir)
    store.set("probe", "word")
    if store.get("probe") != "word":
        raise ValueError("what was kept came back as something else")
    return "keeps and gives back"


async def _journal(folder: Path) -> str:
    journal = await FileJournal.open(folder)
    try:
        claim = Claim("cmd_selfcheck", 1, "", "echo", "once", b"{}", "", time.time())
        await journal.begin(claim)
        entry = journal.find(claim.id)
        if entry is None or entry.state != "started":
            raise ValueError(f"what was written came back as {entry}")
    finally:
        await journal.close()
    return "written, durably"


async def _echo(loaded: Loaded) -> str:
    params = b'{"text":"word"}'
    pieces = [piece async for piece in _run(loaded, "probe", "echo", params)]
    if [msgspec.json.encode(piece.values) for piece in pieces if isinstance(piece, Outputs)] != [params]:
        raise ValueError(f"an echo came back as {pieces}")
    return "echoes"


async def _pick(loaded: Loaded) -> str:
    """Read a file through a driver's process, in a code page of IBM's."""
    folder = loaded.base_dir / "drop"
    folder.mkdir()
    (folder / "orders.csv").write_bytes("order,sum\n1,2.50\n".encode("cp037"))
    data = [piece.data async for piece in _run(loaded, "folder", "pick", b"{}") if isinstance(piece, Rows)]
    if b'"1"' not in b"".join(data):
        raise ValueError(f"rows came back as {data}")
    return "starts, reads a file"


async def _run(loaded: Loaded, connection: str, operation: str, params: bytes) -> AsyncGenerator[Piece, None]:
    connector = app.connectors(loaded, None)[connection]
    try:
        async for piece in connector.run(Call("cmd_selfcheck", operation, params, _TIMEOUT_S)):
            yield piece
    finally:
        await connector.close()
