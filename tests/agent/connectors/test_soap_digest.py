"""HTTP digest: the examples of the standard."""

from __future__ import annotations

import pytest

from agent.connectors.soap import digest

# RFC 7616, section 3.9.1.
NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
WANTED = {
    "MD5": "8ca523f5e9506fed4657c9700eebdbec",
    "SHA-256": "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
}


@pytest.mark.parametrize("algorithm", WANTED)
def test_the_standards_own_example(algorithm: str) -> None:
    challenge = (
        f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={algorithm}, nonce="{NONCE}", '
        'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )
    header = digest.answer(challenge, "GET", "/dir/index.html", "Mufasa", "Circle of Life", CNONCE)
    assert f'response="{WANTED[algorithm]}"' in header
    assert 'username="Mufasa"' in header
    assert 'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"' in header
    assert "Circle of Life" not in header


def test_the_older_form_without_protection() -> None:
    # RFC 2069 as corrected: no qop, no count.
    header = digest.answer('Digest realm="r", nonce="n"', "GET", "/", "u", "p", "c")
    assert "qop" not in header
    assert "nc=" not in header


@pytest.mark.parametrize(
    "challenge",
    [
        "",
        "Basic realm=x",
        'Digest realm="x"',
        'Digest realm="x", nonce="y", algorithm=X',
        'Digest realm="x", nonce="y", qop="auth-int"',
    ],
)
def test_what_can_not_be_answered_is_refused(challenge: str) -> None:
    with pytest.raises(digest.ChallengeRefused):
        digest.answer(challenge, "GET", "/", "u", "p", "c")
