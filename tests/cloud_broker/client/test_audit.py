"""``outhaul audit`` against a real broker, and the same from Python."""

from __future__ import annotations

import json

from cloud_broker.audit.verify import of_export
from cloud_broker.client.api import Outhaul as Client
from tests.cloud_broker.client.broker import Broker
from tests.cloud_broker.client.conftest import Here


def test_what_was_done_is_listed_for_people(broker: Broker, here: Here) -> None:
    with Client(broker.url, broker.key) as client:
        done = client.call("plant-1", "echo", {"a": 1}, wait_s=20, correlation_id="cor-audit")
    found = here("audit", "--target", f"command:{done.id}")
    assert found.returncode == 0
    words = found.stdout.split()
    assert {"submitted", "ended", "agent:plant-1", f"command:{done.id}", "cor-audit"} <= set(words)
    assert "sha256" not in found.stdout


def test_it_is_chosen_and_given_to_programs(broker: Broker, here: Here) -> None:
    found = here("audit", "--action", "tenant_created", "--since", "1d", "--json")
    (record,) = json.loads(found.stdout)["items"]
    assert (record["number"], record["target"]) == (1, f"tenant:{record['tenant']}")
    found = here("audit", "--limit", "1")
    assert "there are more than 1" in found.stderr
    assert here("audit", "--action", "nothing").returncode == 2
    assert here("audit", "--chain", "broker").returncode == 4


def test_an_export_is_whole_and_can_be_verified(broker: Broker, here: Here) -> None:
    found = here("audit", "--export")
    (chain,) = of_export(found.stdout.encode().splitlines(), {})
    assert chain.misfit is None
    with Client(broker.url, broker.key) as client:
        lines = list(client.audit_lines())
        assert len(lines) >= chain.records
        assert next(client.audit(action="tenant_created")).actor == "broker"
