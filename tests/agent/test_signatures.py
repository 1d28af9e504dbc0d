"""Which signatures an agent takes: every field that was signed, bent in every way, is refused with its reason."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent import errors
from agent.config_file import parse
from agent.identity.keys import open_keys
from agent.journal.base import Claim
from agent.policy import judge
from agent.secrets import open_store
from agent.settings import Settings
from agent.signatures import End, Signatures, Signed, params_sha256
from protocol import proofs, signing
from protocol.messages import Completed, Run
from protocol.signing import SKEW_S
from tests.agent.signers import CLAIMS, NOW, PARAMS, Caller, encoded, run

SHOP = Caller()
OTHER = Caller("other", b"o")
FILE = f"""
agent     = "plant-1"
state_dir = "state"
[policy]
require_signature = ["order"]
groups = ["plants"]
[policy.trusted_signers]
web-shop = "{SHOP.public}"
other    = "{OTHER.public}"
rotating = [
  {{ key = "{Caller("rotating", b"1").public}", not_after = 2026-09-21T00:00:00Z }},
  {{ key = "{Caller("rotating", b"2").public}", not_before = 2026-09-20T00:00:00Z }},
]
[connections.probe]
type = "synthetic"
[operations.order]
connection = "probe"
synthetic  = "echo"
[operations.report]
connection = "probe"
synthetic  = "echo"
allow      = ["other"]
[operations.free]
connection = "probe"
synthetic  = "echo"
version    = "2026-01"
"""
SETTINGS = parse(FILE, "agent.toml")


def who() -> tuple[str, str]:
    return "acme", "plant-1"


def check(command: Run, params: bytes = PARAMS, now: float = NOW, settings: Settings = SETTINGS) -> Signed | None:
    return Signatures(settings, who).check(command, params, settings.operations[command.operation], now)


def refused(kind: type[errors.SignatureError], command: Run, params: bytes = PARAMS, now: float = NOW) -> str:
    """The text of a refusal, which never had an effect and is the operator's policy."""
    with pytest.raises(errors.SignatureError) as caught:
        check(command, params, now)
    assert type(caught.value) is kind, caught.value.message
    assert not caught.value.touched
    verdict = judge(caught.value, "at-most-once", cancelled=False)
    assert (verdict.outcome, verdict.kind, verdict.code) == ("failed", "policy", kind.code)
    return caught.value.message


def test_what_a_trusted_caller_signed_may_run() -> None:
    signed = check(run(SHOP.sign()))
    assert signed is not None
    assert signed.signer == "web-shop"
    assert signed.shown.id == "cmd_1"
    assert signed.shown.until == CLAIMS.exp + SKEW_S


def test_how_the_parameters_are_written_makes_no_difference_and_their_digits_do() -> None:
    assert check(run(SHOP.sign()), b'{"total":10.50,"customer":"C\\u0030\\u00342"}') is not None
    text = refused(errors.SignatureInvalid, run(SHOP.sign()), b'{"customer":"C042","total":10.5}')
    assert "params_sha256: signed for" in text


DROPS = """
[connections.edi]
type = "file"
root = "edi"
[operations.pay]
connection = "edi"
effect     = "once"
drop       = "{no}.csv"
format     = { type = "csv", header = false }
[operations.named]
connection = "edi"
effect     = "once"
drop       = "{no}.csv"
format     = { type = "csv", columns = ["to", "from"] }
"""


@pytest.mark.parametrize(
    ("operation", "rows", "taken"),
    [
        ("pay", b'[{"from":"A","to":"B"},{"to":"B","from":"A"}]', True),
        ("pay", b'[{"to":"B","from":"A"}]', False),
        ("named", b'[{"to":"B","from":"A"}]', True),
        ("named", b'[{"from":"A","to":"B"}]', True),
        ("pay", b"[]", True),
        ("pay", b"7", True),
    ],
)
def test_columns_whose_order_nobody_signed_are_not_written_in_another(operation: str, rows: bytes, taken: bool) -> None:
    settings, params = parse(FILE + DROPS, "agent.toml"), b'{"no":"1","rows":' + rows + b"}"
    signature = SHOP.sign(operation=operation, params_sha256=signing.params_digest(params))
    if taken:
        assert check(run(signature, operation=operation), params, settings=settings) is not None
        return
    with pytest.raises(errors.SignatureInvalid, match=r"operations\.pay\.format\.columns"):
        check(run(signature, operation=operation), params, settings=settings)


def test_where_no_rule_wants_a_signature_none_is_needed_and_a_wrong_one_is_refused() -> None:
    assert check(run("", operation="free")) is None
    assert check(run(SHOP.sign(operation="free", version="2026-01"), operation="free")) is not None
    refused(errors.SignatureInvalid, run(SHOP.sign(), operation="free"))


@pytest.mark.parametrize(
    ("operation", "rule"), [("order", r"(policy.require_signature)"), ("report", "(operations.report.allow)")]
)
def test_without_a_signature_the_rule_and_both_ways_out_are_told(operation: str, rule: str) -> None:
    text = refused(errors.SignatureMissing, run("", operation=operation))
    assert rule in text
    assert "outhaul call --sign-with KEYFILE" in text
    assert "an operator allows it without by taking it out of there" in text


def test_only_the_callers_that_an_operation_allows_may_have_it_run() -> None:
    assert check(run(OTHER.sign(operation="report"), operation="report")) is not None
    text = refused(errors.CallerNotAllowed, run(SHOP.sign(operation="report"), operation="report"))
    assert "'web-shop' signed it, and it may be run by other only (operations.report.allow)" in text
    assert "adding 'web-shop' there" in text


def test_a_caller_that_the_file_does_not_name_is_told_who_is() -> None:
    text = refused(errors.SignerUnknown, run(Caller("stranger", b"s").sign()))
    assert "'stranger'" in text
    assert "web-shop, other, rotating (policy.trusted_signers)" in text
    assert "outhaul keygen" in text


# --- each thing that was signed --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tenant", "globex"),
        ("tenant", "Acme"),
        ("tenant", "acme "),
        ("agent", "plant-2"),
        ("agent", "plant\u20101"),
        ("operation", "free"),
        ("version", "2"),
        ("version", "01"),
        ("params_sha256", "0" * 64),
        ("params_sha256", CLAIMS.params_sha256.upper()),
        ("idempotency_key", "order-4712"),
        ("idempotency_key", "ORDER-4711"),
    ],
)
def test_what_was_signed_for_something_else_is_refused(name: str, value: str) -> None:
    text = refused(errors.SignatureInvalid, run(SHOP.sign(CLAIMS, **{name: value})))
    assert f"{name}: signed for" in text
    assert "sign the command anew" in text


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"operation": "free"}, "operation"),
        ({"idempotency_key": "order-4712"}, "idempotency_key"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"seal_to": "x25519:" + "A" * 43 + "="}, "seal_to"),
        ({"sealed": True}, "params_sha256"),
    ],
)
def test_what_a_broker_changes_beside_the_signature_is_refused(changes: dict[str, Any], name: str) -> None:
    assert f"{name}: signed for" in refused(errors.SignatureInvalid, run(SHOP.sign(), **changes))


def test_parameters_that_two_readers_could_take_differently_are_refused() -> None:
    assert "stands twice" in refused(errors.SignatureInvalid, run(SHOP.sign()), b'{"customer":"a","customer":"C042"}')


def test_another_tenants_agent_of_the_same_name_refuses() -> None:
    with pytest.raises(errors.SignatureInvalid, match="tenant: signed for 'acme', and here it is 'globex'"):
        Signatures(SETTINGS, lambda: ("globex", "plant-1")).check(
            run(SHOP.sign()), PARAMS, SETTINGS.operations["order"], NOW
        )


def test_an_agent_that_does_not_know_whose_it_is_takes_none() -> None:
    with pytest.raises(errors.SignatureInvalid, match="tenant"):
        Signatures(SETTINGS).check(run(SHOP.sign()), PARAMS, SETTINGS.operations["order"], NOW)


def test_sealed_parameters_are_signed_as_they_are_sent() -> None:
    sealed, to = b"ohs1.AAAA", "x25519:" + "A" * 43 + "="
    claims = msgspec.structs.replace(CLAIMS, params_sha256=signing.sealed_digest(sealed), seal_to=to)
    assert check(run(SHOP.sign(claims), sealed=True, seal_to=to), sealed) is not None
    other = "x25519:" + "B" * 42 + "A="
    assert "seal_to" in refused(errors.SignatureInvalid, run(SHOP.sign(claims), sealed=True, seal_to=other), sealed)


def test_a_group_must_be_one_that_the_file_names_and_the_one_that_was_asked_for() -> None:
    claims = msgspec.structs.replace(CLAIMS, agent=None, group="plants")
    assert check(run(SHOP.sign(claims), group="plants")) is not None
    assert "group: signed for" in refused(errors.SignatureInvalid, run(SHOP.sign(claims), group="plants-2"))
    text = refused(errors.SignatureInvalid, run(SHOP.sign(claims, group="shops"), group="shops"))
    assert "'shops', which this agent does not serve (policy.groups)" in text


@pytest.mark.parametrize("name", sorted(json.loads(signing.command_payload(CLAIMS))))
@pytest.mark.parametrize("bend", ["removed", "emptied", "doubled", "of another type", "spelled otherwise"])
def test_a_payload_with_a_member_that_was_bent_is_refused(name: str, bend: str) -> None:
    def change(members: dict[str, Any]) -> Any:
        if bend == "removed":
            del members[name]
        elif bend == "emptied":
            members[name] = ""
        elif bend == "doubled":
            member = json.dumps({name: members[name]}, separators=(",", ":"))[1:-1]
            return signing.command_payload(CLAIMS).replace(member.encode(), f"{member},{member}".encode())
        elif bend == "of another type":
            members[name] = [members[name]]
        else:
            members[name.upper()] = members.pop(name)
        return None

    assert "what was signed can't be read" in refused(errors.SignatureInvalid, run(SHOP.bent(change)))


@pytest.mark.parametrize(
    "bend",
    [
        lambda members: members.update(more=1),
        lambda members: members.update(group="plants"),
        lambda members: json.dumps(members).encode(),
        lambda members: json.dumps(dict(reversed(members.items())), separators=(",", ":")).encode(),
        lambda members: members.update(v=2),
        lambda members: members.update(nbf=float(NOW)),
        lambda members: b"[]",
        lambda members: b"",
        lambda members: b"\xff",
    ],
    ids=["more", "agent and group", "spaces", "reordered", "later version", "float", "list", "nothing", "no UTF-8"],
)
def test_a_payload_that_is_not_exactly_what_is_signed_is_refused(bend: Callable[[dict[str, Any]], Any]) -> None:
    refused(errors.SignatureInvalid, run(SHOP.bent(bend)))


# --- the header, and the signature itself -----------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        b'{"alg":"none","kid":"web-shop","typ":"outhaul-command+jws"}',
        b'{"alg":"HS256","kid":"web-shop","typ":"outhaul-command+jws"}',
        b'{"alg":"ES256","kid":"web-shop","typ":"outhaul-command+jws"}',
        b'{"alg":"Ed25519","kid":"web-shop","typ":"outhaul-result+jws"}',
        b'{"alg":"Ed25519","kid":"web-shop","typ":"JWT"}',
        b'{"alg":"Ed25519","crit":["exp"],"kid":"web-shop","typ":"outhaul-command+jws"}',
        b'{"alg":"Ed25519","kid":"","typ":"outhaul-command+jws"}',
        b'{"alg":"Ed25519","kid":["web-shop"],"typ":"outhaul-command+jws"}',
        b'{"alg":"Ed25519","typ":"outhaul-command+jws"}',
        b'{"alg":"Ed25519","kid":"stranger","kid":"web-shop","typ":"outhaul-command+jws"}',
        b'{"kid":"web-shop","alg":"Ed25519","typ":"outhaul-command+jws"}',
        b'{"alg":"Ed25519","jku":"https://example.com","kid":"web-shop","typ":"outhaul-command+jws"}',
    ],
)
def test_another_header_is_refused_though_the_signature_fits_it(header: bytes) -> None:
    signature = SHOP.sign_bytes(signing.command_payload(CLAIMS), header=header)
    assert "it can't be read" in refused(errors.SignatureInvalid, run(signature))


def test_the_older_name_of_the_algorithm_is_taken() -> None:
    header = b'{"alg":"EdDSA","kid":"web-shop","typ":"outhaul-command+jws"}'
    assert check(run(SHOP.sign_bytes(signing.command_payload(CLAIMS), header=header))) is not None


def test_an_unsigned_header_of_the_long_form_is_refused() -> None:
    header, payload, signature = SHOP.sign().split(".")
    flattened = {"protected": header, "payload": payload, "signature": signature, "header": {"kid": "other"}}
    refused(errors.SignatureInvalid, run(json.dumps(flattened)))


@pytest.mark.parametrize("part", [0, 1, 2])
def test_one_bit_that_differs_anywhere_is_refused(part: int) -> None:
    parts = SHOP.sign().split(".")
    raw = bytearray(base64.urlsafe_b64decode(parts[part] + "=="))
    for place in range(len(raw)):
        raw[place] ^= 1
        bent = [*parts]
        bent[part] = encoded(bytes(raw))
        with pytest.raises(errors.SignatureError):
            check(run(".".join(bent)))
        raw[place] ^= 1


@pytest.mark.parametrize("signature", ["x", ".", "..", "...", "a.b.c", "none", " ", "é", "0" * 4000])
def test_what_is_no_signature_is_refused(signature: str) -> None:
    refused(errors.SignatureInvalid, run(signature))


def test_the_signature_of_one_caller_under_the_name_of_another_is_refused() -> None:
    thief = Caller("web-shop", b"o")
    text = refused(errors.SignatureInvalid, run(thief.sign()))
    assert "not made with the key of 'web-shop'" in text
    header, payload, _ = SHOP.sign().split(".")
    refused(errors.SignatureInvalid, run(f"{header}.{payload}.{OTHER.sign().split('.')[2]}"))


@pytest.mark.parametrize("signature", [bytes(64), b"\x01" + bytes(63), b"\xff" * 64])
def test_an_empty_signature_is_none(signature: bytes) -> None:
    header, payload, _ = SHOP.sign().split(".")
    refused(errors.SignatureInvalid, run(f"{header}.{payload}.{encoded(signature)}"))


def test_a_key_that_fits_every_signature_can_not_stand_in_the_file() -> None:
    empty = "ed25519:" + base64.b64encode(b"\x01" + bytes(31)).decode()
    with pytest.raises(errors.ConfigError, match="with which anybody can sign"):
        parse(FILE.replace(SHOP.public, empty), "agent.toml")


# --- times ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("now", [CLAIMS.nbf - SKEW_S, CLAIMS.nbf, CLAIMS.exp, CLAIMS.exp + SKEW_S])
def test_clocks_may_differ_a_little(now: float) -> None:
    assert check(run(SHOP.sign()), now=now) is not None


def test_after_its_end_it_is_told_how_far_the_clocks_are_apart() -> None:
    text = refused(errors.SignatureExpired, run(SHOP.sign()), now=CLAIMS.exp + SKEW_S + 1)
    assert "was valid until 2026-09-21T14:23:20Z, 5 minutes ago by this agent's clock" in text
    assert "the clocks of caller and agent may differ by 5 minutes" in text


def test_before_its_beginning_likewise() -> None:
    text = refused(errors.SignatureNotYetValid, run(SHOP.sign()), now=CLAIMS.nbf - 7_200)
    assert "is valid from 2026-09-21T14:12:20Z, which is 2 hours later than 2026-09-21T12:12:20Z" in text


def test_a_signature_that_ended_while_it_waited_is_told_so() -> None:
    signed = check(run(SHOP.sign()))
    assert signed is not None
    signed.still_valid(CLAIMS.exp + SKEW_S)
    with pytest.raises(errors.SignatureExpired):
        signed.still_valid(CLAIMS.exp + SKEW_S + 1)


def test_a_key_is_good_for_its_time_and_the_next_one_takes_over() -> None:
    old, new = Caller("rotating", b"1"), Caller("rotating", b"2")
    assert check(run(new.sign())) is not None
    text = refused(errors.SignatureExpired, run(old.sign()))
    assert "the key of 'rotating' (policy.trusted_signers, not_after) was valid until 2026-09-21T00:00:00Z" in text
    then = NOW - 7 * 86_400
    early = msgspec.structs.replace(CLAIMS, nbf=then, exp=then + 600)
    assert check(run(old.sign(early)), now=then) is not None
    text = refused(errors.SignatureNotYetValid, run(new.sign(early)), now=then)
    assert "not_before" in text
    refused(errors.SignatureInvalid, run(Caller("rotating", b"3").sign()))


# --- the agent's own --------------------------------------------------------------------------------


def test_an_end_is_proved_with_the_agents_key(tmp_path: Any) -> None:
    keys = open_keys(tmp_path, open_store(Settings(agent="plant-1", state_dir=str(tmp_path))))
    completed = Completed("cmd_1", 2, "succeeded", position=7, head="ab")
    claim = Claim("cmd_1", 2, "", "order", "once", b"{}", "", NOW, params_sha256="cd", signature_sha256="")
    (proved,) = Signatures(SETTINGS, who, keys).proved([End(claim, completed, b"{}")], NOW + 0.9, shared=True)
    jws = proofs.parse(proved.proof)
    assert jws.kid == "plant-1"
    public = Ed25519PublicKey.from_public_bytes(signing.public_key_bytes(keys.public["sign"]))
    public.verify(jws.signature, jws.signed)
    assert jws.payload == proofs.result_payload(
        "acme", "plant-1", "order", completed, b"{}", NOW, params_sha256="cd", signature_sha256=""
    )
    with pytest.raises(signing.SignatureMalformed):
        signing.parse(proved.proof, signing.COMMAND)


def test_without_keys_nothing_is_proved() -> None:
    completed = Completed("cmd_1", 1, "succeeded")
    claim = Claim("cmd_1", 1, "", "order", "once", b"{}", "", NOW)
    (proved,) = Signatures(SETTINGS, who).proved([End(claim, completed, b"{}")], NOW, shared=True)
    assert proved is completed


def test_the_digest_of_parameters_is_the_one_that_a_caller_signs() -> None:
    assert params_sha256(run(""), b'{"total":10.50,"customer":"C042"}') == CLAIMS.params_sha256
    assert params_sha256(run("", sealed=True), b"sealed text") == signing.sealed_digest(b"sealed text")
    assert params_sha256(run(""), b'{"a":1,"a":2}') == ""
