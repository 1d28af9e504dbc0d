"""Copies of a machine are noticed, and a machine that is put back is not taken for one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_broker.identity.lineage import MAX_ABANDONED, NEW, Lineage, Verdict, follow, judge

CONFIRMED = Lineage("t5", "t4", confirmed=True, abandoned=("t1",))


@pytest.mark.parametrize(
    ("kept", "shown", "verdict"),
    [
        (NEW, "", Verdict.SAME),
        (NEW, "of another broker", Verdict.SAME),
        (CONFIRMED, "t5", Verdict.SAME),
        (CONFIRMED, "t4", Verdict.PUT_BACK),
        (CONFIRMED, "t3", Verdict.PUT_BACK),
        (CONFIRMED, "", Verdict.PUT_BACK),
        (CONFIRMED, "t1", Verdict.TWO),
        (replace(CONFIRMED, confirmed=False), "t1", Verdict.PUT_BACK),
        (Lineage("t5", "t4"), "t4", Verdict.SAME),
        (Lineage("t5", "t4"), "t3", Verdict.PUT_BACK),
        (Lineage("t1", ""), "", Verdict.SAME),
        (Lineage("t1", "", confirmed=True), "", Verdict.PUT_BACK),
    ],
)
def test_what_a_text_means(kept: Lineage, shown: str, verdict: Verdict) -> None:
    assert judge(kept, shown) is verdict


def test_what_is_given_up_is_remembered_but_not_what_is_shown() -> None:
    assert follow(CONFIRMED, "t4", "t6") == Lineage("t6", "t4", abandoned=("t1", "t5"))
    assert follow(CONFIRMED, "t3", "t6") == Lineage("t6", "t3", abandoned=("t1", "t4", "t5"))
    assert follow(CONFIRMED, "", "t6") == Lineage("t6", "", abandoned=("t1", "t4", "t5"))
    assert follow(CONFIRMED, "t5", "t6") == Lineage("t6", "t5", abandoned=("t1",))


def test_only_some_texts_are_remembered() -> None:
    kept = Lineage("t1", "t0", confirmed=True)
    for number in range(2, 50):
        kept = replace(follow(kept, f"older {number}", f"t{number}"), confirmed=True)
    assert len(kept.abandoned) == MAX_ABANDONED


@dataclass
class Broker:
    """The broker's memory of one agent, and whether it stopped it."""

    kept: Lineage = NEW
    stopped: bool = False
    warnings: int = 0
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def greeted(self, shown: str) -> str:
        """Return the text given for the one shown."""
        verdict = judge(self.kept, shown)
        self.stopped |= verdict is Verdict.TWO
        self.warnings += verdict is Verdict.PUT_BACK
        self.kept = follow(self.kept, shown, f"t{next(self.numbers)}")
        return self.kept.tip

    def confirm(self, given: str) -> None:
        """Hear Holding on the link that this text was given on."""
        if self.kept.tip == given:
            self.kept = Lineage(given, self.kept.before, True, self.kept.abandoned)


@dataclass
class Machine:
    """One machine and what is on its disk."""

    text: str = ""

    def dial(self, broker: Broker, end: str) -> None:
        """Greet; ``end`` says when the link is lost: before the text is on the disk, before Holding, or later."""
        given = broker.greeted(self.text)
        if end != "unkept":
            self.text = given
        if end == "held":
            broker.confirm(given)


ENDS = st.sampled_from(["unkept", "kept", "held"])


@given(st.lists(ENDS))
def test_a_machine_whose_links_break_anywhere_is_never_suspected(ends: list[str]) -> None:
    broker, machine = Broker(), Machine()
    for end in ends:
        machine.dial(broker, end)
    assert (broker.stopped, broker.warnings) == (False, 0)


@given(st.lists(ENDS), st.lists(st.one_of(ENDS, st.just("put back"))))
def test_a_machine_put_back_to_one_state_again_and_again_is_never_stopped(before: list[str], after: list[str]) -> None:
    broker, machine = Broker(), Machine()
    for end in before:
        machine.dial(broker, end)
    snapshot = machine.text
    for step in after:
        if step == "put back":
            machine.text = snapshot
        else:
            machine.dial(broker, step)
    assert not broker.stopped


@given(st.lists(ENDS), st.lists(ENDS, max_size=5), st.lists(st.booleans(), max_size=5))
def test_of_a_machine_and_its_copy_one_is_noticed_soon_after_both_dialled(
    before: list[str], between: list[str], who: list[bool]
) -> None:
    broker, machine = Broker(), Machine()
    for end in before:
        machine.dial(broker, end)
    copy = Machine(machine.text)
    for end in between:
        machine.dial(broker, end)
    for of_copy in who:
        (copy if of_copy else machine).dial(broker, "held")
    rounds = 0
    while not broker.stopped:
        machine.dial(broker, "held")
        copy.dial(broker, "held")
        rounds += 1
        assert rounds <= 3


@given(st.lists(ENDS), st.sampled_from(["unkept", "kept", "held"]))
def test_an_old_greeting_that_comes_late_stops_nobody(before: list[str], after: str) -> None:
    broker, machine = Broker(), Machine()
    for end in before:
        machine.dial(broker, end)
    late = machine.text
    machine.dial(broker, "held")
    # The machine gave that link up long ago; the network had kept what it said there.
    broker.greeted(late)
    for end in (after, "held", "held"):
        machine.dial(broker, end)
    assert not broker.stopped
