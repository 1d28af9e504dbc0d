"""Large results survive a link that is cut again and again."""

from __future__ import annotations

import pytest

from tests.faults.erp import Erp
from tests.faults.large import FLAT_BYTES, large_result
from tests.faults.site import Lab

MIB = 1_048_576


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "order_no"), [("pg-large", "AC9100001001"), ("pg-large-once", "AC9100001002")])
def test_it_comes_whole_and_memory_stays_flat(running: Lab, systems: Erp, operation: str, order_no: str) -> None:
    found = large_result(running, operation, order_no, 50 * MIB, cuts=10)
    assert found.command["state"] == "succeeded", found.command
    assert found.sha256 == found.wanted_sha256
    assert found.cuts >= 5, "some of the ten may fall into a time without a link"
    assert {name: peak for name, peak in found.peaks.items() if peak > FLAT_BYTES} == {}
    if operation.endswith("once"):
        assert [effect.order_no for effect in systems.effects()].count(order_no) == 1
