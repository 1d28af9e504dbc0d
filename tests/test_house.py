"""The house stands: who imports whom, read from the code itself, and which rooms there are."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
PROGRAMS: Final = ("protocol", "agent", "cloud_broker")
HOUSE: Final = (*PROGRAMS, "installer", "config", "tests", "bench")

# Modules that import inside functions, and why; nothing else does.
DEFERRED: Final = {
    "agent": "only the program leaves behind what msgspec would load, and tells which library is missing",
    "agent.cli": "`run` must start fast and stay small, and `version` must work where a library is broken",
    "agent.cli_config": "`--help` starts without what only these need",
    "agent.cli_enroll": "`--help` starts without what only an enrolment needs",
    "agent.cli_secret": "`--help` starts without what only these need",
    "agent.cli_check": "`--help` and `run` start without what only a check needs",
    "agent.cli_diagnostics": "`--help` and `run` start without what only these need",
    "agent.cli_control": "`--help` and `run` start without what only these commands need",
    "agent.cli_identity": "other commands start without what reads certificates",
    "agent.cli_journal": "other commands start without what reads the journal",
    "agent.cli_selfcheck": "it loads every part of the program, which no other command does",
    "agent.cli_service": "a table: the service manager of the system it runs on",
    "agent.cli_upgrade": "`--help` and `run` start without what only an upgrade needs",
    "agent.running": "what opens the keys is started before all else is loaded; other words are for the other commands",
    "agent.operator_file": "the whole file's reader takes longer to load than `--help` should take",
    "agent.config_file": "pydantic is needed only to say what is wrong with a file",
    "agent.patterns": "pydantic's engine is needed only by files with patterns",
    "agent.identity.held": "the process that opens the agent's keys starts without TLS",
    "agent.identity.keys": "cryptography is needed to open keys, not to show their public halves",
    "agent.blobs": "what tells free space loads libraries of archives, and most agents move no files",
    "agent.journal.copies": "what removes folders loads libraries of archives; a journal is copied once in a release",
    "agent.config_checks": "what finds near names is needed only to say what is wrong with a file",
    "agent.link.diagnosis": "mail's reader of dates is large, and few answers have a date",
    "agent.link.tunnel": "HTTP, mail and SOCKS are needed only behind a proxy",
    "agent.link.login": "NTLM's and Negotiate's library costs 17 MiB, and most proxies ask for neither",
    "agent.link.routes": "what only Windows has",
    "agent.service.readiness": "an agent that is enrolled seldom needs what enrols it",
    "agent.service.windows_events": "a service's first steps need little, as the manager does not wait for long",
    "agent.service.windows_host": "what an agent needs is loaded once the service manager knows that it runs",
    "agent.service.windows_setup": "only an installation with a token needs what reads one",
    "agent.link.websocket": "cryptography's X.509 is large, and needed only to read one's own certificate",
    "agent.identity.succession": "what removes folders loads libraries of archives, and identities seldom change",
    "agent.identity.own_identity": "cryptography's X.509 is large, and only for an operator's own certificates",
    "agent.identity.recovery": "cryptography's X.509 is large, and needed only when a certificate has run out",
    "agent.identity.renewal": "cryptography's X.509 is large, and needed once in a certificate's life",
    "agent.sealing": "cryptography's HPKE and AES are needed only where a caller seals",
    "agent.signatures": "cryptography is needed only where callers sign",
    "agent.upgrade.package_managers": "what only Windows has",
    "agent.upgrade.packaged": "what only Windows has",
    "agent.upgrade.watcher": "each system has its own manager of services; Windows waits in its own way",
    "agent.upgrade.signature": "cryptography is needed only to verify a package",
    "agent.logs": "who writes to standard error needs nothing of files that follow each other",
    "agent.secrets": "a table: loads the store that the file names, and no other",
    "agent.secrets.keyring_store": "a table: loads the back end of the system it runs on",
    "cloud_broker.app": "there is no uvloop on Windows",
    "cloud_broker.cli": "the web framework takes longer to load than any other command takes to run",
    "cloud_broker.client.call": "rich takes longer to load than a CSV stream takes to begin",
    "cloud_broker.client.cli": "httpx2 and rich take longer to load than `--help` should take",
    "cloud_broker.client.cli_bulk": "httpx2 loads longer than `--help` should take",
    "cloud_broker.client.cli_sealing": "what seals is large, and most calls seal nothing",
    "cloud_broker.client.cli_dead_letters": "what signs is large, and most replays sign nothing",
    "agent.connectors.odbc.driver": "pyarrow is there with an extra only, and takes 40 MiB",
    "cloud_broker.client.cli_signing": "the same, for calls",
    "cloud_broker.client.cli_shows": "the same, for reading",
    "cloud_broker.client.output": "rich takes longer to load than all else",
    "cloud_broker.client.connect": "httpx2 takes longer to load than a wrong word should take to be told",
    "cloud_broker.client.proofs": "cryptography is needed only by who verifies",
    "cloud_broker.client.signing": "cryptography is needed only by who signs",
    "cloud_broker.client.sealing": "cryptography is needed only by who seals",
    "cloud_broker.client.progress": "rich is needed on a terminal only",
}

# An implementation and who may name it: the file that joins a program, or a table; all others know `base.py` only.
IMPLEMENTATIONS: Final = {
    # Its reader of SQL says which parameters a statement has; its texts of the ledger are printed.
    "agent.connectors.odbc": {"agent.config_checks", "agent.cli_ledger", "agent.diagnostics", "agent.row_formats"},
    "agent.connectors.file": set[str](),
    "agent.connectors.soap": set[str](),
    "agent.connectors.synthetic": {"agent.app"},
    "agent.journal.file": {
        "agent.app",
        "agent.cli_journal",
        "agent.diagnostics",
        "agent.selfcheck",
        "agent.upgrade.watcher",
    },  # all but the first read the same folder
    # All but the first dial without the stages.
    "agent.link.websocket": {
        "agent.identity.renewal",
        "agent.identity.own_identity",
        "agent.check.network",
        "agent.identity.exchange",
    },
    "agent.link.memory": set[str](),
    "agent.secrets.vault": {"agent.secrets"},
    "cloud_broker.store.sqlite": {"cloud_broker.store.open"},
    "cloud_broker.link.websocket": {"cloud_broker.app"},
    "cloud_broker.api.app": {"cloud_broker.app"},
}

# A library and the rooms it stays in, so that another one can take its place.
LIBRARIES: Final = {
    "pyodbc": ("agent.connectors.odbc",),
    "pyarrow": ("agent.connectors.odbc",),
    "arrow_odbc": ("agent.connectors.odbc",),
    "zeep": ("agent.connectors.soap",),
    "lxml": ("agent.connectors",),
    "keyring": ("agent.secrets",),
    "python_socks": ("agent.link",),
    "spnego": ("agent.link.login",),
    "websockets": ("agent.link", "cloud_broker.link", "cloud_broker.app"),
    "fastapi": ("cloud_broker.api",),
    "starlette": ("cloud_broker.api",),
    "uvicorn": ("cloud_broker.app", "cloud_broker.api.server", "cloud_broker.api.express"),
    "httptools": ("cloud_broker.api.server",),
    "sqlite3": ("cloud_broker.store",),
    "httpx2": ("cloud_broker.client", "cloud_broker.callers.openid"),
    "joserfc": ("cloud_broker.callers.jwts",),
    "rich": ("cloud_broker.client",),
    "msgspec": ("protocol", "agent", "cloud_broker"),
}

NO_NOUN: Final = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}


@dataclass(frozen=True, slots=True)
class Import:
    """One import as it stands: ``typing_only`` under TYPE_CHECKING, ``deferred`` inside a function."""

    importer: str
    imported: str
    line: int
    typing_only: bool
    deferred: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


@cache
def modules() -> dict[str, Path]:
    """Every module of the house by name."""
    found = {}
    for package in HOUSE:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "node_modules" not in path.parts:
                parts = path.relative_to(ROOT).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> tuple[Import, ...]:
    """Every import of the house."""
    return tuple(found for name, path in modules().items() for found in _imports(name, path))


def _imports(name: str, path: Path) -> Iterator[Import]:
    def visit(node: ast.AST, typing_only: bool, deferred: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for imported in _names(name, path, node):
                yield Import(name, imported, node.lineno, typing_only, deferred)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for guarded in node.body:
                yield from visit(guarded, True, deferred)
            for other in node.orelse:
                yield from visit(other, typing_only, deferred)
            return
        inner = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, typing_only, inner)

    yield from visit(ast.parse(path.read_text("utf-8")), False, False)


def _names(name: str, path: Path, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The modules an import names: of ``from a import b``, a.b if that is a module, else a."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        parts = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        above = parts[: len(parts) - node.level + 1]
        base = ".".join([*above, *([base] if base else [])])
    for alias in node.names:
        yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules() else base


def within(name: str, *rooms: str) -> bool:
    """Whether a module is one of ``rooms`` or in it."""
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def program_imports() -> list[Import]:
    """Those of the three packages that are installed."""
    return [found for found in imports() if within(found.importer, *PROGRAMS)]


def test_the_rooms_are_there() -> None:
    assert {"protocol.session", "agent.app", "cloud_broker.app", "cloud_broker.client.cli"} <= modules().keys()
    assert len(imports()) > 500


def test_protocol_imports_the_standard_library_and_its_codec_only() -> None:
    wrong = [
        str(found)
        for found in imports()
        if within(found.importer, "protocol")
        and not within(found.imported, "protocol", "msgspec", *sys.stdlib_module_names)
    ]
    assert wrong == []


def test_protocol_imports_nothing_that_waits_opens_or_reads_a_clock() -> None:
    waits = ("asyncio", "time", "socket", "ssl", "threading", "subprocess", "os", "io", "pathlib", "queue", "select")
    assert [
        str(found) for found in imports() if within(found.importer, "protocol") and within(found.imported, *waits)
    ] == []


def test_agent_and_broker_never_import_each_other() -> None:
    wrong = [
        str(found)
        for found in imports()
        if (within(found.importer, "agent") and within(found.imported, "cloud_broker"))
        or (within(found.importer, "cloud_broker") and within(found.imported, "agent"))
    ]
    assert wrong == []


def test_what_is_installed_imports_nothing_of_what_is_not() -> None:
    rest = tuple(room for room in HOUSE if room not in PROGRAMS)
    assert [str(found) for found in program_imports() if within(found.imported, *rest)] == []


def test_the_callers_side_knows_the_broker_over_http_only() -> None:
    wrong = [
        str(found)
        for found in imports()
        if within(found.importer, "cloud_broker.client")
        and within(found.imported, "cloud_broker")
        and not within(found.imported, "cloud_broker.client")
    ]
    assert wrong == []


def test_there_are_no_circles() -> None:
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for found in imports():
        # A package's own name is left out: its __init__ gathers what lies in it.
        if not found.typing_only and not found.deferred and found.imported in graph:
            graph[found.importer].add(found.imported)
    assert _circle(graph) == []


def _circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle as a path, or nothing."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if circle := walk(other, [*path, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in graph if (circle := walk(name, []))), [])


def test_a_circle_would_be_found() -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_implementation_is_named_only_by_who_joins_the_program(implementation: str) -> None:
    assert within(implementation, *PROGRAMS)
    assert implementation in modules(), f"{implementation} is gone: take it out of the table"
    importers = {
        found.importer
        for found in program_imports()
        if within(found.imported, implementation) and not within(found.importer, implementation)
    }
    assert importers == IMPLEMENTATIONS[implementation]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_stays_in_its_room(library: str) -> None:
    used = [found for found in program_imports() if within(found.imported, library)]
    assert used, f"nothing uses {library}: take it out of the table"
    assert [str(found) for found in used if not within(found.importer, *LIBRARIES[library])] == []


def test_imports_inside_functions_have_a_reason() -> None:
    deferring = {found.importer for found in program_imports() if found.deferred}
    assert deferring == DEFERRED.keys()


def test_every_module_has_a_noun_of_its_own() -> None:
    assert [name for name in modules() if name.rpartition(".")[2] in NO_NOUN] == []


@pytest.mark.parametrize("module", ["agent.app", "agent.cli"])
def test_the_agents_own_process_loads_no_heavy_library(module: str) -> None:
    heavy = ("cryptography.x509", "keyring", "zeep", "rich", "pyodbc", "lxml", "requests", "spnego")
    code = f"import {module}, sys; print(*(name for name in {heavy!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
