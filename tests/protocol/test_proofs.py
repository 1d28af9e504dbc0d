"""What an agent signs of how commands ended, and how its proof of one is read."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from protocol import canonical, proofs, signing
from protocol.messages import Completed, RowSetDone
from protocol.signing import SignatureMalformed

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


def ends(count: int) -> list[bytes]:
    return [
        proofs.result_payload("acme", "plant-1", "order", Completed(f"cmd_{number}", 1, "succeeded"), b"{}", 1)
        for number in range(count)
    ]


def prove(payloads: list[bytes]) -> list[str]:
    return proofs.prove(payloads, "plant-1", KEY.sign)


def base64url(data: bytes) -> str:
    return signing.base64url(data).decode()


def test_an_agent_signs_all_that_tells_how_it_ended() -> None:
    completed = Completed(
        "cmd_1", 3, "succeeded", row_sets=[RowSetDone(20, 2, "ab")], error_code="", position=7, head="cd"
    )
    found = proofs.read_result(proofs.result_payload("acme", "plant-1", "order", completed, b"{}", 1_790_000_000))
    assert found == {
        "v": 1,
        "tenant": "acme",
        "agent": "plant-1",
        "command_id": "cmd_1",
        "epoch": 3,
        "operation": "order",
        "outcome": "succeeded",
        "outputs_sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "row_sets": [{"bytes": 20, "rows": 2, "sha256": "ab"}],
        "error_code": "",
        "position": 7,
        "head": "cd",
        "at": 1_790_000_000,
    }


@given(st.integers(1, 70))
def test_each_end_is_proved_by_one_signature_over_all(count: int) -> None:
    payloads = ends(count)
    told = prove(payloads)
    for payload, proof in zip(payloads, told, strict=True):
        proofs.check_shape(proof)
        jws = proofs.parse(proof)
        assert (jws.kid, jws.payload) == ("plant-1", payload)
        KEY.public_key().verify(jws.signature, jws.signed)
    assert len({proof.partition("~")[0] for proof in told}) == 1


def test_an_end_by_itself_is_a_plain_jws() -> None:
    (proof,) = prove(ends(1))
    assert signing.parse(proof, proofs.RESULT).payload == ends(1)[0]


def test_the_way_is_made_as_the_reference_says() -> None:
    one, two, three = (hashlib.sha256(b"\0" + end).digest() for end in ends(3))
    both = hashlib.sha256(b"\1" + min(one, two) + max(one, two)).digest()
    root = hashlib.sha256(b"\1" + min(both, three) + max(both, three)).digest()
    first, second, third = prove(ends(3))
    signed = signing.parse(first.partition("~")[0], proofs.RESULTS)
    assert signed.payload == canonical.encode({"root": root.hex(), "v": 1})
    ways = [base64.urlsafe_b64decode(proof.rpartition("~")[2] + "==") for proof in (first, second, third)]
    assert ways == [two + three, one + three, both]


def test_an_end_that_was_not_signed_with_the_others_is_refused() -> None:
    told, others = prove(ends(4)), prove(ends(5))
    jws, end, way = told[0].split("~")
    more = base64url(ends(6)[5])
    for wrong in (
        f"{jws}~{more}~{way}",  # another end
        f"{jws}~{end}~{told[1].rpartition('~')[2]}",  # the way of another
        f"{jws}~{end}~{others[0].rpartition('~')[2]}",  # of others that were signed together
        f"{others[0].partition('~')[0]}~{end}~{way}",  # their signature
        f"{jws}~{end}~{way[:43]}",  # a part of its way
    ):
        with pytest.raises(SignatureMalformed):
            proofs.parse(wrong)


def test_a_node_is_no_end() -> None:
    # Whoever could show a node as an end would have the two below it signed as whatever they read as.
    one, two, three, four = (hashlib.sha256(b"\0" + end).digest() for end in ends(4))
    jws = prove(ends(4))[0].partition("~")[0]
    left = min(one, two) + max(one, two)
    right = hashlib.sha256(b"\1" + min(three, four) + max(three, four)).digest()
    for end in (left, b"\1" + left):
        with pytest.raises(SignatureMalformed):
            proofs.parse(f"{jws}~{base64url(end)}~{base64url(right)}")


def test_what_has_not_the_form_of_a_proof_is_refused() -> None:
    (alone,) = prove(ends(1))
    together = prove(ends(2))[0]
    jws, end, way = together.split("~")
    root = signing.parse(jws, proofs.RESULTS).payload
    for wrong in (
        "",
        "~~",
        jws,  # the root is no end
        f"{alone}~{end}~{way}",  # one end, signed by itself, is no root
        f"{jws}~{end}",
        f"{jws}~{end}~",
        f"{jws}~~{way}",
        f"{jws}~{end}~{way}~",
        f"{jws}~{end}~{way}=",
        f"{jws}~{end}~{base64url(b'short')}",
        f"{jws}~{base64url(root)}~{way}",
    ):
        with pytest.raises(SignatureMalformed):
            proofs.parse(wrong)
    for shape in ("", "~~", f"{jws}~{end}", f"{jws}~{end}~{way}~", f"{jws}~{end}~", "a.b", "a" * 300_000):
        with pytest.raises(SignatureMalformed):
            proofs.check_shape(shape)


@pytest.mark.parametrize("payload", [{"root": "00"}, {"root": "00", "v": 2}, {"root": "00", "v": True}, {"v": 1}, []])
def test_a_root_has_exactly_its_members(payload: object) -> None:
    signed = signing.signing_input(proofs.RESULTS, "plant-1", canonical.encode(payload))
    _, end, way = prove(ends(2))[0].split("~")
    with pytest.raises(SignatureMalformed):
        proofs.parse(f"{signing.compact(signed, KEY.sign(signed))}~{end}~{way}")
