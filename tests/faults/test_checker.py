"""The checker catches what it is there for: each fault here is planted in histories that are right without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.checker import check
from tests.faults.erp import Effect
from tests.faults.histories import Histories, Told, Wish


def wish(number: int, **more: Any) -> Wish:
    made = Wish(
        key=f"key-{number}",
        tenant="acme",
        operation="pg-once",
        order_no=f"AC{number}",
        effect="once",
        system="postgres",
        params={},
        settled=True,
    )
    return replace(made, **more)


def told(made: Wish, state: str = "succeeded", **more: object) -> Told:
    command_id = f"cmd-{made.key}"
    return Told(made, [command_id], final={"id": command_id, "state": state, "error": None, **more})


def right() -> Histories:
    """What a run without any fault looks like."""
    callers = [
        told(wish(1, ordering_key="k", place=0), outputs={"document": "DOC-1"}),
        told(wish(2, ordering_key="k", place=1), outputs={"document": "DOC-2"}),
        told(wish(3, operation="pg-read", effect="read", system=None, lines=4)),
        told(wish(4, mode="reject"), "rejected"),
        told(wish(5, operation="pg-stock", effect="idempotent")),
        told(wish(6, operation="pg-maybe", effect="at-most-once", settled=False), "in_doubt"),
        told(wish(7, tenant="globex", operation="echo", effect="read", system=None)),
    ]
    callers[2].rows = [{"n": number} for number in (1, 2, 3, 4)]
    assert callers[5].final is not None
    callers[5].final["error"] = {"kind": "unknown", "code": "agent_lost", "message": "it may have happened"}
    broker = {
        tenant: [
            {"id": one.ids[0], "state": one.state, "idempotency_key": one.wish.key}
            for one in callers
            if one.wish.tenant == tenant
        ]
        for tenant in ("acme", "globex")
    }
    effects = [Effect("postgres", "AC1", 1, "DOC-1"), Effect("postgres", "AC2", 2, "DOC-2")]
    return Histories(callers, broker, {"cmd-key-1": "succeeded"}, effects, {"AC5"})


def final(seen: Histories, number: int) -> dict[str, object]:
    found = seen.callers[number - 1].final
    assert found is not None
    return found


def an_effect_twice(seen: Histories) -> None:
    seen.effects.append(Effect("postgres", "AC1", 3, "DOC-3"))


def an_effect_lost_because_it_was_told_before_it_was_synced(seen: Histories) -> None:
    del seen.effects[0]


def a_row_dropped(seen: Histories) -> None:
    assert seen.callers[2].rows is not None
    del seen.callers[2].rows[1]


def a_row_twice(seen: Histories) -> None:
    assert seen.callers[2].rows is not None
    seen.callers[2].rows[1] = {"n": 1}


def rows_swapped(seen: Histories) -> None:
    assert seen.callers[2].rows is not None
    seen.callers[2].rows.reverse()


def rows_gone(seen: Histories) -> None:
    seen.callers[2].rows = None


def order_swapped(seen: Histories) -> None:
    seen.effects = [Effect("postgres", "AC2", 1, "DOC-2"), Effect("postgres", "AC1", 2, "DOC-1")]


def an_accepted_command_gone(seen: Histories) -> None:
    del seen.broker["acme"][0]


def an_accepted_command_without_end(seen: Histories) -> None:
    final(seen, 4)["state"] = "not final: running"


def an_end_that_changed(seen: Histories) -> None:
    seen.broker["acme"][3]["state"] = "failed"


def a_command_for_the_wrong_tenant(seen: Histories) -> None:
    seen.broker["globex"].append(seen.broker["acme"][0])


def a_command_that_another_tenant_can_see(seen: Histories) -> None:
    seen.callers[0].leaked = "globex got 200"


def an_order_in_the_wrong_system(seen: Histories) -> None:
    seen.foreign.append("GL1")


def two_commands_of_one_key(seen: Histories) -> None:
    seen.callers[0].ids.append("cmd-other")
    seen.broker["acme"].append({"id": "cmd-other", "state": "succeeded", "idempotency_key": "key-1"})


def two_commands_of_one_key_of_which_the_caller_knows_one(seen: Histories) -> None:
    seen.broker["acme"].append({"id": "cmd-other", "state": "succeeded", "idempotency_key": "key-1"})


def a_rejected_one_with_the_effect(seen: Histories) -> None:
    seen.effects.append(Effect("postgres", "AC4", 3, "DOC-3"))


def a_failed_one_with_the_effect(seen: Histories) -> None:
    final(seen, 1)["state"] = seen.broker["acme"][0]["state"] = "failed"
    seen.journal.clear()


def a_command_cancelled_by_nobody(seen: Histories) -> None:
    final(seen, 4)["state"] = seen.broker["acme"][3]["state"] = "cancelled"


def a_success_without_the_idempotent_effect(seen: Histories) -> None:
    seen.stock.clear()


def a_doubt_that_nobody_explains(seen: Histories) -> None:
    final(seen, 6)["error"] = None


def a_doubt_where_a_ledger_could_tell(seen: Histories) -> None:
    seen.callers[5].wish = replace(seen.callers[5].wish, settled=True)


def another_ones_document(seen: Histories) -> None:
    final(seen, 1)["outputs"] = {"document": "DOC-2"}


def a_caller_sent_away(seen: Histories) -> None:
    seen.callers.append(Told(wish(8), refused="503"))


def a_journal_that_says_else(seen: Histories) -> None:
    seen.journal["cmd-key-1"] = "failed"


PLANTED: list[tuple[Callable[[Histories], None], str]] = [
    (an_effect_twice, "more effects than allowed"),
    (an_effect_lost_because_it_was_told_before_it_was_synced, "succeeded without the effect"),
    (a_row_dropped, "rows missing"),
    (a_row_twice, "rows doubled"),
    (rows_swapped, "rows out of order"),
    (rows_gone, "rows missing"),
    (order_swapped, "order broken"),
    (an_accepted_command_gone, "accepted and gone"),
    (an_accepted_command_without_end, "no final state"),
    (an_end_that_changed, "a final state that changed"),
    (a_command_for_the_wrong_tenant, "seen by the wrong tenant"),
    (a_command_that_another_tenant_can_see, "seen by the wrong tenant"),
    (an_order_in_the_wrong_system, "seen by the wrong tenant"),
    (two_commands_of_one_key, "one key, several commands"),
    (two_commands_of_one_key_of_which_the_caller_knows_one, "one key, several commands"),
    (a_rejected_one_with_the_effect, "rejected with the effect"),
    (a_failed_one_with_the_effect, "failed with the effect"),
    (a_command_cancelled_by_nobody, "cancelled by nobody"),
    (a_success_without_the_idempotent_effect, "succeeded without the effect"),
    (a_doubt_that_nobody_explains, "doubt without a reason"),
    (a_doubt_where_a_ledger_could_tell, "doubt that could be settled"),
    (another_ones_document, "another order's answer"),
    (a_caller_sent_away, "refused"),
    (a_journal_that_says_else, "the agent's journal says else"),
]


def test_a_run_without_faults_breaks_nothing() -> None:
    assert check(right()) == []


@pytest.mark.parametrize(("plant", "found"), PLANTED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_is_caught(plant: Callable[[Histories], None], found: str) -> None:
    seen = right()
    plant(seen)
    assert found in {violation.what for violation in check(seen)}
