"""The API's description of itself: complete, and true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.cloud_broker.api.broker import Broker
from tests.cloud_broker.api.dead import failed

REFERENCE = (Path(__file__).parents[3] / "docs/reference/http-api.md").read_text("utf-8")


async def described(broker: Broker) -> dict[str, Any]:
    async with broker.client() as nobody:
        answer = await nobody.get("/openapi.json")
    document: dict[str, Any] = answer.json()
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for child in value.values():
            yield from references(child)
    elif isinstance(value, list):
        for child in value:
            yield from references(child)


async def test_every_route_is_described_with_its_answers_problems_and_key(broker: Broker) -> None:
    document = await described(broker)

    assert document["openapi"] == "3.1.0"
    for path, method, operation in operations(document):
        place = f"{method} {path}"
        assert operation["summary"], place
        assert any(status.startswith("2") for status in operation["responses"]), place
        assert ("security" in operation) == path.startswith("/v1/"), place
        declared = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path)), place
        for status, answer in operation["responses"].items():
            content = answer["content"]
            if status.startswith("2"):
                assert "application/problem+json" not in content, place
            else:
                assert list(content) == ["application/problem+json"], f"{place} {status}"
        if path.startswith("/v1/"):
            assert {"400", "401", "403"} <= set(operation["responses"]), place
    assert len({operation["operationId"] for _, _, operation in operations(document)}) == len(
        list(operations(document))
    )


async def test_every_reference_leads_somewhere_and_every_schema_is_one(broker: Broker) -> None:
    document = await described(broker)

    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema | {"$schema": "https://json-schema.org/draft/2020-12/schema"})
    assert "HTTPValidationError" not in document["components"]["schemas"]


async def test_what_is_sent_fits_what_is_described(broker: Broker) -> None:
    document = await described(broker)

    def fits(schema: str, value: Any) -> None:
        components = {"components": document["components"], "$ref": f"#/components/schemas/{schema}"}
        jsonschema_rs.Draft202012Validator(components).validate(value)

    async with broker.client(await broker.key("acme")) as client:
        body = document["paths"]["/v1/commands"]["post"]["requestBody"]["content"]["application/json"]["example"]
        fits("NewCommand", body)
        fits("CommandView", (await client.post("/v1/commands", json=body)).json())
        fits("AgentView", (await client.get("/v1/agents/plant-1")).json())
        for path, schema in (
            ("/v1/commands/{command_id}/resolve", "Finding"),
            ("/v1/commands/{command_id}/replay", "Again"),
            ("/v1/dead-letters/replay", "NewReplay"),
        ):
            fits(schema, document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"])
        await failed(broker)
        fits("DeadLetterView", (await client.get("/v1/dead-letters")).json()["items"][0])
        many = await client.post("/v1/dead-letters/replay", json={"dry_run": True})
        fits("ReplayPlanView", many.json())
        fits("ReplayRunView", (await client.post("/v1/dead-letters/replay")).json())
        letter = (await client.get("/v1/commands?state=failed")).json()["items"][0]
        fits("TimelineStepView", (await client.get(letter["links"]["timeline"])).json()["items"][-1])
        fits("Problem", (await client.get("/v1/nothing")).json())
        fits("KeyView", (await client.get("/v1/keys")).json()["items"][0])


async def test_a_submission_to_an_agent_that_takes_none_is_described(broker: Broker) -> None:
    answers = (await described(broker))["paths"]["/v1/commands"]["post"]["responses"]
    assert "`conflict`" in answers["409"]["description"]
    assert "`unavailable`" in answers["503"]["description"]


async def test_the_reference_names_every_route(broker: Broker) -> None:
    for path, method, _ in operations(await described(broker)):
        assert f"`{method.upper()} {path}`" in REFERENCE.replace("/commands/{id}", "/commands/{command_id}")


@pytest.mark.parametrize(
    "schema",
    [
        "CommandView",
        "NewCommand",
        "DeadLetterInfo",
        "AttemptView",
        "TimelineStepView",
        "ReplayRunView",
        "NewReplay",
        "Wanted",
        "Finding",
        "Again",
        "ReplayPlanView",
    ],
)
async def test_the_reference_names_every_member(broker: Broker, schema: str) -> None:
    for member in (await described(broker))["components"]["schemas"][schema]["properties"]:
        assert f"`{member}`" in REFERENCE
