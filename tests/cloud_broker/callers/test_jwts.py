"""Tokens of OpenID providers: what is taken, and every attack that has a name."""

from __future__ import annotations

import hmac
import json
import time
from typing import Any

import pytest
from joserfc import jwk

from cloud_broker.callers import jwts
from cloud_broker.callers.jwts import ALGORITHMS, Identity, TokenRefused, Wanted, choose, keys_of, take_apart, verify
from tests.cloud_broker.signer import AUDIENCE, ISSUER, WANTED, claims, key, public, raw_token, segment, token

RSA = key("RS256")
OTHER = key("RS256", "k2")
EC = key("ES256", "e1")
TWICE = b'{"alg":"none","alg":"RS256"}'


def judged(text: str, published: Any = None, wanted: Wanted = WANTED) -> Identity:
    """Return who a token is about, as a broker does it."""
    taken = take_apart(text)
    found = choose(keys_of(public(RSA) if published is None else published), taken)
    if found is None:
        raise TokenRefused("no key of its issuer has made it")
    return verify(taken, found, wanted, time.time())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")  # EdDSA, which providers write all the same
def test_a_good_token_says_who_for_which_tenant_and_what_for(algorithm: str) -> None:
    mine = key(algorithm)

    assert judged(token(mine, algorithm), public(mine)) == Identity(ISSUER, "ada", ("acme",), ("commands:read",))


def test_a_token_without_a_key_id_is_taken_where_only_one_key_can_be_meant() -> None:
    assert judged(token(RSA, "RS256", {"kid": None}), public(RSA, EC)).subject == "ada"
    with pytest.raises(TokenRefused, match="no key of its issuer"):
        judged(token(RSA, "RS256", {"kid": None}), public(RSA, OTHER))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"iss": "https://login.example.org"}, "issuer"),
        ({"iss": f"{ISSUER}/"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"iss": [ISSUER]}, "issuer"),
        ({"aud": "another"}, "audience"),
        ({"aud": ["another", "third"]}, "audience"),
        ({"aud": None}, "audience"),
        ({"aud": [[AUDIENCE]]}, "audience"),
        ({"aud": {AUDIENCE: 1}}, "audience"),
        ({"aud": AUDIENCE.upper()}, "audience"),
        ({"exp": None}, "no end"),
        ({"exp": 1}, "expired"),
        ({"exp": True}, "no time"),
        ({"exp": "4102444800"}, "no time"),
        ({"exp": [4102444800]}, "no time"),
        ({"nbf": 4102444800}, "not valid yet"),
        ({"nbf": "soon"}, "no time"),
        ({"iat": 4102444800}, "not valid yet"),
        ({"sub": None}, "subject"),
        ({"sub": ""}, "subject"),
        ({"sub": 7}, "subject"),
        ({"sub": "a" * 256}, "subject"),
        ({"sub": "a\nb"}, "subject"),
        ({"tenant": None}, "names no tenant"),
        ({"tenant": []}, "names no tenant"),
        ({"tenant": "*"}, "names no tenant"),
        ({"tenant": {"acme": 1}}, "names no tenant"),
        ({"tenant": ["acme", "../other"]}, "names no tenant"),
        ({"tenant": ["a"] * 1001}, "names no tenant"),
    ],
)
def test_a_claim_that_is_wrong_or_missing_is_refused(changed: dict[str, Any], said: str) -> None:
    claimed = json.dumps(claims() | changed) if None not in changed.values() else json.dumps(claims(**changed))
    with pytest.raises(TokenRefused, match=said):
        judged(raw_token(RSA, "RS256", claimed.encode()))


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "number",
    [
        *("1" + "0" * 308, "1" + "0" * 4_000, "1" + "0" * 5_000, "-1" + "0" * 400, "9007199254740993"),
        *("1e308", "1e309", "-1e309", "NaN", "Infinity", "-Infinity"),
    ],
    ids=lambda number: number[:12],
)
def test_a_time_that_no_clock_shows_is_refused(name: str, number: str) -> None:
    claimed = json.dumps(claims() | {name: 0}).replace(f'"{name}": 0', f'"{name}": {number}')

    with pytest.raises(TokenRefused, match=r"no time|no JSON"):
        judged(raw_token(RSA, "RS256", claimed.encode()))


def test_an_end_that_has_passed_is_told_as_such_and_clocks_may_differ_by_the_leeway() -> None:
    now = time.time()
    assert judged(token(RSA, "RS256", exp=now - 20, nbf=now + 20, iat=now + 20)).subject == "ada"
    with pytest.raises(TokenRefused) as late:
        judged(token(RSA, "RS256", exp=now - 31))
    with pytest.raises(TokenRefused, match="not valid yet") as early:
        judged(token(RSA, "RS256", nbf=now + 60))

    assert late.value.expired
    assert not early.value.expired


def _public_key_as_secret(algorithm: str) -> str:
    # By hand: the library will not do it.
    signed = f"{segment({'alg': algorithm, 'typ': 'JWT', 'kid': 'k1'})}.{segment(claims())}"
    assert isinstance(RSA, jwk.RSAKey)
    digest = hmac.new(RSA.as_pem(private=False), signed.encode(), algorithm.replace("HS", "sha")).digest()
    return f"{signed}.{segment(digest)}"


def _unsigned(algorithm: str) -> str:
    return f"{segment({'alg': algorithm, 'typ': 'JWT', 'kid': 'k1'})}.{segment(claims())}."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_unsigned("none"), "base64url"),
        (_unsigned("none") + "AA", "algorithm"),
        (_unsigned("None") + "AA", "algorithm"),
        (_unsigned("nOnE") + "AA", "algorithm"),
        (_unsigned("RS256"), "base64url"),
        (_unsigned("RS256") + "AA", "signature"),
        (_public_key_as_secret("HS256"), "algorithm"),
        (_public_key_as_secret("HS512"), "algorithm"),
        (token(OTHER, "RS256", {"kid": "k1"}), "signature"),
        (token(OTHER, "RS256"), "no key of its issuer"),
        (token(EC, "ES256", {"kid": "k1"}), "no key of its issuer"),
        (token(RSA, "RS256", {"kid": "../../dev/null"}), "no key of its issuer"),
        (token(RSA, "RS256", {"kid": "' OR 1=1 --"}), "no key of its issuer"),
        (token(RSA, "RS256", {"kid": 1}), "key id"),
        (token(RSA, "RS256", {"kid": ""}), "key id"),
        (token(RSA, "RS256", {"kid": "k" * 256}), "key id"),
        (token(RSA, "RS256", {"kid": ["k1"]}), "key id"),
        (f"{segment({'alg': ['RS256']})}.e30.AA", "algorithm"),
        (f"{segment({})}.e30.AA", "algorithm"),
        (token(RSA, "RS256", {"crit": ["exp"], "exp": 1}), "crit"),
        (token(RSA, "RS256", {"crit": ["b64"], "b64": False}), "crit"),
        (token(RSA, "RS256", {"crit": []}), "crit"),
        (token(RSA, "RS256", {"typ": "logout+jwt"}), "type"),
        (token(RSA, "RS256", {"typ": 1}), "type"),
        ("a.b", "three parts"),
        ("a.b.c.d", "three parts"),
        ("..", "base64url"),
        ("a" * 20_000, "at most 16384"),
        (f"{segment(b'[]')}.e30.AA", "no JSON object"),
        (f"{segment({'alg': 'RS256'})}.{segment(b'[1]')}.AA", "no JSON object"),
        (segment(TWICE) + ".e30.AA", "one way only"),
        (f"{segment(bytes([0xFF]))}.e30.AA", "one way only"),
        (f"{segment({'alg': 'RS256'})}.{segment(b'[' * 6000)}.AA", "one way only"),
        (segment(b"{") + ".e30.AA", "one way only"),
        (raw_token(RSA, "RS256", b'{"tenant":"acme","tenant":"other"}'), "one way only"),
        (raw_token(RSA, "RS256", b'{"a":{"b":1,"b":2}}'), "one way only"),
        (raw_token(RSA, "RS256", b'{"exp":NaN}'), "one way only"),
        (raw_token(RSA, "RS256", b'{"exp":Infinity}'), "one way only"),
        (raw_token(RSA, "RS256", json.dumps(claims()).replace('"exp": ', '"exp": 1e999, "x": ').encode()), "no time"),
        (token(RSA, "RS256") + "=", "base64url"),
        (token(RSA, "RS256").replace(".", "=.", 1), "base64url"),
        (token(RSA, "RS256")[:-3], "signature|base64url"),
    ],
    ids=range(42),
)
def test_a_forged_or_ambiguous_token_is_refused(text: str, said: str) -> None:
    with pytest.raises(TokenRefused, match=said):
        judged(text)


@pytest.mark.parametrize("place", range(3))
def test_no_part_of_a_token_can_be_changed(place: int) -> None:
    parts = token(RSA, "RS256").split(".")
    for index in range(0, len(parts[place]), 7):
        changed = "A" if parts[place][index] != "A" else "B"
        other = [*parts]
        other[place] = parts[place][:index] + changed + parts[place][index + 1 :]
        with pytest.raises(TokenRefused):
            judged(".".join(other))


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c"])
def test_keys_that_a_token_brings_with_it_are_not_looked_at(name: str) -> None:
    mine = key("RS256", "k1")
    brought = {
        "jwk": mine.as_dict(private=False),
        "jku": "http://127.0.0.1:1/keys",
        "x5u": "http://127.0.0.1:1/chain",
        "x5c": ["MIIB"],
    }[name]

    with pytest.raises(TokenRefused, match="signature"):
        judged(token(mine, "RS256", {name: brought}))
    assert judged(token(RSA, "RS256", {name: brought})).subject == "ada"


def test_an_issuers_algorithms_count_and_not_the_tokens() -> None:
    with pytest.raises(TokenRefused, match="RS256 are taken"):
        judged(token(RSA, "PS256"), wanted=Wanted(ISSUER, AUDIENCE, ("RS256",)))


@pytest.mark.parametrize(
    "spoilt",
    [
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"alg": "RS512"},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"k": "c2VjcmV0"},
        {"n": "AQAB"},
        {"kid": 7},
    ],
)
def test_a_key_that_is_for_something_else_or_too_weak_verifies_nothing(spoilt: dict[str, Any]) -> None:
    published = {"keys": [public(RSA)["keys"][0] | spoilt]}

    with pytest.raises(TokenRefused, match="no key of its issuer"):
        judged(token(RSA, "RS256"), published)


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")  # of the short one, which is why it is left out
def test_a_private_or_short_key_in_the_set_is_left_out_and_the_others_count() -> None:
    short = jwk.RSAKey.generate_key(1024, {"kid": "short", "use": "sig"})
    found = keys_of(
        {"keys": [RSA.as_dict(private=True), public(short)["keys"][0], {"kty": "new"}, 7, *public(EC)["keys"]]}
    )

    assert [one.kid for one in found] == ["e1"]


def test_two_keys_of_one_id_verify_nothing() -> None:
    twin = key("RS256", "k1")
    with pytest.raises(TokenRefused, match="no key of its issuer"):
        judged(token(RSA, "RS256"), public(RSA, twin))


def test_roles_give_their_scopes_and_only_they_give_all() -> None:
    roles = {"operators": ("commands:write", "commands:read"), "admins": ("*",)}
    mapped = Wanted(ISSUER, AUDIENCE, ("RS256",), scope_claim=("realm", "roles"), roles=roles)

    assert (
        judged(token(RSA, "RS256", realm={"roles": ["operators", "cooks"]}), wanted=mapped).scopes == roles["operators"]
    )
    assert judged(token(RSA, "RS256", realm={"roles": "admins"}), wanted=mapped).scopes == ("*",)
    assert judged(token(RSA, "RS256", realm=7), wanted=mapped).scopes == ()
    assert judged(token(RSA, "RS256", scope="* commands:read fly")).scopes == ("commands:read",)
    assert judged(token(RSA, "RS256", scope=["commands:read", "agents:read"])).scopes == (
        "commands:read",
        "agents:read",
    )


def test_an_issuer_speaks_only_for_its_tenants() -> None:
    bound = Wanted(ISSUER, AUDIENCE, ("RS256",), tenants=("acme", "other"))
    fixed = Wanted(ISSUER, AUDIENCE, ("RS256",), tenant_claim=(), tenants=("acme",))

    assert judged(token(RSA, "RS256", tenant=["third", "acme", "acme"]), wanted=bound).tenants == ("acme",)
    with pytest.raises(TokenRefused, match="may speak for"):
        judged(token(RSA, "RS256", tenant="third"), wanted=bound)
    assert judged(token(RSA, "RS256", tenant="third"), wanted=fixed).tenants == ("acme",)


@pytest.mark.parametrize("document", [None, [], {}, {"keys": {}}, "keys"])
def test_what_is_no_jwk_set_is_told(document: Any) -> None:
    with pytest.raises(ValueError, match="JWK set"):
        keys_of(document)


def test_no_algorithm_has_a_secret_key() -> None:
    assert not [name for name in jwts.ALGORITHMS if name.startswith("HS") or name.lower() == "none"]
