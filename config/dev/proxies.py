"""
Throw-away HTTP and SOCKS 5 proxies for the demo and the tests.

They come from the operating system's packages (`tinyproxy`, `microsocks`), listen on a free port of the loopback
interface, and are gone at the end.

    with http_proxy(folder, user="plant", password="s3cret") as proxy:
        ...                                   # dial through proxy.url
        assert "CONNECT" in proxy.log()
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from config.dev import processes
from config.dev.databases import HOST, free_port

START_S: Final = 20.0  # seconds until a proxy must answer; it takes some milliseconds
STOP_S: Final = 5.0  # seconds from the wish to stop to the kill


class ProxyError(RuntimeError):
    """A proxy could not be started; the text has its own words."""


@dataclass(frozen=True, slots=True)
class RunningProxy:
    """
    A proxy.

    Attributes:
        url: with user and password, if it wants them.
        port: on 127.0.0.1.
        path: of its log.
    """

    url: str
    port: int
    path: Path

    def log(self) -> str:
        """What it wrote down: each connection with its target."""
        return self.path.read_text(errors="replace")


@contextlib.contextmanager
def http_proxy(
    folder: Path, *, user: str = "", password: str = "", allowed_ports: Sequence[int] = ()
) -> Iterator[RunningProxy]:
    """
    Run an HTTP proxy (tinyproxy) while the block runs.

    Args:
        folder: for its configuration and log.
        user: with ``password``, wanted by Basic authentication.
        allowed_ports: ports to which CONNECT may lead; all if there are none.
    """
    port, log = free_port(), folder / "tinyproxy.log"
    lines = [f"Port {port}", f"Listen {HOST}", "Timeout 600", f'LogFile "{log}"', "LogLevel Connect", "MaxClients 50"]
    lines += [f"ConnectPort {allowed}" for allowed in allowed_ports]
    if user:
        lines.append(f"BasicAuth {user} {password}")
    if os.name == "posix" and os.geteuid() == 0:
        lines.append(f"User {pwd.getpwuid(0).pw_name}")  # else it gives its log up to nobody and can't open it
    configuration = folder / "tinyproxy.conf"
    configuration.write_text("\n".join([*lines, ""]))
    with _running([_program("tinyproxy"), "-d", "-c", str(configuration)], port, folder / "tinyproxy.out"):
        credentials = f"{user}:{password}@" if user else ""
        yield RunningProxy(f"http://{credentials}{HOST}:{port}", port, log)


@contextlib.contextmanager
def socks_proxy(folder: Path, *, user: str = "", password: str = "") -> Iterator[RunningProxy]:
    """Run a SOCKS 5 proxy (microsocks) while the block runs; as `http_proxy`."""
    port, log = free_port(), folder / "microsocks.log"
    command = [_program("microsocks"), "-i", HOST, "-p", str(port)]
    if user:
        command += ["-u", user, "-P", password]
    with _running(command, port, log):
        credentials = f"{user}:{password}@" if user else ""
        yield RunningProxy(f"socks5h://{credentials}{HOST}:{port}", port, log)


@contextlib.contextmanager
def _running(command: Sequence[str], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        _wait(process, port, log)
        yield
    finally:
        process.terminate()
        processes.end(process, STOP_S)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise ProxyError(f"{log.stem} does not answer:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


def _program(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))
    if found is None:
        raise ProxyError(f"{name} is not installed: apt-get install tinyproxy microsocks")
    return found
