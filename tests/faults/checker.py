"""
What must hold whatever died when, checked against what the ERP itself has.

Pure: four histories in, violations out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from tests.faults.histories import Histories, Told, Wish

NO_EFFECT = ("rejected", "failed", "expired", "cancelled")
FINAL = ("succeeded", "in_doubt", *NO_EFFECT)


@dataclass(frozen=True, slots=True)
class Violation:
    """
    A broken promise.

    Attributes:
        what: which one, in a word.
        wish: its key, or what it is about.
        detail: for people.
    """

    what: str
    wish: str
    detail: str

    def __str__(self) -> str:
        return f"{self.what}: {self.wish}: {self.detail}"


def check(seen: Histories) -> list[Violation]:
    """Return all broken promises."""
    counts = Counter(effect.order_no for effect in seen.effects)
    found = [
        violation
        for told in seen.callers
        for violation in (
            *_ending(told, seen.damaged),
            *_effects(told, counts),
            *_stock(told, seen.stock),
            *_rows(told),
        )
    ]
    return [*found, *_documents(seen), *_order(seen), *_keys(seen), *_tenants(seen), *_agreement(seen)]


def _ending(told: Told, damaged: bool) -> Iterator[Violation]:
    wish = told.wish
    if told.refused:
        yield Violation("refused", wish.key, f"{wish.operation}: {told.refused}")
    elif told.ids and told.state not in FINAL:
        yield Violation("no final state", wish.key, f"{wish.operation}: {told.final}")
    if told.state == "in_doubt":
        error = (told.final or {}).get("error") or {}
        if not (error.get("code") and error.get("message")):
            yield Violation("doubt without a reason", wish.key, f"{wish.operation}: {error}")
        # That its rows are lost, on a disk of the broker that fails, is no doubt about the effect.
        settled = wish.settled and not damaged and error.get("code") != "result_lost"
        if wish.effect in ("read", "idempotent") or settled:
            yield Violation("doubt that could be settled", wish.key, f"{wish.operation}: {error}")
    if told.state == "rejected" and wish.mode != "reject":
        yield Violation("rejected by nobody", wish.key, f"{wish.operation}: {told.final}")
    if told.state == "cancelled" and not wish.cancels:
        yield Violation("cancelled by nobody", wish.key, f"{wish.operation}: {told.final}")


def _effects(told: Told, counts: Counter[str]) -> Iterator[Violation]:
    wish, state, count = told.wish, told.state, counts[told.wish.order_no]
    if wish.effect in ("read", "idempotent"):
        return
    where = f"{wish.operation} {wish.order_no} is {state or 'without an end'} and {count} times in {wish.system}"
    if count > 1:
        yield Violation("more effects than allowed", wish.key, where)
    if wish.mode != "ok" and count:
        yield Violation("an effect of what was rolled back", wish.key, where)
    if state == "succeeded" and not count:
        yield Violation("succeeded without the effect", wish.key, where)
    if state == "succeeded" and wish.mode != "ok":
        yield Violation("succeeded against the ERP's word", wish.key, where)
    if state in NO_EFFECT and count:
        yield Violation(f"{state} with the effect", wish.key, where)


def _stock(told: Told, stock: set[str]) -> Iterator[Violation]:
    wish = told.wish
    if wish.effect == "idempotent" and told.state == "succeeded" and wish.order_no not in stock:
        yield Violation("succeeded without the effect", wish.key, f"{wish.operation} {wish.order_no}")


def _rows(told: Told) -> Iterator[Violation]:
    wish = told.wish
    if told.state != "succeeded" or not wish.lines:
        return
    if told.rows is None:
        yield Violation("rows missing", wish.key, f"{wish.operation}: none of {wish.lines}")
        return
    numbers = [row.get("n") for row in told.rows]
    wanted = list(range(1, wish.lines + 1))
    if numbers == wanted:
        return
    if len(set(numbers)) < len(numbers):
        yield Violation("rows doubled", wish.key, f"{wish.operation}: {len(numbers)} of {wish.lines}")
    elif set(numbers) == set(wanted):
        yield Violation("rows out of order", wish.key, f"{wish.operation}: {numbers[:10]}…")
    else:
        yield Violation("rows missing", wish.key, f"{wish.operation}: {len(numbers)} of {wish.lines}")


def _documents(seen: Histories) -> Iterator[Violation]:
    """What a caller was told of its order must be what the ERP has."""
    by_order = {effect.order_no: effect for effect in seen.effects}
    for told in seen.callers:
        outputs = (told.final or {}).get("outputs") or {}
        said = outputs.get("document") or outputs.get("documentNo")
        effect = by_order.get(told.wish.order_no)
        if told.state == "succeeded" and said is not None and effect is not None and str(said) != effect.document:
            yield Violation("another order's answer", told.wish.key, f"told {said}, the ERP has {effect.document}")


def _order(seen: Histories) -> Iterator[Violation]:
    """Effects of one ordering key stand in each system in the order of submission."""
    wishes = {told.wish.order_no: told.wish for told in seen.callers if told.wish.ordering_key}
    last: dict[tuple[str, str], Wish] = {}
    for effect in seen.effects:
        wish = wishes.get(effect.order_no)
        if wish is None or wish.ordering_key is None:
            continue
        before = last.get((effect.system, wish.ordering_key))
        if before is not None and before.place > wish.place:
            yield Violation(
                "order broken", wish.key, f"{before.order_no} ({before.place}) is before {wish.order_no} ({wish.place})"
            )
        last[(effect.system, wish.ordering_key)] = wish


def _keys(seen: Histories) -> Iterator[Violation]:
    """One key is one command, and one command has one key."""
    keys: dict[str, set[str]] = defaultdict(set)
    for told in seen.callers:
        keys[told.wish.key].update(told.ids)
    for commands in seen.broker.values():
        for command in commands:
            if command.get("idempotency_key") and not command.get("replay_of"):
                keys[command["idempotency_key"]].add(command["id"])
    for key, ids in keys.items():
        if len(ids) > 1:
            yield Violation("one key, several commands", key, ", ".join(sorted(ids)))
    owners = Counter(found for ids in keys.values() for found in ids)
    for command_id, count in owners.items():
        if count > 1:
            yield Violation("one command, several keys", command_id, f"{count} keys")


def _tenants(seen: Histories) -> Iterator[Violation]:
    for told in seen.callers:
        if told.leaked:
            yield Violation("seen by the wrong tenant", told.wish.key, told.leaked)
    for found in seen.foreign:
        yield Violation("seen by the wrong tenant", found, "it is in the system of another tenant")
    owner = {command_id: told.wish.tenant for told in seen.callers for command_id in told.ids}
    for tenant, commands in seen.broker.items():
        for command in commands:
            if owner.get(command["id"], tenant) != tenant:
                yield Violation("seen by the wrong tenant", command["id"], f"listed for {tenant}")


def _agreement(seen: Histories) -> Iterator[Violation]:
    """Nothing that was accepted is gone; broker, caller and agent do not contradict each other."""
    if seen.broker:
        listed = {command["id"]: command for commands in seen.broker.values() for command in commands}
        for told in seen.callers:
            for command_id in told.ids:
                if command_id not in listed:
                    yield Violation("accepted and gone", told.wish.key, command_id)
                elif told.state in FINAL and listed[command_id]["state"] != told.state:
                    yield Violation(
                        "a final state that changed", told.wish.key, f"{told.state}, then {listed[command_id]['state']}"
                    )
    for told in seen.callers:
        for command_id in told.ids:
            journalled = seen.journal.get(command_id, "in_doubt")
            certain = "in_doubt" not in (journalled, told.state) and told.state in FINAL
            if not certain or told.wish.effect in ("read", "idempotent"):
                continue
            # It may have failed there and been cancelled or expired here; but it happened, or it did not.
            if (journalled == "succeeded") != (told.state == "succeeded"):
                yield Violation("the agent's journal says else", told.wish.key, f"{journalled}, not {told.state}")
