"""What waits is made together where it can be, and keeps its order where it must."""

from __future__ import annotations

import pytest

from cloud_broker.store.batches import Task
from cloud_broker.store.together import Kind, steps

A, B, C = Kind(0, lambda connection, given: given), Kind(1, lambda connection, given: given), None


def task(kind: Kind | None, about: str) -> Task:
    return Task(lambda connection: None, None, kind=kind, about=about)


@pytest.mark.parametrize(
    ("batch", "made"),
    [
        ([], []),
        ([(A, "1"), (A, "2")], [["1", "2"]]),
        ([(B, "1"), (A, "2"), (B, "3")], [["2"], ["1", "3"]]),
        ([(A, "1"), (B, "1"), (A, "2"), (B, "2")], [["1", "2"], ["1", "2"]]),
        ([(B, "1"), (A, "1")], [["1"], ["1"]]),
        ([(A, "1"), (A, "1")], [["1"], ["1"]]),
        ([(A, "1"), (C, ""), (A, "2")], [["1"], [""], ["2"]]),
        ([(C, "x"), (C, "y")], [["x"], ["y"]]),
        ([(B, "1"), (A, "2"), (A, "1"), (A, "3")], [["2"], ["1"], ["1", "3"]]),
    ],
)
def test_changes_of_one_kind_are_made_together_and_those_of_one_command_in_order(
    batch: list[tuple[Kind | None, str]], made: list[list[str]]
) -> None:
    found = [[one.about for one in together] for together in steps([task(kind, about) for kind, about in batch])]
    assert found == made
