"""A broker that shows the agent's proof of one request for another: who compares it with what he sent is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloud_broker.client.api import Outhaul
from cloud_broker.client.errors import WordsError
from cloud_broker.client.proofs import Sent, Verified
from protocol import proofs, signing
from protocol.messages import Completed
from tests.agent.test_dispatcher_signed import PARAMS, Plant, sign
from tests.cloud_broker.client.raw import RawServer, reply

OTHERS = b'{"customer":"C043"}'
NOW = int(time.time())
YOURS = sign("act", "yours", NOW, NOW + 600)
ANOTHER = sign("act", "another", NOW, NOW + 600)


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Plant]:
    made = Plant(tmp_path)
    await made.start()
    yield made
    await made.stop()


@contextmanager
def shown(ended: Completed, operation: str, outputs: bytes, **lies: Any) -> Iterator[Outhaul]:
    """A caller's broker that shows an end as that of the command that the caller asks for."""
    document = {
        "id": ended.id,
        "tenant": "acme",
        "agent": "plant-1",
        "operation": operation,
        "state": ended.outcome,
        "attempts": ended.epoch,
        "outputs": json.loads(outputs) if ended.outcome == "succeeded" else None,
        "error": {"code": ended.error_code} if ended.error_code else None,
        "signed": operation == "act",
        "proof": ended.proof,
    }
    body = json.dumps(document | lies, separators=(",", ":")).encode()
    with RawServer([reply(200, body)]) as server, closing(Outhaul(server.url, "key", tenant="acme")) as client:
        yield client


async def verified(
    plant: Plant, ended: Completed, sent: Sent | None, operation: str = "act", outputs: bytes = PARAMS, **lies: Any
) -> Verified:
    def verify() -> Verified:
        with shown(ended, operation, outputs, **lies) as client:
            return client.verify(ended.id, agent_key=plant.keys.public["sign"], sent=sent)

    return await asyncio.to_thread(verify)


async def test_the_proof_of_ones_own_request_fits(plant: Plant) -> None:
    ended = await plant.run("cmd_1", key="yours", signature=YOURS)
    for sent in (Sent(YOURS), Sent(YOURS, signing.params_digest(PARAMS)), Sent(None, signing.params_digest(PARAMS))):
        found = await verified(plant, ended, sent, signature_sha256=signing.signature_digest(YOURS))
        assert (found.problems, found.unproved) == ([], [])


async def test_without_ones_own_record_it_is_said_that_the_broker_alone_tells_whose_proof_it_is(plant: Plant) -> None:
    found = await verified(plant, await plant.run("cmd_1", key="yours", signature=YOURS), None)
    assert found.problems == []
    (unproved,) = found.unproved
    assert "only the broker says so" in unproved


Lie = Callable[[Plant], Awaitable[Completed]]


async def other_parameters(plant: Plant) -> Completed:
    now = int(time.time())
    signature = sign("act", "another", now, now + 600, OTHERS)
    return await plant.run("cmd_1", key="another", signature=signature, params=OTHERS)


async def same_parameters(plant: Plant) -> Completed:
    return await plant.run("cmd_1", key="another", signature=ANOTHER)


async def id_of_one_that_ran(plant: Plant) -> Completed:
    """The one that ran is told its end again, with the signature of the one that never did."""
    await plant.run("cmd_1", key="another", signature=ANOTHER)
    return await plant.run("cmd_1", epoch=2, key="yours", signature=YOURS)


async def changed_beside_the_signature(plant: Plant) -> Completed:
    return await plant.run("cmd_1", key="yours", signature=YOURS, params=OTHERS)


@pytest.mark.parametrize(
    ("lie", "outputs", "problems"),
    [
        (other_parameters, OTHERS, ["signature", "parameters"]),
        (same_parameters, PARAMS, ["signature"]),
        (id_of_one_that_ran, PARAMS, ["signature"]),
        (changed_beside_the_signature, OTHERS, ["parameters"]),
    ],
)
async def test_the_proof_of_another_command_is_refused(
    plant: Plant, lie: Lie, outputs: bytes, problems: list[str]
) -> None:
    ended = await lie(plant)
    found = await verified(plant, ended, Sent(YOURS), outputs=outputs, signature_sha256=signing.signature_digest(YOURS))
    assert [problem.partition(":")[0] for problem in found.problems] == problems
    assert all("this is the proof of another request" in problem for problem in found.problems)


async def test_the_proof_of_other_parameters_or_of_none_signed_is_refused(plant: Plant) -> None:
    ended = await plant.run("cmd_1", "free", signature="", params=OTHERS)
    found = await verified(plant, ended, Sent(None, signing.params_digest(PARAMS)), "free", OTHERS)
    assert [problem.partition(":")[0] for problem in found.problems] == ["parameters"]
    free = sign("free", "yours", NOW, NOW + 600, OTHERS)
    found = await verified(plant, ended, Sent(free), "free", OTHERS)
    assert [problem.partition(":")[0] for problem in found.problems] == ["signature"]


async def test_the_proof_of_another_operation_is_refused(plant: Plant) -> None:
    ended = await plant.run("cmd_1", "free", key="yours", signature=YOURS)
    found = await verified(plant, ended, Sent(YOURS), "free")
    assert "operation: you signed 'act', the agent 'free'" in found.problems


async def test_a_signature_that_the_broker_tells_otherwise_is_a_lie(plant: Plant) -> None:
    ended = await plant.run("cmd_1", key="another", signature=ANOTHER)
    found = await verified(plant, ended, None, signature_sha256=signing.signature_digest(YOURS))
    assert found.problems == ["signature: the agent was given another than the broker tells"]


async def test_a_proof_of_an_earlier_release_is_no_proof_of_a_request(plant: Plant) -> None:
    completed = Completed("cmd_1", 1, "succeeded")
    payload = proofs.result_payload("acme", "plant-1", "act", completed, PARAMS, NOW)
    signed = signing.signing_input(proofs.RESULT, "plant-1", payload)
    old = Completed("cmd_1", 1, "succeeded", proof=signing.compact(signed, plant.keys.sign.sign(signed)))
    found = await verified(plant, old, Sent(YOURS))
    assert len(found.problems) == 2
    assert all("agents of earlier releases" in problem for problem in found.problems)
    found = await verified(plant, old, None)
    assert (found.problems, len(found.unproved)) == ([], 3)


async def test_what_is_no_signature_of_a_command_is_compared_with_nothing(plant: Plant) -> None:
    ended = await plant.run("cmd_1")
    for wrong in (ended.proof, "", "e30.e30.e30"):
        with pytest.raises(WordsError, match="no signature of a command"):
            await verified(plant, ended, Sent(wrong))
