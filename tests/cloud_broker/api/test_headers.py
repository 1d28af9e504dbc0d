"""Request headers, by the examples of their standards."""

from __future__ import annotations

import pytest

from cloud_broker.api import headers
from cloud_broker.errors import RequestInvalid

OFFERED = ["application/x-ndjson", "text/csv"]


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ([], "application/x-ndjson"),
        ([""], "application/x-ndjson"),
        (["*/*"], "application/x-ndjson"),
        (["text/csv"], "text/csv"),
        (["TEXT/CSV; header=present"], "text/csv"),
        (["text/*"], "text/csv"),
        (["application/*"], "application/x-ndjson"),
        (["application/x-ndjson;q=0.5, text/csv;q=0.9"], "text/csv"),
        (["application/x-ndjson;q=0.5", "text/csv;q=0.9"], "text/csv"),
        (["text/csv;q=0.5, */*;q=0.1"], "text/csv"),
        (["text/csv;q=0, */*"], "application/x-ndjson"),
        (["application/x-ndjson;q=0, */*"], "text/csv"),
        (["text/*;q=0.3, text/csv;q=0.1, application/x-ndjson;q=0.2"], "application/x-ndjson"),
        (["application/json, text/csv;q=0.001"], "text/csv"),
        (["application/json"], None),
        (["text/csv;q=0"], None),
        (["*/*;q=0"], None),
        (["text/csv;q=2"], None),
        (["application/vnd.apache.arrow.stream"], None),
        (["nonsense"], None),
    ],
)
def test_the_media_type_that_accept_likes_best_is_chosen(accept: list[str], chosen: str | None) -> None:
    assert headers.choose(accept, OFFERED) == chosen


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ([], None),
        (["wait=10"], 10),
        (["WAIT = 10"], 10),
        (['wait="10"'], 10),
        (["respond-async, wait=10"], 10),
        (["respond-async", "wait=10"], 10),
        (["wait=10; foo=bar"], 10),
        (["wait=10, wait=20"], 10),
        (["wait=0"], 0),
        (["wait=-1"], None),
        (["wait=soon"], None),
        (["wait"], None),
        (["await=3"], None),
    ],
)
def test_prefer_wait_is_read_and_what_is_not_understood_is_passed_over(prefer: list[str], seconds: int | None) -> None:
    assert headers.wait_s(prefer) == seconds


@pytest.mark.parametrize(
    ("text", "key"), [(None, None), ("k", "k"), ('"k"', "k"), (" k ", "k"), ('"', '"'), ("x" * 255,) * 2]
)
def test_an_idempotency_key_may_stand_in_quotes(text: str | None, key: str | None) -> None:
    assert headers.idempotency_key([] if text is None else [text]) == key


@pytest.mark.parametrize("text", ["", '""', "a b", "x" * 256, "é", "a\tb"])
def test_an_idempotency_key_is_visible_ascii(text: str) -> None:
    with pytest.raises(RequestInvalid, match="Idempotency-Key"):
        headers.idempotency_key([text])


def test_there_is_one_idempotency_key() -> None:
    with pytest.raises(RequestInvalid, match="found 2"):
        headers.idempotency_key(["k", "k"])
