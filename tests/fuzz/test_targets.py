"""Every reader of foreign bytes: the corpus, which nothing breaks any more, and some hundred changes to it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.strategies import inputs
from tests.fuzz.targets import CORPUS, TARGETS, seeds

EXAMPLES = 80  # of each target; `make fuzz` tries millions


def test_every_target_has_a_corpus_and_every_corpus_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == TARGETS.keys()
    assert [name for name in TARGETS if len(seeds(name)) < 3] == []


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_in_the_corpus_breaks_its_reader(name: str) -> None:
    for data in seeds(name):
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_like_the_corpus_breaks_its_reader(name: str) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs(name))
    def take(data: bytes) -> None:
        TARGETS[name](data)

    take()
