"""
Crossbar.io: calls from one program to another through a router, over websockets with TLS.

It keeps nothing: what is under way is lost with it.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench import peers
from bench.figures import Lab
from bench.programs import program, until_listening, until_said
from config.dev.databases import HOST, free_port

PACKAGE: Final = "crossbar==26.10.1"
CLIENT: Final = Path(__file__).with_name("crossbar_client.py")
OUTSTANDING: Final = 64  # calls at once


class Times(NamedTuple):
    """Of many calls."""

    per_s: float
    median_s: float


class Crossbar:
    """A router that runs, with somebody to call."""

    def __init__(self, python: Path, url: str, certificate: Path) -> None:
        # Without the folder that it is in: what is beside it has names of libraries.
        self._words = [str(python), "-P", str(CLIENT)]
        self._at = [url, str(certificate)]

    def callee(self) -> list[str]:
        """Return the command of who is called."""
        return [*self._words, "callee", *self._at]

    def call(self, outstanding: int, count: int) -> Times:
        """Call so often, with so many calls outstanding."""
        words = [*self._words, "caller", *self._at, str(outstanding), str(count)]
        told = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
        return Times(count // outstanding * outstanding / float(told[0]), float(told[1]))


@contextlib.contextmanager
def running(lab: Lab) -> Iterator[Callable[[int], float]]:
    """
    Run it as `crossbar` does; yields what makes so many calls, 64 outstanding, and returns calls a second.

    Where it can't be installed, that raises `PeerMissing`, and the run says why.
    """
    try:
        peers.installed(PACKAGE)
    except peers.PeerMissing as exc:
        lab.missing.append(str(exc))
        yield partial(_raised, exc)
        return
    with crossbar(lab.folder / f"crossbar-{time.monotonic_ns()}") as made:
        yield lambda count: made.call(OUTSTANDING, count).per_s


def _raised(error: peers.PeerMissing, count: int) -> float:
    raise error


@contextlib.contextmanager
def crossbar(folder: Path) -> Iterator[Crossbar]:
    """Run a router, and somebody to call, while the block runs; installed if it is not there."""
    place = peers.installed(PACKAGE)
    folder.mkdir()
    port = free_port()
    shown = certificate(folder)
    (folder / "config.json").write_text(json.dumps(_config(port)), "utf-8")
    made = Crossbar(place / "bin" / "python", f"wss://{HOST}:{port}/ws", shown)
    start = [str(place / "bin" / "crossbar"), "start", "--cbdir", str(folder), "--loglevel", "warn"]
    with program(start, folder / "crossbar.log") as router:
        until_listening(port, router, folder / "crossbar.log")
        log = folder / "callee.log"
        with program(made.callee(), log) as callee:
            until_said("ready", callee, log)
            yield made


def _config(port: int) -> dict[str, object]:
    everything = {"uri": "", "match": "prefix", "allow": {"call": True, "register": True}}
    transport = {
        "type": "websocket",
        "endpoint": {
            "type": "tcp",
            "interface": HOST,
            "port": port,
            "tls": {"certificate": "certificate.pem", "key": "key.pem"},
        },
        "serializers": ["msgpack"],
        "auth": {"anonymous": {"type": "static", "role": "anonymous"}},
    }
    realm = {"name": "bench", "roles": [{"name": "anonymous", "permissions": [everything]}]}
    return {"version": 2, "workers": [{"type": "router", "realms": [realm], "transports": [transport]}]}


def certificate(folder: Path) -> Path:
    """Make a certificate of this machine that vouches for itself, and its key, in a folder; return its path."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    (folder / "certificate.pem").write_bytes(made.public_bytes(pem))
    return folder / "certificate.pem"
