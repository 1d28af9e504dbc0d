"""Where a command stands, in words."""

from __future__ import annotations

import pytest

from cloud_broker.client.progress import WAITING, in_words
from cloud_broker.client.records import Command, Failure


@pytest.mark.parametrize("reason", ["agent", "window", "rate", "order", "breaker", "retry"])
def test_every_reason_to_wait_has_its_words(reason: str) -> None:
    told = in_words(Command(id="cmd_1", state="queued", agent="plant-1", waiting_for=reason))
    assert reason in WAITING
    assert told.startswith("waiting")
    assert "{" not in told


def test_why_the_last_try_failed_is_told_while_the_next_is_waited_for() -> None:
    command = Command(id="cmd_1", state="queued", waiting_for="retry", error=Failure(message="no route to the ERP"))
    assert in_words(command) == "waiting for the next try; the last one failed: no route to the ERP"


def test_a_reason_that_a_later_broker_gives_is_told_as_it_is() -> None:
    assert in_words(Command(id="cmd_1", state="queued", waiting_for="moonrise")) == "waiting for moonrise"
