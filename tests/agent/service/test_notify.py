"""What systemd hears, on real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.service import notifier
from agent.service.base import Nobody
from agent.service.notify import SystemdNotifier, watchdog_s


@pytest.fixture(params=["a file", "no file"])
def ear(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Where systemd listens, as NOTIFY_SOCKET says it, and the socket."""
    abstract = f"@outhaul-{os.getpid()}-{tmp_path.name}"
    address = str(tmp_path / "notify") if request.param == "a file" else abstract
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address if address[0] == "/" else "\0" + address[1:])
        listening.settimeout(60)
        yield address, listening


def test_systemd_hears_all_of_a_service_s_life(ear: tuple[str, socket.socket]) -> None:
    address, listening = ear
    told = SystemdNotifier(address)
    told.ready()
    told.status("linked to wss://broker")
    told.alive()
    told.stopping()
    told.alive()
    assert [listening.recv(4096).decode() for _ in range(5)] == [
        "READY=1",
        "STATUS=linked to wss://broker",
        "WATCHDOG=1",
        "STOPPING=1",
        "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=30000000",
    ]


def test_a_status_is_one_line_whatever_a_peer_has_said(ear: tuple[str, socket.socket]) -> None:
    address, listening = ear
    SystemdNotifier(address).status("not linked: no\nREADY=1\nMAINPID=1")
    assert listening.recv(4096) == b"STATUS=not linked: no READY=1 MAINPID=1"


def test_nobody_waits_for_a_systemd_that_does_not_listen(tmp_path: Path) -> None:
    SystemdNotifier(str(tmp_path / "gone")).ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "full"))
        told = SystemdNotifier(str(tmp_path / "full"))
        for _ in range(2000):  # more than any socket takes
            told.alive()


def test_a_program_in_a_terminal_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert isinstance(notifier(), Nobody)
    monkeypatch.setenv("NOTIFY_SOCKET", "@systemd")
    assert isinstance(notifier(), SystemdNotifier)


@pytest.mark.parametrize(
    ("told", "of", "bites_s"),
    [("30000000", "", 30.0), ("30000000", "own", 30.0), ("30000000", "1", None), ("", "", None), ("soon", "", None)],
)
def test_the_watchdog_s_time_is_systemd_s(
    monkeypatch: pytest.MonkeyPatch, told: str, of: str, bites_s: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", told)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if of == "own" else of)
    assert watchdog_s() == bites_s


def test_a_service_without_a_certificate_waits_for_one_and_stops_in_order(
    ear: tuple[str, socket.socket], tmp_path: Path
) -> None:
    address, listening = ear
    file = tmp_path / "agent.toml"
    file.write_text('agent = "plant-1"\nstate_dir = "state"\n')
    environment = {**os.environ, "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"}
    words = [str(Path(sys.executable).with_name("outhaul-agent")), "run", "--config", str(file)]
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as service:
        try:
            heard: list[str] = []
            while not {"READY=1", "WATCHDOG=1"} <= set(heard) or not any("enroll --token" in one for one in heard):
                heard.append(listening.recv(4096).decode())
            service.terminate()
            assert service.wait(60) == 0
        finally:
            service.kill()
