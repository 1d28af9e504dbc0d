"""Fixtures of the file, soap and odbc connectors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.connectors.base import Call, Driver, DriverSetup, Outputs, Piece, Rows
from agent.connectors.file.driver import FileDriver
from agent.connectors.soap.driver import SoapDriver
from agent.settings import CallOperation, FileConnection, Operation, OperationBase, SoapConnection
from agent.settings_reader import read
from config.dev.finance import FinanceService, finance_service
from tests.agent.connectors.ledger_cases import Erp, erp_in

COMMAND = "cmd_01jd2v6x7m8n9p0q1r2s3t4v5w"

MakeFileDriver = Callable[..., FileDriver]


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def erp(request: pytest.FixtureRequest, tmp_path: Path) -> Erp:
    """Each database in turn, with an empty ledger and no orders."""
    return erp_in(request.param, request, tmp_path)


@pytest.fixture
def file_driver(tmp_path: Path) -> MakeFileDriver:
    """Make an opened driver for ``operation`` (named ``op``) on ``tmp_path / "root"``, or another ``root``."""

    def make(operation: Operation | OperationBase, root: Path | None = None) -> FileDriver:
        folder = root or tmp_path / "root"
        folder.mkdir(exist_ok=True)
        connection = FileConnection(type="file", root=str(folder))
        driver = FileDriver(DriverSetup("edi", connection, {"op": operation}, base_dir=str(tmp_path)))  # type: ignore[dict-item] # one of the kinds
        driver.open()
        return driver

    return make


def call(params: dict[str, Any] | None = None, *, command_id: str = COMMAND, timeout_s: float = 20.0) -> Call:
    """Return a call of ``op``."""
    return Call(command_id, "op", json.dumps(params or {}).encode(), timeout_s)


def run(driver: Driver, params: dict[str, Any] | None = None, **more: Any) -> list[Piece]:
    """Run ``op`` to its end."""
    return list(driver.run(call(params, **more)))


def outputs(driver: Driver, params: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Run ``op`` and return its outputs."""
    last = run(driver, params, **more)[-1]
    assert isinstance(last, Outputs)
    return last.values


def rows(pieces: list[Piece]) -> list[dict[str, Any]]:
    """Return the rows of a result as objects."""
    lines = b"".join(piece.data for piece in pieces if isinstance(piece, Rows)).splitlines()
    assert len(lines) == sum(piece.count for piece in pieces if isinstance(piece, Rows))
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def finance() -> Iterator[FinanceService]:
    """The finance service, open to all."""
    with finance_service() as service:
        yield service


MakeSoapDriver = Callable[..., SoapDriver]


@pytest.fixture
def soap_driver(finance: FinanceService, tmp_path: Path) -> Iterator[MakeSoapDriver]:
    """Make an opened driver whose operation ``op`` calls ``name``; on the finance service, or as the keywords say."""
    made: list[SoapDriver] = []

    def make(name: str, operation: dict[str, Any] | None = None, **connection: Any) -> SoapDriver:
        settings = {"type": "soap", "wsdl": str(finance.wsdl), "endpoint": finance.url, **connection}
        op = CallOperation(**{"connection": "finance", "call": name, **(operation or {})})
        setup = DriverSetup("finance", read(settings, SoapConnection), {"op": op}, base_dir=str(tmp_path))
        driver = SoapDriver(setup)
        driver.open()
        made.append(driver)
        return driver

    yield make
    for driver in made:
        driver.close()
