"""``outhaul approvals`` against a real broker on which dangerous acts want two people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from cloud_broker.client.api import Outhaul as Client
from cloud_broker.client.errors import ProblemError, SecondPersonWanted
from cloud_broker.settings import ApprovalSettings
from tests.cloud_broker.client.broker import Broker
from tests.cloud_broker.client.conftest import BEHAVIOURS, OPERATIONS, Here


@dataclass
class People:
    """Two people and their clients."""

    broker: Broker
    ada: Client
    bob: Client

    def as_bob(self) -> dict[str, str]:
        """Return the environment in which ``outhaul`` is Bob's."""
        return {"OUTHAUL_URL": self.broker.url, "OUTHAUL_KEY": self.broker.add_key("*", owner="Bob")}

    def as_ada(self) -> dict[str, str]:
        """Return the environment in which ``outhaul`` is Ada's."""
        return {"OUTHAUL_URL": self.broker.url, "OUTHAUL_KEY": self.broker.add_key("*", owner="Ada")}

    def doubtful(self) -> str:
        """Let a command be in doubt and return its id."""
        return self.ada.call("plant-1", "ends", {"as": "in_doubt"}, wait_s=20).id


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """A broker where resolving and replaying many want two people."""
    settings = ApprovalSettings(required=("resolve", "bulk_replay"))
    with Broker(tmp_path_factory.mktemp("broker"), approvals=settings).running() as broker:
        broker.enrol("plant-1")
        broker.link("plant-1", OPERATIONS, BEHAVIOURS)
        keys = [broker.add_key("*", owner=owner) for owner in ("Ada", "Bob")]
        with Client(broker.url, keys[0]) as ada, Client(broker.url, keys[1]) as bob:
            yield People(broker, ada, bob)


def test_what_waits_for_another_is_an_error_that_has_it(people: People) -> None:
    one = people.doubtful()

    with pytest.raises(SecondPersonWanted, match="wants two people") as waiting:
        people.ada.resolve(one, "happened", who="Ada")

    approval = waiting.value.approval
    assert people.ada.command(one).state == "in_doubt"
    assert [found.id for found in people.bob.approvals(state="open")] == [approval.id]
    with pytest.raises(ProblemError) as alone:
        people.ada.decide(approval.id, "approve")
    assert alone.value.code == "second_person_needed"
    assert people.bob.decide(approval.id, "approve", note="seen").state == "done"
    assert people.ada.command(one).state == "succeeded"
    assert people.ada.approval(approval.id).decided_owner == "Bob"


def test_the_command_line_says_who_is_waited_for_and_the_other_person_decides(people: People, here: Here) -> None:
    one = people.doubtful()

    asked = here("resolve", one, "--happened", **people.as_ada())
    listed = here("approvals", "list", **people.as_bob())
    as_json = json.loads(here("approvals", "list", "--json", **people.as_bob()).stdout)["items"]
    approval_id = as_json[0]["id"]
    alone = here("approvals", "approve", approval_id, **people.as_ada())
    done = here("approvals", "approve", approval_id, "--note", "seen", **people.as_bob())
    again = here("approvals", "refuse", approval_id, **people.as_bob())

    assert (asked.returncode, alone.returncode, done.returncode, again.returncode) == (4, 4, 0, 1)
    assert f"outhaul approvals approve {approval_id}" in asked.stderr
    assert approval_id in listed.stdout
    assert "resolve as happened" in listed.stdout
    assert "done" in done.stderr
    assert people.ada.command(one).state == "succeeded"


def test_one_takes_back_what_one_asked_for(people: People, here: Here) -> None:
    people.ada.call("plant-1", "ends", {"as": "failed"}, wait_s=20)

    asked = here("replay", "--all", "--yes", "--json", **people.as_ada())
    approval = json.loads(asked.stdout)
    theirs = here("approvals", "withdraw", approval["id"], **people.as_bob())
    own = here("approvals", "withdraw", approval["id"], "--json", **people.as_ada())
    late = here("approvals", "approve", approval["id"], **people.as_bob())
    none = here("approvals", "list", **people.as_bob())

    assert (asked.returncode, theirs.returncode, own.returncode, late.returncode) == (4, 4, 0, 1)
    assert approval["act"] == "bulk_replay"
    assert json.loads(own.stdout)["state"] == "withdrawn"
    assert "no approvals" in none.stderr
    assert list(people.ada.replay_runs()) == []
