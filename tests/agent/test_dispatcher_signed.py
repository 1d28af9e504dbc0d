"""Signed commands through the dispatcher: what a broker that lies gets for them, and what is kept."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.connectors.base import Connector, DriverSetup
from agent.connectors.synthetic import SyntheticConnector
from agent.dispatcher import Dispatcher, Silence
from agent.identity.keys import open_keys
from agent.journal.base import Claim
from agent.journal.file import FileJournal
from agent.secrets import open_store
from agent.settings import Settings
from agent.settings_reader import read
from agent.signatures import Signatures
from agent.spool import SpoolFolder
from protocol import proofs, signing
from protocol.messages import PROOFS, Completed, Run
from protocol.signing import CommandClaims
from tests.agent.signers import Caller
from tests.waiting import until

SHOP = Caller()
PARAMS = b'{"customer":"C042"}'
SETTINGS = read(
    {
        "agent": "plant-1",
        "state_dir": "state",
        "policy": {"require_signature": ["act", "read", "verified"], "trusted_signers": {"web-shop": SHOP.public}},
        "connections": {"probe": {"type": "synthetic"}},
        "operations": {
            "act": {"connection": "probe", "synthetic": "echo", "effect": "at-most-once"},
            "read": {"connection": "probe", "synthetic": "echo", "effect": "read"},
            "free": {"connection": "probe", "synthetic": "echo", "effect": "at-most-once"},
            "verified": {"connection": "probe", "synthetic": "rows", "effect": "at-most-once", "verify": "seen"}
            | {"params": {"count": {"type": "integer"}}},
            "seen": {"connection": "probe", "synthetic": "rows", "effect": "read"}
            | {"params": {"count": {"type": "integer"}}},
        },
    },
    Settings,
)


class Plant:
    """An agent's commands over a journal in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.keys = open_keys(folder, open_store(Settings(agent="plant-1", state_dir=str(folder))))

    async def start(self, remembers: int = 10_000) -> None:
        self.journal = await FileJournal.open(self._folder, remembers=remembers)
        connection = SETTINGS.connections["probe"]
        connectors: dict[str, Connector] = {
            "probe": SyntheticConnector(DriverSetup("probe", connection, dict(SETTINGS.operations)))
        }
        self.dispatcher = Dispatcher(
            SETTINGS,
            connectors,
            self.journal,
            SpoolFolder(self._folder / "spool"),
            Signatures(SETTINGS, lambda: ("acme", "plant-1"), self.keys),
        )
        self.dispatcher.recover()

    async def stop(self) -> None:
        await self.dispatcher.stop()
        await self.journal.close()

    async def restart(self, remembers: int = 10_000) -> None:
        await self.stop()
        await self.start(remembers)

    async def run(self, command_id: str, operation: str = "act", *, epoch: int = 1, **more: Any) -> Completed:
        """Deliver a command as a broker does, and return its end once that is acknowledged, if it is to be."""
        key = more.pop("key", "order-4711")
        now = int(time.time())
        signature = more.pop("signature", sign(operation, key, now, now + 600))
        settles = more.pop("settles", 0)
        run = Run(command_id, epoch, operation, 60.0, 0, idempotency_key=key, signature=signature, settles=settles)
        self.dispatcher.offer(run, more.pop("params", PARAMS))
        ended = await self.ended(command_id)
        if more.pop("acknowledged", True):
            self.dispatcher.forget(command_id)
        return ended

    async def ended(self, command_id: str) -> Completed:
        """Return how a command ended that is still held."""
        running = self.dispatcher._commands[command_id]
        await until(lambda: running.result.ended)
        ended = running.result.last
        assert ended is not None
        return ended


def sign(operation: str, key: str, nbf: int, exp: int, params: bytes = PARAMS) -> str:
    claims = CommandClaims("acme", operation, "1", signing.params_digest(params), key, nbf, exp, agent="plant-1")
    return SHOP.sign(claims)


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Plant]:
    made = Plant(tmp_path)
    await made.start()
    yield made
    await made.stop()


@pytest.mark.parametrize("operation", ["act", "read"])
async def test_what_was_signed_runs_once_under_one_id_whatever_is_restarted(plant: Plant, operation: str) -> None:
    assert (await plant.run("cmd_1", operation)).outcome == "succeeded"
    for _ in range(2):
        refused = await plant.run("cmd_2", operation)
        assert (refused.outcome, refused.error_kind, refused.error_code) == ("failed", "policy", "signature_replayed")
        assert not refused.touched
        assert plant.journal.find("cmd_2") is None or operation == "read"
        await plant.restart()


async def test_the_same_command_may_come_again_and_is_told_its_end(plant: Plant) -> None:
    await plant.run("cmd_1")
    again = await plant.run("cmd_1", epoch=2)
    assert again.outcome == "succeeded"
    assert "not run again" in again.warnings[0]


async def test_a_read_that_comes_again_is_run_again(plant: Plant) -> None:
    await plant.run("cmd_1", "read")
    again = await plant.run("cmd_1", "read", epoch=2)
    assert (again.outcome, again.warnings) == ("succeeded", [])


async def test_a_fresh_signature_with_the_key_of_before_is_no_way_round(plant: Plant) -> None:
    await plant.run("cmd_1")
    now = int(time.time())
    refused = await plant.run("cmd_2", signature=sign("act", "order-4711", now - 5, now + 6_000))
    assert refused.error_code == "signature_replayed"


async def test_a_command_that_the_journal_has_forgotten_is_in_doubt_and_not_run_again(plant: Plant) -> None:
    await plant.restart(remembers=2)
    await plant.run("cmd_1", key="first")
    for number in range(2, 6):
        await plant.run(f"cmd_{number}", key=str(number))
    assert plant.journal.find("cmd_1") is None
    again = await plant.run("cmd_1", epoch=2, key="first")
    assert (again.outcome, again.error_code, again.touched) == ("in_doubt", "outcome_unknown", True)


async def test_what_was_refused_for_its_signature_is_no_claim_on_it(plant: Plant) -> None:
    now = int(time.time())
    expired = await plant.run("cmd_1", signature=sign("act", "order-4711", now - 9_000, now - 8_000))
    assert expired.error_code == "signature_expired"
    assert (await plant.run("cmd_2")).outcome == "succeeded"


class Hearer(Silence):
    """A link to a broker that can do something besides."""

    def __init__(self, *features: str) -> None:
        self.features = frozenset(features)


@pytest.mark.parametrize(("features", "signatures"), [((PROOFS,), 1), ((), 5)])
async def test_ends_of_one_round_share_a_signature_where_the_broker_takes_it(
    plant: Plant, features: tuple[str, ...], signatures: int
) -> None:
    plant.dispatcher.linked(Hearer(*features))
    ids = [f"cmd_{number}" for number in range(5)]
    for one in ids:  # what nobody signed ends at once
        plant.dispatcher.offer(Run(one, 1, "act", 60.0, 0), PARAMS)
    ended = [await plant.ended(one) for one in ids]
    assert [said(one)["command_id"] for one in ended] == ids
    assert {one.error_code for one in ended} == {"signature_missing"}
    assert len({one.proof.partition("~")[0] for one in ended}) == signatures
    for jws in (proofs.parse(one.proof) for one in ended):
        plant.keys.sign.public_key().verify(jws.signature, jws.signed)


def said(ended: Completed) -> dict[str, Any]:
    """What the agent's proof says, but when and where in its journal."""
    found = proofs.read_result(proofs.parse(ended.proof).payload)
    return {name: value for name, value in found.items() if name not in ("at", "position", "head")}


@pytest.mark.parametrize("operation", ["act", "free"])
async def test_a_proof_names_its_request_and_is_the_same_after_a_restart(plant: Plant, operation: str) -> None:
    now = int(time.time())
    signature = sign(operation, "k", now, now + 600) if operation == "act" else ""
    before = said(await plant.run("cmd_1", operation, key="k", signature=signature, acknowledged=False))
    assert before["params_sha256"] == signing.params_digest(PARAMS)
    assert before["signature_sha256"] == signing.signature_digest(signature)
    await plant.restart()
    assert said(await plant.ended("cmd_1")) == before


async def test_a_refusal_names_its_request_too(plant: Plant) -> None:
    refused = await plant.run("cmd_1", signature="e30.e30.e30")
    assert refused.error_code == "signature_invalid"
    assert said(refused)["signature_sha256"] == signing.signature_digest("e30.e30.e30")


async def test_what_is_settled_for_a_lost_agent_is_proved_without_a_signature(plant: Plant) -> None:
    """A broker could give another signed command of the same parameters the lost one's id."""
    params, now = b'{"count":1}', int(time.time())
    signature = sign("verified", "k", now, now + 600, params)
    ended = await plant.run("cmd_1", "verified", epoch=2, settles=1, key="k", signature=signature, params=params)
    assert ended.outcome == "succeeded", ended
    proof = said(ended)
    assert proof["params_sha256"] == signing.params_digest(params)
    assert "signature_sha256" not in proof


async def test_an_end_of_a_journal_of_before_does_not_say_what_is_not_known(plant: Plant) -> None:
    await plant.journal.begin(Claim("cmd_1", 1, "", "act", "at-most-once", PARAMS, "", time.time()))
    await plant.journal.end("cmd_1", Completed("cmd_1", 1, "succeeded"), PARAMS, time.time())
    await plant.restart()
    assert not {"params_sha256", "signature_sha256"} & set(said(await plant.ended("cmd_1")))


async def test_who_signed_it_stands_in_the_journal(plant: Plant) -> None:
    await plant.run("cmd_1")
    entry = plant.journal.find("cmd_1")
    assert entry is not None
    assert entry.claim.signer == "web-shop"
