"""``effect = "once"`` over ODBC: the ledger in real databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent import errors
from agent.connectors.base import Call, Outputs, Piece, Ready
from agent.connectors.odbc.driver import OdbcDriver
from tests.agent.connectors.ledger_cases import Erp, call, erp_of


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def erp(request: pytest.FixtureRequest, tmp_path: Path) -> Erp:
    """Each database in turn, with an empty ledger and no orders."""
    names = {"postgresql": "postgres", "mariadb": "mariadb"}
    server = request.getfixturevalue(names[request.param]) if request.param in names else tmp_path
    return erp_of(request.param, server)


@pytest.fixture
def driver(erp: Erp) -> Iterator[OdbcDriver]:
    opened = OdbcDriver(erp.setup())
    opened.open()
    yield opened
    opened.close()


@pytest.fixture
def other(erp: Erp) -> Iterator[OdbcDriver]:
    """A second session."""
    opened = OdbcDriver(erp.setup())
    opened.open()
    yield opened
    opened.close()


def outputs(driver: OdbcDriver, wanted: Call) -> dict[str, object]:
    pieces: list[Piece] = list(driver.run(wanted))
    last = pieces[-1]
    assert isinstance(last, Outputs)
    told: dict[str, object] = msgspec.json.decode(msgspec.json.encode(last.values))
    return told


def test_a_repeat_is_given_the_first_outcome(erp: Erp, driver: OdbcDriver, other: OdbcDriver) -> None:
    wanted = {} if erp.dialect == "sqlite" else {"order_no": "PÖ-1"}
    assert [outputs(driver, call()), outputs(driver, call()), outputs(other, call(epoch=2))] == [wanted] * 3
    assert erp.orders() == [1]
    assert erp.ledger() == {"cmd_1": "done"}
