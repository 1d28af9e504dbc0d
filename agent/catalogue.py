"""What the broker is told of this agent: operations with their parameters' schemas, connections with their limits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from agent.config_checks import kind_of
from agent.errors import ConfigError
from agent.inquiry import told_by
from agent.parameters import schema, takes_anything
from agent.row_formats import offered
from agent.settings import Connection, Operation, Settings
from protocol import limits


def build(
    settings: Settings,
    described: Mapping[str, dict[str, Any]],
    keys: Mapping[str, str] | None = None,
    places: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """
    Return the catalogue, made of JSON values: ``{"operations": […], "connections": […], "keys": {…}}``.

    No connection string, path, host name or SQL is in it.

    Args:
        described: by operation, the schema of its parameters as the source knows them (WSDL); used
            where the operator's file declares none.
        keys: the public halves of the agent's own (``agent.identity.keys.AgentKeys.public``).
        places: of connections with a ledger, by name (``agent.places``).
    """
    signed = frozenset(settings.policy.require_signature)
    return {
        "operations": [
            _operation(name, operation, described.get(name), name in signed)
            | {"verify": operation.verify, "settled_by": told_by(settings, operation)}
            | offered(operation, settings.connections.get(operation.connection))
            for name, operation in settings.operations.items()
        ],
        "connections": [
            _connection(name, connection) | ({"place": place} if (place := (places or {}).get(name)) else {})
            for name, connection in settings.connections.items()
        ],
        "keys": dict(keys or {}),
    }


def encode(catalogue: Mapping[str, Any]) -> bytes:
    """
    Return ``catalogue`` as canonical JSON: keys sorted, no spaces, UTF-8.

    Raises:
        ConfigError: it has more bytes than a link carries.
    """
    data = json.dumps(catalogue, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    if len(data) > limits.MAX_CATALOGUE_BYTES:
        largest = max(catalogue["operations"], key=lambda entry: len(json.dumps(entry)))
        raise ConfigError(
            f"the operations and their schemas take {len(data)} bytes, at most {limits.MAX_CATALOGUE_BYTES} go over "
            f"the link; the largest is {largest['name']}: declare its params in the file, or use a second agent"
        )
    return data


def digest(catalogue: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the encoded catalogue, in hex."""
    return hashlib.sha256(encode(catalogue)).hexdigest()


def _operation(name: str, operation: Operation, described: dict[str, Any] | None, signed: bool) -> dict[str, Any]:
    return {
        "name": name,
        "description": operation.description,
        "kind": kind_of(operation),
        "connection": operation.connection,
        "effect": operation.effect,
        "timeout_s": operation.timeout,
        "params": described if described is not None and takes_anything(operation) else schema(operation),
        "version": operation.version,
        "signature_required": signed or operation.allow is not None,
        "allow": list(operation.allow or ()),
    }


def _connection(name: str, connection: Connection) -> dict[str, Any]:
    return {
        "name": name,
        "type": connection.type,
        "max_concurrent": connection.max_concurrent,
        "rate_per_s": connection.rate,
        "windows": list(connection.windows),
        "breaker": {"failures": connection.breaker.failures, "cool_down_s": connection.breaker.cool_down},
    }
