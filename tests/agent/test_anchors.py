"""What the agent tells of its journal, and keeps of the broker's audit trail."""

from __future__ import annotations

import logging

import pytest

from agent.anchors import KEEP_S, TELL_S, Anchors
from agent.journal.memory import MemoryJournal
from tests.agent.journal.commands import claim

A, B = "a" * 64, "b" * 64


class Desk:
    """Anchors over a journal, with a clock of their own."""

    def __init__(self, own_tenant: str = "") -> None:
        self.time = 0.0
        self.journal = MemoryJournal()
        self.anchors = Anchors(self.journal, lambda: self.time, lambda: 1_790_000_000.0 + self.time, lambda: own_tenant)

    def kept(self) -> list[tuple[str, int, str]]:
        return [(one.tenant, one.number, one.hash) for one in self.journal.anchors()]

    def hear(self, audit: str) -> None:
        self.time += KEEP_S
        self.anchors.heard(audit)


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_the_first_broker_hears_how_the_journal_was_found_and_later_ones_how_it_is(desk: Desk) -> None:
    found = desk.journal.stand()
    await desk.journal.begin(claim(1))
    assert desk.anchors.greeting() == found
    assert desk.anchors.greeting() == found  # the first link was lost before the broker knew what is held
    desk.anchors.welcomed("acme", "")
    assert desk.anchors.greeting() == desk.journal.stand() != found


async def test_a_head_is_told_when_it_is_new_and_once_a_minute_at_most(desk: Desk) -> None:
    desk.anchors.greeting()
    desk.anchors.welcomed("acme", "")
    desk.time = TELL_S
    assert desk.anchors.to_tell() == ""
    await desk.journal.begin(claim(1))
    position, head = desk.journal.stand()
    assert desk.anchors.to_tell() == f"{position}:{head}"
    await desk.journal.begin(claim(2))
    assert desk.anchors.to_tell() == ""
    desk.time += TELL_S
    assert desk.anchors.to_tell() == "{}:{}".format(*desk.journal.stand())


def test_an_anchor_is_kept_when_it_is_new_and_once_a_minute_at_most(desk: Desk) -> None:
    desk.anchors.welcomed("acme", f"7:{A}")
    desk.anchors.heard(f"8:{B}")
    assert desk.kept() == [("acme", 7, A)]
    desk.hear(f"7:{A}")
    desk.hear(f"9:{B}")
    assert desk.kept() == [("acme", 7, A), ("acme", 9, B)]


def test_a_trail_is_not_another_one_because_the_broker_names_another_tenant(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk("acme")
    desk.anchors.welcomed("acme", f"7:{A}")
    desk.time = TELL_S
    with caplog.at_level(logging.ERROR):
        desk.anchors.welcomed("acme-2", f"6:{B}")
    assert "now has 6" in caplog.text
    assert desk.kept() == [("acme", 7, A), ("acme", 6, B)]


@pytest.mark.parametrize(("then", "found"), [(f"6:{B}", "now has 6"), (f"7:{B}", "now has 7 with another hash")])
def test_a_trail_that_was_cut_or_written_anew_is_told_and_kept_as_it_was_told(
    desk: Desk, then: str, found: str, caplog: pytest.LogCaptureFixture
) -> None:
    desk.anchors.welcomed("acme", f"7:{A}")
    with caplog.at_level(logging.ERROR):
        desk.hear(then)
    assert found in caplog.text
    number, _, digest = then.partition(":")
    assert desk.kept() == [("acme", 7, A), ("acme", int(number), digest)]


@pytest.mark.parametrize("told", ["", "7", f"-7:{A}", f"7:{A.upper()}", f"7:{A}0", "9" * 16 + f":{A}", f" 7:{A}\n"])
def test_what_is_no_anchor_is_not_kept(desk: Desk, told: str) -> None:
    desk.anchors.welcomed("acme", told)
    assert desk.kept() == []
