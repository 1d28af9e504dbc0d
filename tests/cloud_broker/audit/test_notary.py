"""What strangers do is noted, and never more of it than a disk can take."""

from __future__ import annotations

import pytest

from cloud_broker.audit.notary import ALIKE, OF_STRANGERS, WINDOW_S, Notary
from cloud_broker.audit.trail import Act


class Desk:
    """A notary with a clock of its own, and what it noted."""

    def __init__(self) -> None:
        self.noted: list[Act] = []
        self.time = 0.0
        self.notary = Notary(self.noted.append, clock=lambda: self.time, now=lambda: 1_790_000_000.0 + self.time)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_refusal_says_why_and_where_from(desk: Desk) -> None:
    desk.notary.refused("acme", "login_refused", "key:k1", "it was revoked", "10.0.0.9")
    (act,) = desk.noted
    assert (act.tenant, act.actor, act.action, act.target) == ("acme", "broker", "login_refused", "key:k1")
    assert act.detail == {"why": "it was revoked", "address": "10.0.0.9"}


def test_of_many_alike_some_are_noted_and_the_next_window_says_how_many_were_not(desk: Desk) -> None:
    for _ in range(1_000):
        desk.notary.refused("acme", "login_refused", "key:k1", "it was revoked")
    assert len(desk.noted) == ALIKE
    desk.time = WINDOW_S
    desk.notary.refused("acme", "login_refused", "key:k1", "it was revoked")
    assert [act.detail.get("left_out") for act in desk.noted[ALIKE:]] == [1_000 - ALIKE, None]


def test_names_that_a_stranger_makes_up_are_bounded_together(desk: Desk) -> None:
    for number in range(10_000):
        desk.notary.refused("", "token_refused", f"token:{number}", "it is not known")
    assert len(desk.noted) == OF_STRANGERS
    desk.notary.refused("acme", "token_refused", "token:1", "it was spent")  # another chain has its own share
    assert len(desk.noted) == OF_STRANGERS + 1


def test_agents_that_all_come_at_once_are_all_noted(desk: Desk) -> None:
    for number in range(10_000):
        desk.notary.note(Act("acme", f"agent:{number}", "agent_linked", f"agent:{number}", 0.0))
    assert len(desk.noted) == 10_000


def test_what_was_left_out_is_said_also_if_nothing_more_comes(desk: Desk) -> None:
    for _ in range(ALIKE + 3):
        desk.notary.refused("acme", "agent_refused", "agent:plant-1", "its certificate was revoked")
    desk.notary.flush()
    assert desk.noted[-1].detail == {"left_out": 3}
    desk.notary.flush()
    assert len(desk.noted) == ALIKE + 1
