"""What is signed, as bytes: one way to write it, and everything else refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import proofs, signing
from protocol.signing import CommandClaims, SignatureMalformed

CLAIMS = CommandClaims(
    tenant="acme",
    agent="plant-1",
    operation="create-sales-order",
    version="1",
    params_sha256=signing.params_digest(b'{"customer": "C042"}'),
    idempotency_key="order-4711",
    nbf=1_790_000_000,
    exp=1_790_000_600,
)
PAYLOAD: dict[str, Any] = json.loads(signing.command_payload(CLAIMS))
HEADER = {"alg": "Ed25519", "kid": "web-shop", "typ": signing.COMMAND}


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def dumped(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def jws(header: bytes, payload: bytes = b"{}", signature: bytes = bytes(64)) -> str:
    return f"{encoded(header)}.{encoded(payload)}.{encoded(signature)}"


def test_what_is_signed_is_what_is_read() -> None:
    signed = signing.signing_input(signing.COMMAND, "web-shop", signing.command_payload(CLAIMS))
    found = signing.parse(signing.compact(signed, bytes(range(64))), signing.COMMAND)
    assert (found.kid, found.signed, found.signature) == ("web-shop", signed, bytes(range(64)))
    assert signing.read_command(found.payload) == CLAIMS


def test_the_bytes_are_those_of_the_page_about_them() -> None:
    signed = signing.signing_input(signing.COMMAND, "web-shop", signing.command_payload(CLAIMS))
    header, payload = (base64.urlsafe_b64decode(part + b"==") for part in signed.split(b"."))
    assert header == b'{"alg":"Ed25519","kid":"web-shop","typ":"outhaul-command+jws"}'
    assert payload == (
        b'{"agent":"plant-1","exp":1790000600,"idempotency_key":"order-4711","nbf":1790000000,'
        b'"operation":"create-sales-order",'
        b'"params_sha256":"32501a3322d1ef1f3cb792f7f8519b4b19a3e3f502b8a8857d73759e1fb4db43",'
        b'"tenant":"acme","v":1,"version":"1"}'
    )


@pytest.mark.parametrize(
    "header",
    [
        HEADER | {"alg": "none"},
        HEADER | {"alg": "HS256"},
        HEADER | {"alg": "ES256"},
        HEADER | {"alg": "ed25519"},
        HEADER | {"alg": None},
        HEADER | {"typ": "JWT"},
        HEADER | {"typ": proofs.RESULT},
        HEADER | {"kid": ""},
        HEADER | {"kid": 1},
        HEADER | {"crit": []},
        {"alg": "Ed25519", "b64": False, "kid": "web-shop", "typ": signing.COMMAND},
        {"alg": "Ed25519", "jwk": {}, "kid": "web-shop", "typ": signing.COMMAND},
        {"kid": "web-shop", "alg": "Ed25519", "typ": signing.COMMAND},
        {"alg": "Ed25519", "typ": signing.COMMAND},
        {"kid": "web-shop", "typ": signing.COMMAND},
        {"alg": "Ed25519", "kid": "web-shop"},
        {},
        [],
        "Ed25519",
        None,
    ],
)
def test_a_header_that_says_anything_else_is_refused(header: object) -> None:
    with pytest.raises(SignatureMalformed):
        signing.parse(jws(dumped(header)), signing.COMMAND)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "..",
        "a.b",
        "a.b.c.d",
        jws(dumped(HEADER)) + "=",
        jws(dumped(HEADER)) + "\n",
        jws(dumped(HEADER)).replace(".", " ."),
        jws(dumped(HEADER) + b" "),
        jws(dumped(HEADER), signature=b""),
        jws(dumped(HEADER), signature=bytes(63)),
        jws(dumped(HEADER), signature=bytes(65)),
        jws(b'{"alg":"none","alg":"Ed25519","kid":"web-shop","typ":"outhaul-command+jws"}'),
        jws(b'{"alg":"Ed25519","kid":"web-shop","kid":"web-shop","typ":"outhaul-command+jws"}'),
        jws(b'{"alg":"Ed25519","kid":"web-sho\\u0070","typ":"outhaul-command+jws"}'),
        jws(b"\xff"),
        jws(dumped(HEADER))[:-1] + "B",  # the same bytes, written with other bits in what is left over
        "\u00e9.a.b",
    ],
)
def test_what_is_not_written_in_the_one_way_is_refused(text: str) -> None:
    with pytest.raises(SignatureMalformed):
        signing.parse(text, signing.COMMAND)


def test_the_older_name_of_the_algorithm_is_taken() -> None:
    assert signing.parse(jws(dumped(HEADER | {"alg": "EdDSA"})), signing.COMMAND).kid == "web-shop"


@pytest.mark.parametrize("name", sorted(PAYLOAD))
def test_every_member_must_be_there(name: str) -> None:
    with pytest.raises(SignatureMalformed, match="exactly the members"):
        signing.read_command(dumped({key: value for key, value in PAYLOAD.items() if key != name}))


@pytest.mark.parametrize("name", sorted(PAYLOAD))
@pytest.mark.parametrize("value", [None, "", True, 1.5, [], {}, -1])
def test_every_member_is_of_its_type(name: str, value: object) -> None:
    with pytest.raises(SignatureMalformed):
        signing.read_command(dumped(PAYLOAD | {name: value}))


@pytest.mark.parametrize("name", sorted(PAYLOAD))
def test_no_member_stands_twice(name: str) -> None:
    again = dumped({name: PAYLOAD[name]})[1:-1]
    text = signing.command_payload(CLAIMS).replace(again, again + b"," + again)
    with pytest.raises(SignatureMalformed, match="stands twice"):
        signing.read_command(text)


def test_members_stand_in_their_order() -> None:
    with pytest.raises(SignatureMalformed, match="canonical JSON"):
        signing.read_command(dumped(dict(reversed(PAYLOAD.items()))))


@pytest.mark.parametrize(
    "more",
    [{"group": "plants"}, {"zone": "a"}, {"command_id": "cmd_1"}, {"\u0000": 1}, {"v2": 1}],
)
def test_what_is_signed_and_not_known_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(SignatureMalformed, match="exactly the members"):
        signing.read_command(dumped(dict(sorted((PAYLOAD | more).items()))))


@pytest.mark.parametrize(
    "times",
    [{"nbf": 10, "exp": 10}, {"nbf": 10, "exp": 9}, {"nbf": 0, "exp": 31 * 86_400 + 1}, {"nbf": 0, "exp": 10**5000}],
)
def test_a_validity_that_is_none_or_too_long_is_refused(times: dict[str, int]) -> None:
    text = signing.command_payload(CLAIMS)
    for name, value in times.items():
        digits = "1" + "0" * 5000 if value > 10**9 else str(value)
        text = text.replace(f'"{name}":{PAYLOAD[name]}'.encode(), f'"{name}":{digits}'.encode())
    with pytest.raises(SignatureMalformed):
        signing.read_command(text)


def test_a_signature_for_a_group_names_no_agent() -> None:
    claims = CommandClaims(
        **{name: value for name, value in PAYLOAD.items() if name not in ("v", "agent")}, group="plants"
    )
    assert signing.read_command(signing.command_payload(claims)) == claims


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_bytes_do_anything_but_be_read_or_refused(data: bytes) -> None:
    for reading in (
        lambda: signing.parse(data.decode("latin-1"), signing.COMMAND),
        lambda: signing.parse(jws(data), signing.COMMAND),
        lambda: signing.read_command(data),
        lambda: proofs.read_result(data),
    ):
        with pytest.raises(SignatureMalformed):
            reading()


def test_the_digest_of_parameters_does_not_depend_on_how_they_are_written() -> None:
    assert signing.params_digest(b' { "b" : 1.10, "a" : "\\u00e9" } ') == signing.params_digest(
        '{"a":"\u00e9","b":1.10}'.encode()
    )
    assert signing.params_digest(b'{"b":1.1}') != signing.params_digest(b'{"b":1.10}')


@pytest.mark.parametrize("text", ["", "ed25519:", "ed25519:AAAA", "x25519:" + "A" * 43 + "=", "ed25519:" + "A" * 43])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(SignatureMalformed, match="32 bytes"):
        signing.public_key_bytes(text)


def test_a_fingerprint_can_be_read_out() -> None:
    text = "ed25519:" + base64.b64encode(bytes(range(32))).decode()
    assert signing.public_key_bytes(text) == bytes(range(32))
    found = signing.fingerprint(text)
    assert [len(group) for group in found.split("-")] == [4] * 10
    assert found != signing.fingerprint(text.replace("ed25519", "x25519"))
