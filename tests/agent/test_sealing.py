"""Sealed commands at the agent, beside another implementation of HPKE; what opens them stands here in a few lines."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey, OpenError

from agent.errors import CannotUnseal, EnrolmentError
from agent.journal.base import Claim
from agent.sealing import Seals
from protocol import limits, proofs, sealing
from protocol.codec import Record, encode
from protocol.messages import ColumnInfo, Completed, RowSetDone

# Not the implementation that the agent uses.
OTHER = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)
AGENT_KEY = X25519PrivateKey.generate()
CALLER_KEY = X25519PrivateKey.generate()
SECRET = bytes(range(32))
PARAMS = b'{"customer": "C042", "total": 12.50}'


def public(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def hpke_seal(data: bytes, to: bytes, info: bytes) -> bytes:
    share, context = OTHER.create_sender_context(KEMKey.from_pyca_cryptography_key(_public(to)), info=info)
    return share + context.seal(data)


def hpke_open(data: bytes, key: X25519PrivateKey, info: bytes) -> bytes:
    context = OTHER.create_recipient_context(data[:32], KEMKey.from_pyca_cryptography_key(key), info=info)
    return context.open(data[32:])


def _public(raw: bytes) -> X25519PublicKey:
    return X25519PublicKey.from_public_bytes(raw)


@dataclass
class Caller:
    """What a caller does: its own key, its secret, what it says of the command."""

    tenant: str = "acme"
    agent: str = "plant-1"
    operation: str = "open-invoices"
    seal_to: str = field(default_factory=lambda: sealing.key_text(public(CALLER_KEY)))

    def claim(self, *, to: bytes | None = None, **changed: Any) -> Claim:
        info = sealing.params_info(self.tenant, self.agent, self.operation, self.seal_to)
        text = sealing.params_text(hpke_seal(sealing.with_secret(SECRET, PARAMS), to or public(AGENT_KEY), info))
        claim = Claim("cmd_1", 2, "f", "open-invoices", "read", text.encode(), "c", 0.0, True, self.seal_to)
        return msgspec.structs.replace(claim, **changed)

    def opener(self, part: int, command_id: str = "cmd_1", secret: bytes = SECRET) -> sealing.Opener:
        def unwrap(epoch: int, wrapped: bytes) -> sealing.Cipher:
            info = sealing.result_info(self.tenant, self.agent, command_id, epoch)
            cipher = AESGCM(sealing.content_key(hpke_open(wrapped, CALLER_KEY, info), secret))
            return lambda nonce, data: cipher.decrypt(nonce, data, None)

        return sealing.Opener(part, unwrap)

    def end(self, outputs: bytes) -> dict[str, Any]:
        opener = self.opener(sealing.END)
        texts = list(opener.feed(base64.b64decode(json.loads(outputs)["sealed"], validate=True)))
        opener.close()
        assert opener.epoch == 2
        (text,) = texts
        found: dict[str, Any] = json.loads(text)
        return found


@pytest.fixture
def seals() -> Seals:
    return Seals(lambda: AGENT_KEY, lambda: ("acme", "plant-1"))


def test_parameters_reach_the_agent_digit_for_digit(seals: Seals) -> None:
    opened = seals.open(Caller().claim())
    assert opened.claim.params == PARAMS
    assert not opened.claim.sealed
    assert opened.seal is not None


def test_a_command_in_clear_stays_as_it_is(seals: Seals) -> None:
    claim = Claim("cmd_1", 1, "f", "echo", "read", b"{}", "", 0.0)
    opened = seals.open(claim)
    assert opened.claim is claim
    assert opened.seal is None


@pytest.mark.parametrize(
    ("caller", "changed"),
    [
        (Caller(tenant="other"), {}),
        (Caller(agent="plant-2"), {}),
        (Caller(operation="other"), {}),
        (Caller(), {"operation": "other"}),
        # A broker that wants the result for itself names its own key.
        (Caller(), {"seal_to": sealing.key_text(public(X25519PrivateKey.generate()))}),
        (Caller(), {"to": public(X25519PrivateKey.generate())}),
        (Caller(), {"params": b"ohs1." + b"A" * 200}),
        (Caller(), {"params": b""}),
        (Caller(), {"params": b"{}"}),
        (Caller(), {"params": "ohs1.é".encode()}),
        (Caller(), {"params": b"\xff" * 200}),
    ],
)
def test_what_was_sealed_for_something_else_is_refused(seals: Seals, caller: Caller, changed: dict[str, Any]) -> None:
    with pytest.raises(CannotUnseal, match="take its new key") as refused:
        seals.open(caller.claim(**changed))
    assert not refused.value.touched
    assert "C042" not in str(refused.value)


@pytest.mark.parametrize("at", [0, 31, 32, 60, -1])
def test_a_changed_byte_is_noticed(seals: Seals, at: int) -> None:
    claim = Caller().claim()
    sealed = bytearray(sealing.params_bytes(claim.params.decode()))
    sealed[at] ^= 1
    with pytest.raises(CannotUnseal):
        seals.open(msgspec.structs.replace(claim, params=sealing.params_text(bytes(sealed)).encode()))


@pytest.mark.parametrize("seal_to", ["", "x25519:short", sealing.key_text(bytes(32))])
def test_a_key_that_nothing_can_be_sealed_to_is_refused(seals: Seals, seal_to: str) -> None:
    with pytest.raises(CannotUnseal, match="seal_to"):
        seals.open(Caller(seal_to=seal_to).claim())


def test_an_agent_that_does_not_know_who_it_is_opens_nothing() -> None:
    def nobody() -> tuple[str, str]:
        raise EnrolmentError("identity.json: is damaged")

    with pytest.raises(CannotUnseal, match="damaged"):
        Seals(lambda: AGENT_KEY, nobody).open(Caller().claim())


@pytest.mark.parametrize("sealed", [True, False])
def test_rows_and_end_are_for_the_caller_alone(seals: Seals, sealed: bool) -> None:
    claim = Caller().claim() if sealed else Caller().claim(params=PARAMS, sealed=False)
    secret = SECRET if sealed else b""
    seal = seals.open(claim).seal
    assert seal is not None
    first, sealer = seal.row_set(1, [ColumnInfo("no", "string", "text")])
    data = first + sealer.frames(b'{"no":"4711"}\n') + sealer.frame(b"", last=True)
    opener = Caller().opener(1, secret=secret)
    columns, rows, nothing = opener.feed(data)
    opener.close()
    assert (json.loads(columns), rows, nothing) == (
        [{"name": "no", "type": "string", "source_type": "text"}],
        b'{"no":"4711"}\n',
        b"",
    )
    assert b"4711" not in data
    with pytest.raises(OpenError):
        list(Caller().opener(1, command_id="cmd_2", secret=secret).feed(data))
    # A broker that makes a result of its own can wrap a key, but not know the secret.
    with pytest.raises(InvalidTag):
        list(Caller().opener(1, secret=os.urandom(32)).feed(data))


def test_all_that_the_source_said_is_sealed_in_the_end(seals: Seals) -> None:
    seal = seals.open(Caller().claim()).seal
    assert seal is not None
    completed = Completed(
        "cmd_1",
        2,
        "rejected",
        row_sets=[RowSetDone(10, 3, "00")],
        error_kind="business",
        error_code="source_rejected",
        error_message="customer C042 is blocked",
        source_code="P0001",
        warnings=["C042 is late"],
    )
    told, outputs = seal.end(completed, b'{"order_no":"4711"}')
    assert (told.error_kind, told.error_code, told.row_sets) == ("business", "source_rejected", completed.row_sets)
    assert "only the caller can read it" in told.error_message
    assert (told.source_code, told.warnings) == ("", [])
    assert Caller().end(outputs) == {
        "outcome": "rejected",
        "outputs": {"order_no": "4711"},
        "error": {"code": "source_rejected", "message": "customer C042 is blocked", "source_code": "P0001"},
        "warnings": ["C042 is late"],
        "row_sets": [3],
    }


def test_a_success_has_no_error_and_each_attempt_a_key_of_its_own(seals: Seals) -> None:
    told = [seals.open(Caller().claim()).seal for _ in range(2)]
    ends = [seal.end(Completed("cmd_1", 2, "succeeded"), b"") for seal in told if seal is not None]
    assert [completed.error_message for completed, _ in ends] == ["", ""]
    assert [Caller().end(outputs) for _, outputs in ends] == [
        {"outcome": "succeeded", "outputs": None, "error": None, "warnings": [], "row_sets": []}
    ] * 2
    assert ends[0][1] != ends[1][1]


@pytest.mark.parametrize("sealed", [True, False])
def test_an_attempt_whose_end_could_not_be_sealed_is_not_begun(sealed: bool) -> None:
    seals = Seals(lambda: AGENT_KEY, lambda: ("acme", "plant-1"))
    caller = Caller()
    for epoch in (2**32 - 1, 2**32):
        claim = msgspec.structs.replace(caller.claim(), epoch=epoch)
        if not sealed:
            claim = msgspec.structs.replace(claim, params=PARAMS, sealed=False)
        if epoch < 2**32:
            seal = seals.open(claim).seal
            assert seal is not None
            assert b"sealed" in seal.end(Completed(claim.id, epoch, "succeeded"), b"{}")[1]
        else:
            with pytest.raises(CannotUnseal, match="attempt 4294967296 of it can't be sealed"):
                seals.open(claim)


def test_a_sealed_end_fits_a_message_whatever_the_erp_warned_of() -> None:
    seal = Seals(lambda: AGENT_KEY, lambda: ("acme", "plant-1")).open(Caller().claim()).seal
    assert seal is not None
    sets = [RowSetDone(2**40, 2**40, "a" * 64)] * limits.MAX_ROW_SETS
    warnings = ["\x01" * limits.MAX_ERROR_CHARS] * limits.MAX_WARNINGS
    outputs = json.dumps({"text": "y" * (limits.MAX_OUTPUT_BYTES - 20)}).encode()
    told, sealed = seal.end(Completed("cmd_1", 1, "succeeded", row_sets=sets, warnings=warnings), outputs)
    told = msgspec.structs.replace(told, proof="p" * proofs.MAX_PROOF_CHARS)
    assert len(encode(Record(told, sealed))) + limits.BATCH_BYTES <= limits.MAX_MESSAGE_BYTES
