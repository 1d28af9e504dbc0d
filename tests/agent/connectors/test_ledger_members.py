"""Agents that share a ledger: which word of another one's run is to be believed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent import errors
from agent.connectors.base import Outputs
from agent.connectors.odbc.driver import OdbcDriver
from tests.agent.connectors.ledger_cases import LEDGER, Erp, call

LOST = "the word of the agent that was lost"
OTHER = "the word of another one"


def opened(erp: Erp) -> OdbcDriver:
    driver = OdbcDriver(erp.setup())
    driver.open()
    return driver


def test_another_agent_finds_what_one_did_in_the_same_ledger(erp: Erp) -> None:
    lost, there = opened(erp), opened(erp)
    try:
        list(lost.run(replace(call(command="cmd_1", n=1), place=LOST)))
        assert isinstance(there.find(replace(call(command="cmd_1", n=1), place=LOST)), Outputs)
        assert there.find(replace(call(command="cmd_2", n=2), place=LOST)) is None
        with pytest.raises(errors.NotHappened):
            list(lost.run(replace(call(command="cmd_2", n=2), place=LOST)))
    finally:
        lost.close()
        there.close()
    assert erp.orders() == [1]


def test_in_a_ledger_that_the_other_never_worked_with_nothing_is_told_and_nothing_left(erp: Erp) -> None:
    lost, there = opened(erp), opened(erp)
    try:
        list(there.run(replace(call(command="cmd_1", n=1), place=OTHER)))
        with pytest.raises(errors.OutcomeUnknown, match=LEDGER):
            there.find(replace(call(command="cmd_2", n=2), place=LOST))
        list(lost.run(replace(call(command="cmd_2", n=2), place=LOST)))
    finally:
        lost.close()
        there.close()
    assert erp.orders() == [1, 2]


def test_an_agent_leaves_its_word_before_its_first_run_though_that_fails(erp: Erp) -> None:
    lost = opened(erp)
    erp.script("DROP TABLE test_orders")
    try:
        with pytest.raises(errors.CommandError):
            list(lost.run(replace(call(command="cmd_1", n=1), place=LOST)))
        assert [key.partition("-")[0] for key in erp.ledger()] == ["agent"]
    finally:
        lost.close()


def test_the_word_in_a_copy_of_the_database_is_not_the_one(erp: Erp, monkeypatch: pytest.MonkeyPatch) -> None:
    lost, there = opened(erp), opened(erp)
    try:
        list(lost.run(replace(call(command="cmd_1", n=1), place=LOST)))
        # A copy has the row, and another answer to what server this is.
        once = there._ledger_runs()
        server = once._ledger._texts.server
        elsewhere = "SELECT 'elsewhere'"
        if not server:
            monkeypatch.setattr("agent.connectors.odbc.ledger.platform.node", lambda: "elsewhere")
        else:
            monkeypatch.setattr(once._ledger, "_texts", replace(once._ledger._texts, server=elsewhere))
        with pytest.raises(errors.OutcomeUnknown):
            there.find(replace(call(command="cmd_1", n=1), place=LOST))
    finally:
        lost.close()
        there.close()
