"""
The finance service of the demo's ERP: SOAP, by node, for the demo and the tests.

    with finance_service(auth="wsse", username="svc", password="…") as service:
        service.url        # of the document/literal service
        service.wsdl       # its WSDL, a local file
        service.posted()   # what it holds
"""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from config.dev import npm, processes

FOLDER: Final = Path(__file__).parent / "finance"
START_S: Final = 30.0  # seconds; about one on a quiet machine
STOP_S: Final = 10.0  # seconds from the wish to stop to the kill


class FinanceError(RuntimeError):
    """The service could not be installed or started; the text has the program's own words."""


@dataclass(frozen=True, slots=True)
class FinanceService:
    """
    A running service.

    Attributes:
        port: on 127.0.0.1.
        url: of the document/literal service.
        ledger_url: of the rpc/literal service.
        wsdl: of the first; a file.
        ledger_wsdl: of the second; a file.
        tls: what to trust, where it speaks TLS.
    """

    port: int
    url: str
    ledger_url: str
    wsdl: Path
    ledger_wsdl: Path
    tls: ssl.SSLContext | None

    def posted(self) -> dict[str, Any]:
        """Return the ``invoices`` and ``entries`` that the service holds."""
        address = self.url.removesuffix("/finance") + "/posted"
        with urllib.request.urlopen(address, timeout=START_S, context=self.tls) as reply:  # noqa: S310 - our own server
            found: dict[str, Any] = json.load(reply)
        return found


@contextlib.contextmanager
def finance_service(
    port: int = 0,
    *,
    auth: str = "none",
    username: str = "",
    password: str = "",
    tls: Mapping[str, str] | None = None,
    trust: ssl.SSLContext | None = None,
) -> Iterator[FinanceService]:
    """
    Start the service and stop it at the end.

    Args:
        port: 0 for a free one.
        auth: ``none``, ``basic``, ``digest`` or ``wsse``.
        tls: PEM texts ``cert`` and ``key``; with ``ca`` it wants client certificates of that authority.
        trust: for ``posted``, where ``tls`` is given.

    Raises:
        FinanceError: node or npm is missing or failed, or the service did not start.
    """
    try:
        npm.install(FOLDER)
    except npm.NpmError as exc:
        raise FinanceError(str(exc)) from exc
    try:
        process = subprocess.Popen(
            ["node", str(FOLDER / "server.js")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except OSError as exc:
        raise FinanceError(f"node can't be run: {exc.strerror}; install nodejs and npm") from exc
    assert process.stdin is not None  # noqa: S101 - it was asked for
    try:
        options = {"port": port, "auth": auth, "username": username, "password": password, "tls": tls}
        process.stdin.write(json.dumps(options))
        process.stdin.close()
        found = _ready(process)
        base = f"{'https' if tls else 'http'}://127.0.0.1:{found}"
        yield FinanceService(
            found, f"{base}/finance", f"{base}/ledger", FOLDER / "finance.wsdl", FOLDER / "ledger.wsdl", trust
        )
    finally:
        process.terminate()
        processes.end(process, STOP_S)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _ready(process: subprocess.Popen[str]) -> int:
    """Return the port once the service says that it listens."""
    assert process.stdout is not None  # noqa: S101 - it was asked for
    assert process.stderr is not None  # noqa: S101 - the same
    late = threading.Timer(START_S, process.kill)
    late.start()
    try:
        line = process.stdout.readline()
    finally:
        late.cancel()
    if not line:
        raise FinanceError(f"the finance service did not start:\n{process.stderr.read()[-2000:]}")
    return int(json.loads(line)["port"])
