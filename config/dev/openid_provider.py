"""
An OpenID provider, written by others in another language, for the tests.

    with openid_provider("outhaul", {"shop": {"tenant": "acme"}}) as provider:
        provider.issuer
        provider.token("shop", "commands:read")
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from config.dev import npm, processes

FOLDER: Final = Path(__file__).parent / "openid"
START_S: Final = 60.0  # seconds; about two on a quiet machine
STOP_S: Final = 10.0  # seconds from the wish to stop to the kill


class OpenidError(RuntimeError):
    """The provider could not be installed or started; the text has the program's own words."""


@dataclass(frozen=True, slots=True)
class OpenidProvider:
    """A running provider; ``secrets`` has that of each client."""

    issuer: str
    secrets: Mapping[str, str]

    def token(self, client: str, scope: str) -> str:
        """Return an access token of a client, as a program gets one for itself."""
        right = base64.b64encode(f"{client}:{self.secrets[client]}".encode()).decode()
        body = urllib.parse.urlencode({"grant_type": "client_credentials", "scope": scope}).encode()
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{self.issuer}/token", body, {"Authorization": f"Basic {right}"}
        )
        with urllib.request.urlopen(request, timeout=START_S) as answer:  # noqa: S310 - our own server
            return str(json.load(answer)["access_token"])


@contextlib.contextmanager
def openid_provider(
    audience: str, clients: Mapping[str, Mapping[str, Any]], algorithm: str = "RS256"
) -> Iterator[OpenidProvider]:
    """
    Start a provider and stop it at the end.

    Args:
        clients: by name, the claims that its tokens have besides.
        algorithm: ``RS256``, ``ES256`` or ``Ed25519``.

    Raises:
        OpenidError: node or npm is missing or failed, or the provider did not start.
    """
    try:
        npm.install(FOLDER)
    except npm.NpmError as exc:
        raise OpenidError(str(exc)) from exc
    known = {name: secrets.token_hex(16) for name in clients}
    options = {
        "port": _free_port(),
        "audience": audience,
        "algorithm": algorithm,
        "clients": {name: {"secret": known[name], "claims": dict(claims)} for name, claims in clients.items()},
    }
    try:
        process = subprocess.Popen(
            ["node", str(FOLDER / "server.js")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except OSError as exc:
        raise OpenidError(f"node can't be run: {exc.strerror}; install nodejs and npm") from exc
    assert process.stdin is not None  # noqa: S101 - it was asked for
    assert process.stdout is not None  # noqa: S101 - the same
    late = threading.Timer(START_S, process.kill)
    late.start()
    try:
        process.stdin.write(json.dumps(options))
        process.stdin.close()
        line = process.stdout.readline()
        late.cancel()
        if not line:
            raise OpenidError("the OpenID provider did not start; run `node config/dev/openid/server.js` to see why")
        yield OpenidProvider(json.loads(line)["issuer"], known)
    finally:
        late.cancel()
        process.terminate()
        processes.end(process, STOP_S)
        process.stdout.close()


def _free_port() -> int:
    # The issuer's name has the port in it, so it must be known before.
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])
