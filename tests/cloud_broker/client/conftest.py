"""A running broker with two agents, and the ``outhaul`` command as a process."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloud_broker.client.cli import main
from tests.cloud_broker.client.broker import Broker
from tests.cloud_broker.client.scripted import End, Piece, RowSet

DECIMAL = {"anyOf": [{"type": "string", "pattern": r"^-?[0-9]+(?:\.[0-9]+)?$"}, {"type": "number"}]}
PIECE_ROWS = 1000
PROGRAM = str(Path(sys.executable).with_name("outhaul"))


def schema(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    """Return the schema of an object with these properties and no others."""
    return {"type": "object", "properties": properties, "required": required or [], "additionalProperties": False}


async def echo(params: dict[str, Any], cancel: asyncio.Event) -> AsyncIterator[Piece]:
    """Outputs are the parameters."""
    yield End(outputs=params)


async def invoices(params: dict[str, Any], cancel: asyncio.Event) -> AsyncIterator[Piece]:
    """Two rows with what an ERP may have in them."""
    yield RowSet((("no", "integer"), ("total", "decimal"), ("note", "string"), ("doc", "json")))
    yield b'{"no": 12345678901234567890, "total": "12.50", "note": "a,\\"b\\"\\u001b[31m\\nc", "doc": {"x": 1.10}}\n'
    yield b'{"no": 2, "total": null, "note": "' + "ü".encode() * 200 + b'", "doc": null}\n'


async def count_rows(params: dict[str, Any], cancel: asyncio.Event) -> AsyncIterator[Piece]:
    """``count`` rows, each longer by ``fill`` characters than it need be."""
    fill = b"." * params.get("fill", 0)
    yield RowSet((("n", "integer"), ("text", "string")))
    for start in range(0, params["count"], PIECE_ROWS):
        numbers = range(start, min(start + PIECE_ROWS, params["count"]))
        yield b"".join(b'{"n": %d, "text": "row number %d of many%s"}\n' % (n, n, fill) for n in numbers)


async def two_sets(params: dict[str, Any], cancel: asyncio.Event) -> AsyncIterator[Piece]:
    """Two row sets and an output."""
    yield RowSet((("a", "integer"),))
    yield b'{"a": 1}\n'
    yield RowSet((("b", "string"),))
    yield b'{"b": "x"}\n{"b": "y"}\n'
    yield End(outputs={"order_no": "4711", "total": "12.50"})


async def wide(params: dict[str, Any], cancel: asyncio.Event) -> AsyncIterator[Piece]:
    """One row of many columns."""
    yield RowSet(tuple((f"c{n}", "integer") for n in range(40)))
    yield b"{" + b", ".join(b'"c%d": %d' % (n, n) for n in range(40)) + b"}\n"


async def stuck(params: dict[str, Any], cancel: asyncio.Event) -> AsyncIterator[Piece]:
    """One row, and then nothing until it is cancelled."""
    yield RowSet((("n", "integer"),))
    yield b'{"n": 1}\n'
    await cancel.wait()
    yield End("cancelled", code="cancelled", message="cancelled as asked")


async def ends(params: dict[str, Any], cancel: asyncio.Event) -> AsyncIterator[Piece]:
    """Ends as asked."""
    code = {"rejected": "source_rejected", "in_doubt": "outcome_unknown"}.get(params["as"], "source_failed")
    yield End(params["as"], code=code, message="customer C042 is blocked", source_code="P0001")


async def breaks_off(params: dict[str, Any], cancel: asyncio.Event) -> AsyncIterator[Piece]:
    """Some rows, then a failure."""
    yield RowSet((("n", "integer"),))
    yield b'{"n": 1}\n'
    yield End("failed", code="source_unavailable", message="the database went away")


BEHAVIOURS = {
    "echo": echo,
    "open-invoices": invoices,
    "rows": count_rows,
    "two-sets": two_sets,
    "wide": wide,
    "stuck": stuck,
    "ends": ends,
    "breaks-off": breaks_off,
}
OPERATIONS: list[dict[str, Any]] = [
    {"name": "echo", "params": {"type": "object"}},
    {
        "name": "open-invoices",
        "description": "Unpaid invoices of a customer.",
        "params": schema(
            ["customer"],
            customer={"type": "string", "maxLength": 20, "description": "Its number."},
            since={"type": "string", "format": "date", "default": "2000-01-01"},
            total=DECIMAL,
        ),
    },
    {"name": "rows", "params": schema(["count"], count={"type": "integer", "minimum": 0}, fill={"type": "integer"})},
    {"name": "two-sets", "params": schema()},
    {"name": "wide", "params": schema()},
    {"name": "stuck", "params": schema()},
    {"name": "ends", "params": schema(["as"], **{"as": {"type": "string"}})},
    {"name": "breaks-off", "params": schema()},
]


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker with the agent ``plant-1`` of the group ``plants`` at work, and ``plant-2`` away."""
    with Broker(tmp_path_factory.mktemp("broker")).running() as running:
        for name, group in (("plant-1", "plants"), ("plant-2", None)):
            running.enrol(name, group)
        running.link("plant-1", OPERATIONS, BEHAVIOURS)
        running.know("plant-2", OPERATIONS)
        yield running


@dataclass
class Outhaul:
    """The command, with an environment of its own."""

    environ: dict[str, str]

    def __call__(self, *words: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            [PROGRAM, *words],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
            env=self.environ | environ,
        )

    @contextlib.contextmanager
    def start(self, *words: str, program: Sequence[str] = (PROGRAM,)) -> Iterator[subprocess.Popen[bytes]]:
        """Start it, or another program with its words; a test that fails does not wait for its end."""
        with subprocess.Popen(
            [*program, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environ,
        ) as process:
            try:
                yield process
            except BaseException:  # a test that failed or was stopped: the program would be waited for for ever
                process.kill()
                raise


@pytest.fixture
def outhaul(broker: Broker, tmp_path: Path) -> Outhaul:
    """The command, with the broker's address and key in its environment."""
    unwanted = {"NO_COLOR", "FORCE_COLOR", "PYTHONUNBUFFERED", "COLUMNS"}
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("OUTHAUL_") and name not in unwanted
    }
    return Outhaul(
        kept
        | {
            "XDG_CONFIG_HOME": str(tmp_path),
            "APPDATA": str(tmp_path),
            "OUTHAUL_URL": broker.url,
            "OUTHAUL_KEY": broker.key,
        }
    )


Here = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(outhaul: Outhaul, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Here:
    """The command within the test's own process, because that takes a tenth of the time."""
    for name, value in outhaul.environ.items():
        monkeypatch.setenv(name, value)

    def run(*words: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8"))
        with pytest.MonkeyPatch.context() as patched:
            for name, value in environ.items():
                patched.setenv(name, value)
            code = main(words)
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(words, code, out, err)

    return run
