"""Turns between tenants, counted and not timed."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_broker.callers.fairness import FEW, WINDOW_S, Gate, Turns, Usage


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


def test_nobody_is_greedy_alone() -> None:
    usage = Usage()
    usage.note("a", 10.0, 100_000)
    assert not usage.greedy("a")


def test_who_asks_many_times_as_much_as_the_others_is_greedy() -> None:
    usage = Usage()
    for tenant, count in (("a", 1_000), ("b", 10), ("c", 40)):
        usage.note(tenant, 10.0, count)
    assert [usage.greedy(tenant) for tenant in "abcd"] == [True, False, False, False]


def test_two_that_ask_alike_are_not_greedy_however_much_it_is() -> None:
    usage = Usage()
    usage.note("a", 10.0, 50_000)
    usage.note("b", 10.0, 10_000)
    assert not usage.greedy("a")


def test_few_requests_are_no_flood_whatever_others_ask() -> None:
    usage = Usage()
    usage.note("a", 10.0, FEW)
    usage.note("b", 10.0)
    assert not usage.greedy("a")
    usage.note("a", 10.0)
    assert usage.greedy("a")


def test_what_was_asked_long_ago_is_forgotten() -> None:
    usage = Usage()
    usage.note("a", 10.0, 1_000)
    usage.note("b", 10.0)
    usage.note("b", 10.1 + WINDOW_S)
    assert usage.greedy("a"), "the window before counts too"
    usage.note("b", 10.2 + 2 * WINDOW_S)
    assert not usage.greedy("a")
    usage.note("b", 100.0)
    assert usage._total == 1  # nothing is left of what nobody asks about any more


def test_a_greedy_tenant_goes_in_as_a_group_and_rests_when_all_of_it_have_left() -> None:
    turns: Turns[str] = Turns(8, 6, lambda tenant: tenant == "a", group=3)
    assert [turns.ask("a", f"a{n}") for n in range(6)] == [True, False, False, False, False, False]
    assert turns.leave("a") == []
    assert turns.rests("a")
    assert turns.rested("a") == ["a1", "a2", "a3"]
    assert turns.leave("a") == []
    assert not turns.rests("a"), "two of it are inside"
    assert turns.leave("a") == turns.leave("a") == []
    assert turns.ask("b", "b0")
    assert turns.leave("b") == [], "it has not rested yet"
    assert turns.rested("a") == ["a4", "a5"]


def test_who_is_greedy_no_more_while_it_rests_goes_in_once_it_has_rested() -> None:
    greedy = {"a"}
    turns: Turns[str] = Turns(4, 3, greedy=greedy.__contains__)
    assert [turns.ask("a", f"a{n}") for n in range(3)] == [True, False, False]
    assert turns.leave("a") == []
    greedy.clear()
    assert not turns.ask("a", "a3")
    assert turns.rested("a") == ["a1", "a2", "a3"]
    assert turns.leave("a") == []
    assert not turns.rests("a")


async def test_a_flood_at_a_gate_leaves_most_of_the_time_to_others() -> None:
    usage = Usage()
    gate = Gate(4, 3, usage)
    loop = asyncio.get_running_loop()
    usage.note("flood", loop.time(), 10_000)
    usage.note("quiet", loop.time())
    busy_s, began = 0.0, loop.time()
    last = began

    async def one() -> None:
        nonlocal busy_s, last
        async with gate.place("flood"):
            entered = loop.time()
            while loop.time() - entered < 0.005:  # noqa: ASYNC110 - it is to be busy, and waits for nothing
                await asyncio.sleep(0)  # the others have their turn meanwhile
            # Those of a group are busy at the same time.
            busy_s += loop.time() - max(entered, last)
            last = loop.time()

    await asyncio.gather(*(one() for _ in range(20)))
    assert busy_s <= 0.4 * (loop.time() - began)
    async with asyncio.timeout(1):
        async with gate.place("quiet"):
            pass
