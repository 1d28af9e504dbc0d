"""Every refusal says which rule of the operator's file it is, and how an operator would allow it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from agent import errors, leaving, pauses
from agent.config_file import parse
from agent.connectors.odbc import pins
from agent.connectors.odbc.dialects import Argument, Routine
from agent.pauses import Pause
from agent.policy import _REFUSALS, fits, permitted
from agent.settings import ProcedureOperation
from agent.signatures import Signatures
from tests.agent.signers import NOW, PARAMS, Caller, run

SHOP, OTHER, OLD = Caller(), Caller("other", b"o"), Caller("old", b"x")
SETTINGS = parse(
    f"""
agent = "plant-1"
state_dir = "state"
[policy]
require_signature = ["order"]
[policy.trusted_signers]
web-shop = "{SHOP.public}"
other = "{OTHER.public}"
old = {{ key = "{OLD.public}", not_after = 2001-01-01T00:00:00Z }}
[connections.erp]
type = "odbc"
connection_string = "Driver=SQLite3"
[connections.probe]
type = "synthetic"
[operations.order]
connection = "probe"
synthetic = "echo"
[operations.report]
connection = "probe"
synthetic = "echo"
allow = ["other"]
[operations.rate]
connection = "erp"
procedure = "rate"
pin = "sha256:{"0" * 64}"
params = {{ no = {{ type = "integer", max = 9 }} }}
""",
    "agent.toml",
)
OTHERS = Routine("procedure", (Argument("no", "in", "bigint"),))


def _signed(operation: str, signature: str) -> None:
    signatures = Signatures(SETTINGS, lambda: ("acme", "plant-1"))
    signatures.check(run(signature, operation=operation), PARAMS, SETTINGS.operations[operation], NOW)


def _raise(error: errors.CommandError) -> None:
    raise error


def _changed(routine: Routine | None) -> None:
    operation = SETTINGS.operations["rate"]
    assert isinstance(operation, ProcedureOperation)
    raise errors.ProcedureChanged(pins.flaw("rate", operation, routine), touched=False)


def _paused(connection: str) -> None:
    raise errors.Paused(pauses.refusal("erp", Pause(connection, "stocktaking", "maria", NOW)), touched=False)


RULES: list[tuple[type[errors.CommandError], Callable[[], Any], str]] = [
    (errors.OperationUnknown, lambda: permitted(SETTINGS, "nowhere"), "operations"),
    (
        errors.ParametersInvalid,
        lambda: fits("rate", SETTINGS.operations["rate"], b'{"no":10}'),
        "operations.rate.params",
    ),
    (errors.ParametersInvalid, lambda: fits("rate", SETTINGS.operations["rate"], b'{"x":1}'), "operations.rate.params"),
    (errors.SignatureMissing, lambda: _signed("order", ""), "policy.require_signature"),
    (errors.SignatureMissing, lambda: _signed("report", ""), "operations.report.allow"),
    (errors.CallerNotAllowed, lambda: _signed("report", SHOP.sign(operation="report")), "operations.report.allow"),
    (errors.SignerUnknown, lambda: _signed("order", Caller("nobody", b"n").sign()), "policy.trusted_signers"),
    (errors.SignatureInvalid, lambda: _signed("order", Caller(seed=b"n").sign()), "policy.trusted_signers"),
    (errors.SignatureInvalid, lambda: _signed("order", SHOP.sign(agent=None, group="east")), "policy.groups"),
    (errors.SignatureExpired, lambda: _signed("order", OLD.sign()), "policy.trusted_signers"),
    (errors.ProcedureChanged, lambda: _changed(OTHERS), "operations.rate.pin"),
    (errors.ProcedureChanged, lambda: _changed(None), "operations.rate.pin"),
    (errors.TooManyRows, lambda: _raise(leaving.too_many("rate", 5)), "operations.rate.max_rows"),
    (errors.Paused, lambda: _paused("erp"), "outhaul-agent pause"),
    (errors.Paused, lambda: _paused(pauses.EVERY), "outhaul-agent pause"),
]

# No rule of the file forbids these; what to do instead is the caller's, and stands in their tests.
NO_RULE = {
    errors.SignatureNotYetValid,
    errors.SignatureReplayed,
    errors.SignatureMemoryFull,
    errors.JournalConflict,
    errors.CannotUnseal,
    errors.NotAllowed,  # of the database: tests/agent/connectors/test_ledger_refusals.py
}


@pytest.mark.parametrize(
    ("kind", "refused", "rule"), RULES, ids=[f"{kind.code}-{number}" for number, (kind, _, _) in enumerate(RULES)]
)
def test_a_refusal_names_its_rule_and_how_an_operator_would_allow_it(
    kind: type[errors.CommandError], refused: Callable[[], Any], rule: str
) -> None:
    with pytest.raises(errors.CommandError) as caught:
        refused()
    text = caught.value.message
    assert type(caught.value) is kind, text
    assert f"({rule}" in text, text
    assert re.search(r"\ban operator (allows|adds|puts|sets) ", text), text
    assert len(text) < 1_000


def test_the_table_has_every_refusal() -> None:
    kinds = {kind for base in _REFUSALS for kind in (base.__subclasses__() or [base])} | {errors.Paused}
    assert kinds == {kind for kind, _, _ in RULES} | NO_RULE
