"""What a ``verify`` operation's answer means."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.inquiry import By, settled_by, tells
from agent.settings import Effect, Settings
from agent.settings_reader import read

SETTINGS = read(
    {
        "agent": "a",
        "state_dir": "s",
        "connections": {"c": {"type": "synthetic"}},
        "operations": {
            "once": {"connection": "c", "synthetic": "echo", "effect": "once", "verify": "read"},
            "verified": {"connection": "c", "synthetic": "echo", "effect": "at-most-once", "verify": "read"},
            "alone": {"connection": "c", "synthetic": "echo", "effect": "at-most-once"},
            "read": {"connection": "c", "synthetic": "echo"},
        },
    },
    Settings,
)


@pytest.mark.parametrize(
    ("operation", "ran_as", "by"),
    [
        ("once", "once", By.SOURCE),
        ("verified", "at-most-once", By.VERIFY),
        ("alone", "at-most-once", By.NOBODY),
        ("gone", "once", By.NOBODY),
        ("once", "at-most-once", By.VERIFY),
        ("verified", "once", By.VERIFY),
        ("read", "at-most-once", By.NOBODY),
    ],
)
def test_who_can_tell(operation: str, ran_as: Effect, by: By) -> None:
    assert settled_by(SETTINGS.operations.get(operation), ran_as) is by


ANSWERS: list[tuple[int, dict[str, Any], bool]] = [
    (0, {}, False),
    (1, {}, True),
    (3, {"found": False}, True),
    (0, {"found": False}, False),
    (0, {"found": True}, True),
    (0, {"count": 0}, False),
    (0, {"count": 2}, True),
    (0, {"count": "0"}, False),
    (0, {"invoice": None, "text": ""}, False),
    (0, {"invoice": None, "text": "", "no": "R-1"}, True),
    (0, {"Invoice": {"No": None, "Lines": []}}, False),
    (0, {"Invoice": {"No": None, "Lines": [{"Sku": "A"}]}}, True),
    (0, {"Invoice": msgspec.Raw(b'{"No": null}')}, False),
    (0, {"Invoice": msgspec.Raw(b'{"No": 7}')}, True),
]


@pytest.mark.parametrize(("rows", "outputs", "happened"), ANSWERS)
def test_what_an_answer_says(rows: int, outputs: dict[str, Any], happened: bool) -> None:
    assert tells(rows, outputs) is happened
