"""The AsyncAPI document, read by the parser that others use, and held against what is really sent."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from config.dev import asyncapi_page, npm
from config.dev.reference import ROOT
from protocol.messages import (
    AGENT_SAYS,
    BROKER_SAYS,
    WITH_PAYLOAD,
    AnyMessage,
    Chunk,
    ColumnInfo,
    Completed,
    Enrol,
    Enrolled,
    Goodbye,
    Held,
    Hello,
    Holding,
    Limits,
    Recover,
    RowSetBegins,
    RowSetDone,
    Run,
)

CHECK = ROOT / "config" / "dev" / "asyncapi"
DOCUMENT = json.loads((ROOT / "docs" / "reference" / "asyncapi.json").read_text(encoding="utf-8"))


def checked(document: Any) -> dict[str, Any]:
    """What the parser of the AsyncAPI project says about a document."""
    npm.install(CHECK)
    done = subprocess.run(
        ["node", str(CHECK / "check.js")],
        input=json.dumps(document),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) == (not found["wrong"])
    return found


def test_the_document_is_valid_asyncapi() -> None:
    assert checked(DOCUMENT) == {"wrong": [], "operations": ["agentSays", "brokerSays", "enrol"]}


def test_a_broken_document_is_found_out() -> None:
    broken = asyncapi_page.document()
    broken["operations"]["agentSays"]["channel"] = {"$ref": "#/channels/nowhere"}
    assert checked(broken)["wrong"]


def test_every_message_has_its_place_on_the_side_that_says_it() -> None:
    said = {
        name: {reference["$ref"].rpartition("/")[2] for reference in operation["messages"]}
        for name, operation in DOCUMENT["operations"].items()
    }
    on_enrol = {Enrol, Enrolled, Recover}
    assert said["agentSays"] == {kind.__name__ for kind in set(AGENT_SAYS) - on_enrol}
    assert said["brokerSays"] == {kind.__name__ for kind in set(BROKER_SAYS) - on_enrol}
    reply = DOCUMENT["operations"]["enrol"]["reply"]["messages"]
    assert {reference["$ref"].rpartition("/")[2] for reference in reply} == {Enrolled.__name__, Goodbye.__name__}


def test_a_message_has_a_payload_where_the_codec_lets_it() -> None:
    described = {name for name, message in DOCUMENT["components"]["messages"].items() if "payload" in message}
    assert described == {kind.__name__ for kind in WITH_PAYLOAD}


@pytest.mark.parametrize(
    "message",
    [
        Hello(versions=[1], release="0.1.0", features=[], limits=Limits(max_running=4), journal="b", time=1.0),
        Holding([Held("cmd_1", 1, ended=True, sent=7)]),
        Run(id="cmd_1", epoch=1, operation="echo", expires_in_s=60.0, credit=1),
        RowSetBegins(id="cmd_1", epoch=1, index=0, offset=0, columns=[ColumnInfo("n", "integer")]),
        Chunk(id="cmd_1", epoch=1, offset=0, rows=1),
        Completed(id="cmd_1", epoch=1, outcome="succeeded", row_sets=[RowSetDone(7, 1, "00")]),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_is_really_sent_fits_its_schema(message: AnyMessage) -> None:
    schema = {"$ref": f"#/components/schemas/{type(message).__name__}", "components": DOCUMENT["components"]}
    validator = jsonschema_rs.validator_for(schema)
    assert list(validator.iter_errors(json.loads(msgspec.json.encode(message)))) == []
    assert list(validator.iter_errors({"kind": "Fly"}))
