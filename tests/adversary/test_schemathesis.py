"""The whole API as its own OpenAPI document describes it, asked for what it says and for what it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis

# Now, as it would be loaded in the middle of a test, where CPython before 3.11.4 may not have the depth to parse it.
import schemathesis.specs.openapi.schemas
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    ignored_auth,
    negative_data_rejection,
    positive_data_acceptance,
    unsupported_method,
    use_after_free,
)

from tests.whole.site import AgentSite, Broker, Caller

SITE = """
[connections.probe]
type = "synthetic"
[operations.echo]
connection = "probe"
synthetic = "echo"
"""
# Each route is asked so often; a longer look: `make fuzz`.
EXAMPLES = 12
# Of several answers in a row; and a body may fit the schema and still name both agent and group.
NOT_HERE = [ignored_auth, use_after_free, unsupported_method, positive_data_acceptance]

# A line that is wrong is answered by a line: the request itself is one.
NOT_OF = {"POST /v1/commands/bulk": [negative_data_rejection]}


@schemathesis.serializer("application/pkcs10")
def _request(context: Any, value: Any) -> bytes:
    """A signing request as other people's tools send it: a text in base64."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.serializer("application/x-ndjson")
def _lines(context: Any, value: Any) -> bytes:
    """One line; whatever a test is to send."""
    return value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n"


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """A tenant with an agent, some commands and a good key."""
    folder = tmp_path_factory.mktemp("schemathesis")
    broker = Broker(folder / "broker")
    assert broker.cli("init").exit_code == 0
    with broker.tenant("acme") as made:
        site = AgentSite(folder / "site", SITE)
        broker.start()
        try:
            site.enrol(broker.token("acme", "plant-1"))
            site.start(made)
            made.run("echo", {"n": 1})
            yield made
        finally:
            site.program.stop()
            broker.program.stop()


def test_every_route_keeps_to_the_document_and_none_breaks(caller: Caller) -> None:
    document = httpx2.get(f"{caller.base_url}/openapi.json").json()
    asked = []
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        asked.append(operation.label)
        _ask(operation, caller)
    assert len(asked) == sum(len(methods) for methods in document["paths"].values())


def _ask(operation: Any, caller: Caller) -> None:
    """Ask one route for what its description allows, and for what it does not."""

    @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        response = case.call(
            base_url=str(caller.base_url).rstrip("/"), headers={"Authorization": f"Bearer {caller.key}"}, timeout=60
        )
        assert response.status_code not in (500, 501, 502, 504), f"{operation.label}: {response.text}"
        case.validate_response(response, excluded_checks=[*NOT_HERE, *NOT_OF.get(operation.label, ())])

    ask()
