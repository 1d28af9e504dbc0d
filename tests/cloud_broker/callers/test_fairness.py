"""Turns between tenants, counted and not timed."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_broker.callers.fairness import Gate, Turns


def served(turns: Turns[str], asked: list[tuple[str, str]], most: int = 1_000_000) -> list[str]:
    """Let all ask, then let those inside leave one by one; return the tickets in the order in which they went in."""
    inside = [(tenant, ticket) for tenant, ticket in asked if turns.ask(tenant, ticket)]
    owner = {ticket: tenant for tenant, ticket in asked}
    order = [ticket for _, ticket in inside]
    while inside and len(order) < most:
        tenant, _ = inside.pop(0)
        for ticket in turns.leave(tenant):
            inside.append((owner[ticket], ticket))
            order.append(ticket)
    return order


def test_one_request_beside_a_thousand_waits_for_one_turn() -> None:
    flood = [("a", f"a{n}") for n in range(1_000)]

    order = served(Turns(1, 1), [*flood, ("b", "b")])

    assert order[:3] == ["a0", "a1", "b"]
    assert len(order) == 1_001


def test_who_has_nothing_inside_finds_a_place_free() -> None:
    turns: Turns[str] = Turns(4, 3)
    assert [turns.ask("a", f"a{n}") for n in range(10)] == [True] * 3 + [False] * 7
    assert turns.ask("b", "b0")
    assert not turns.ask("c", "c0")
    assert turns.leave("a") == ["a3"]
    assert turns.leave("a") == ["c0"]


def test_two_floods_and_many_small_ones_take_turns() -> None:
    asked = [(tenant, f"{tenant}{n}") for tenant in ("a", "b") for n in range(500)]
    asked += [(f"small-{n}", f"small-{n}/0") for n in range(20)]

    order = served(Turns(8, 6), asked)

    last_small = max(order.index(f"small-{n}/0") for n in range(20))
    assert last_small < 8 + 22 * 2
    halves = order[: len(order) // 2]
    assert abs(sum(t.startswith("a") for t in halves) - sum(t.startswith("b") for t in halves)) <= 8


def test_a_tenant_alone_is_never_kept_waiting_for_nobody() -> None:
    turns: Turns[str] = Turns(8, 6)
    assert len(served(turns, [("a", str(n)) for n in range(100)])) == 100
    assert repr(turns) == "<Turns 0 inside, 0 waiting>"


@given(st.lists(st.sampled_from(["ask a", "ask b", "ask c", "leave", "give up"]), max_size=200), st.integers(1, 5))
def test_there_are_never_more_inside_than_places_nor_a_place_empty_that_somebody_wants(
    steps: list[str], at_once: int
) -> None:
    each = max(1, at_once - 1)
    turns: Turns[int] = Turns(at_once, each)
    inside: list[str] = []
    waiting: dict[int, str] = {}
    rng = random.Random(len(steps))  # noqa: S311 - which one leaves is no secret
    for number, step in enumerate(steps):
        if step.startswith("ask"):
            tenant = step[-1]
            if turns.ask(tenant, number):
                inside.append(tenant)
            else:
                waiting[number] = tenant
        elif step == "leave" and inside:
            for ticket in turns.leave(inside.pop(rng.randrange(len(inside)))):
                inside.append(waiting.pop(ticket))
        elif step == "give up" and waiting:
            ticket = rng.choice(sorted(waiting))
            assert turns.give_up(waiting.pop(ticket), ticket)
        assert len(inside) <= at_once
        assert all(inside.count(tenant) <= each for tenant in "abc")
        if len(inside) < at_once:
            assert all(inside.count(tenant) == each for tenant in set(waiting.values()))


async def test_who_gives_up_while_waiting_leaves_no_place_behind() -> None:
    gate = Gate(1, 1)
    await gate.enter("a")
    waiting = [asyncio.create_task(gate.enter("b")) for _ in range(3)]
    await asyncio.sleep(0)  # lets them wait
    waiting[0].cancel()
    gate.leave("a")
    waiting[1].cancel()  # it may have been called in just now
    await asyncio.gather(*waiting, return_exceptions=True)

    assert not waiting[2].cancelled()
    gate.leave("b")
    assert "0 inside, 0 waiting" in repr(gate)


async def test_a_place_is_given_back_whatever_happens() -> None:
    gate = Gate(1, 1)
    for _ in range(3):
        with pytest.raises(KeyError):
            async with gate.place("a"):
                raise KeyError
    assert "0 inside, 0 waiting" in repr(gate)
