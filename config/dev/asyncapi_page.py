"""``docs/reference/asyncapi.json``: the link for programs, made from the messages (AsyncAPI 3.0)."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from agent import RELEASE
from config.dev.markdown import summary
from config.dev.wire import MESSAGES, PARTS_OF_MESSAGES, meanings
from protocol import limits
from protocol.messages import AGENT_SAYS, BROKER_SAYS, Enrol, Enrolled, Goodbye, Recover

SCHEMAS: Final = "#/components/schemas/"
ABOUT: Final = """The link between an agent and its broker, seen from the agent: it sends what the agent says and
receives what the broker says. `docs/reference/wire.md` tells the rules.

A websocket message is binary and holds one record or more. A record is the length of the header (u32, big endian), the
length of the payload (u32, big endian), the header (JSON, UTF-8) and the payload (raw bytes). In this document the
`headers` of a message are that JSON object, and its `payload` are the raw bytes beside it, in the message's
`contentType`. A message without a payload has none, not an empty one of its content type."""
JSON_BYTES: Final = {"type": "object"}
RAW_BYTES: Final = {"type": "string", "format": "binary"}
# What the raw bytes beside each header are.
PAYLOADS: Final[dict[str, tuple[str, dict[str, Any], str]]] = {
    "Catalogue": (
        "application/json",
        {
            "type": "object",
            "required": ["connections", "operations"],
            "properties": {
                "connections": {"type": "array", "items": JSON_BYTES},
                "operations": {"type": "array", "items": JSON_BYTES},
            },
        },
        "What may be run at this agent.",
    ),
    "Run": ("application/json", JSON_BYTES, "The parameters."),
    "Chunk": (
        "application/x-ndjson",
        RAW_BYTES | {"maxLength": limits.CHUNK_BYTES},
        "A part of the rows; may begin and end inside one.",
    ),
    "BlobChunk": (
        "application/octet-stream",
        RAW_BYTES | {"maxLength": limits.CHUNK_BYTES},
        "A part of the blob.",
    ),
    "Completed": ("application/json", JSON_BYTES, "The outputs, or nothing."),
    "Enrol": ("application/pkcs10", RAW_BYTES, "A certificate signing request, DER."),
    "Recover": ("application/pkcs10", RAW_BYTES, "A certificate signing request, DER."),
    "Renew": ("application/pkcs10", RAW_BYTES, "A certificate signing request, DER."),
    "Renewed": ("application/pkix-cert", RAW_BYTES, "The agent's next certificate, DER."),
    "Enrolled": ("application/pkix-cert", RAW_BYTES, "The agent's certificate, DER."),
}
_ENROLMENT: Final = frozenset({Enrol, Recover, Enrolled})


def document() -> dict[str, Any]:
    """Return the AsyncAPI document."""
    on_link = [kind for kind in MESSAGES if kind not in _ENROLMENT]
    on_enrol = [kind for kind in MESSAGES if kind in _ENROLMENT or kind is Goodbye]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Outhaul link",
            "version": RELEASE,
            "description": ABOUT,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "{host}:{port}",
                "protocol": "wss",
                "description": "The broker's port for agents: TLS 1.3, no compression of the websocket.",
                "variables": {
                    "host": {"description": "As the token says.", "default": "127.0.0.1"},
                    "port": {"description": "As the token says.", "default": "8443"},
                },
            }
        },
        "channels": {
            "link": _channel("/link", "Commands and their results. Wants the agent's certificate.", on_link),
            "enrol": _channel("/enrol", "A certificate for a token: one message each way.", on_enrol),
        },
        "operations": {
            "agentSays": _operation("send", "link", [kind for kind in on_link if kind in AGENT_SAYS])
            | {"security": [{"$ref": "#/components/securitySchemes/certificate"}]},
            "brokerSays": _operation("receive", "link", [kind for kind in on_link if kind in BROKER_SAYS])
            | {"security": [{"$ref": "#/components/securitySchemes/certificate"}]},
            "enrol": _operation("send", "enrol", [Enrol, Recover])
            | {
                "reply": {
                    "channel": {"$ref": "#/channels/enrol"},
                    "messages": [
                        {"$ref": f"#/channels/enrol/messages/{kind.__name__}"} for kind in (Enrolled, Goodbye)
                    ],
                }
            },
        },
        "components": {
            "messages": {kind.__name__: _message(kind) for kind in MESSAGES},
            "schemas": _schemas(),
            "securitySchemes": {
                "certificate": {"type": "X509", "description": "The certificate that enrolment gave."},
            },
        },
    }


def page() -> str:
    """Return the document as text."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def _channel(address: str, description: str, kinds: list[type[msgspec.Struct]]) -> dict[str, Any]:
    subprotocol = {"type": "string", "const": "outhaul.1"}
    return {
        "address": address,
        "description": description,
        "messages": {kind.__name__: {"$ref": f"#/components/messages/{kind.__name__}"} for kind in kinds},
        "bindings": {
            "ws": {
                "method": "GET",
                "headers": {
                    "type": "object",
                    "required": ["Sec-WebSocket-Protocol"],
                    "properties": {"Sec-WebSocket-Protocol": subprotocol},
                },
                "bindingVersion": "0.1.0",
            }
        },
    }


def _operation(action: str, channel: str, kinds: list[type[msgspec.Struct]]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{kind.__name__}"} for kind in kinds],
    }


def _message(kind: type[msgspec.Struct]) -> dict[str, Any]:
    message = {
        "name": kind.__name__,
        "title": kind.__name__,
        "summary": summary(kind),
        "headers": {"$ref": SCHEMAS + kind.__name__},
    }
    if kind.__name__ in PAYLOADS:
        content_type, schema, description = PAYLOADS[kind.__name__]
        message |= {"contentType": content_type, "payload": schema | {"description": description}}
    return message


def _schemas() -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components((*MESSAGES, *PARTS_OF_MESSAGES), ref_template=SCHEMAS + "{name}")
    for kind in (*MESSAGES, *PARTS_OF_MESSAGES):
        schema = schemas[kind.__name__]
        schema["description"] = summary(kind)
        for name, meaning in meanings(kind).items():
            # Beside a reference nothing else counts in this version of JSON Schema.
            if "$ref" not in schema["properties"][name]:
                schema["properties"][name]["description"] = meaning
    return schemas
