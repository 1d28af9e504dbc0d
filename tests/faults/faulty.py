"""Faults done to a running lab, each with its end: whatever was broken is whole again afterwards."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from tests.faults import clocks
from tests.faults.combinations import (
    ORDER,
    AtPoint,
    ClockJump,
    Cut,
    Damaged,
    Fault,
    LostAnswer,
    OnTheWire,
    Restarted,
    Signalled,
    Victim,
)
from tests.faults.erp import System
from tests.faults.proxy import Proxy, Trap
from tests.faults.site import Lab, until

STOP_GRACE_S: Final = 30.0  # seconds that a service manager gives a program


@contextlib.contextmanager
def under(lab: Lab, fault: Fault) -> Iterator[None]:
    """
    Do a fault to the lab while the block runs; at its end nothing is broken any more.

    Raises:
        TimeoutError: a program that was asked to stop did not.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(_acted(lab, fault), stop)
        try:
            yield
        finally:
            stop.set()
            concurrent.futures.wait((acting,))
            lab.arm(None)
            for proxy in (lab.link, *lab.erp.links.values()):
                lab.sprung += proxy.trap.sprung if proxy.trap is not None else 0
                proxy.clear()
    acting.result()


Act = Callable[[threading.Event], None]


def _acted(lab: Lab, fault: Fault) -> Act:
    """Return what does a fault; it ends soon after its event is set."""
    if isinstance(fault, AtPoint):
        lab.arm(fault.arming, fault.first)
        return lambda stop: None
    if isinstance(fault, LostAnswer):
        after = re.compile(b"") if fault.link == "soap" else ORDER
        _link(lab, fault.link).trap = Trap(fault.request, fault.passed, fault.held_s, after)
        return lambda stop: None
    if isinstance(fault, OnTheWire):
        return lambda stop: _treat(_link(lab, fault.link), fault, stop)
    if isinstance(fault, Cut):
        return lambda stop: _cut(_link(lab, fault.link), fault, stop)
    if isinstance(fault, Signalled):
        return lambda stop: _signal(lab, fault, stop)
    if isinstance(fault, Restarted):
        return lambda stop: _restart(lab, fault, stop)
    if isinstance(fault, Damaged):
        return lambda stop: _damage(lab, fault, stop)
    return lambda stop: _jump(lab, fault, stop)


def _link(lab: Lab, link: str | System) -> Proxy:
    return lab.link if link == "broker" else next(proxy for name, proxy in lab.erp.links.items() if name == link)


def _treat(proxy: Proxy, fault: OnTheWire, stop: threading.Event) -> None:
    stop.wait(fault.at_s)
    for direction in fault.directions:
        proxy.set(direction, fault.toxics)
    # Not cut short when the work is done early: a frozen link must be noticed.
    stop.wait(fault.for_s)
    proxy.clear()
    if fault.toxics.swallowed:
        proxy.cut(reset=True)


def _cut(proxy: Proxy, fault: Cut, stop: threading.Event) -> None:
    before_s = 0.0
    for at_s in fault.at_s:
        stop.wait(at_s - before_s)
        before_s = at_s
        proxy.cut(reset=fault.reset)


def _signal(lab: Lab, fault: Signalled, stop: threading.Event) -> None:
    stop.wait(fault.at_s)
    for pid in _victims(lab, fault.victim):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, fault.number)
            if fault.for_s:
                stop.wait(fault.for_s)
                os.kill(pid, signal.SIGCONT)
        if fault.number is signal.SIGTERM:
            until(partial(_gone, pid), "stopped within its grace", STOP_GRACE_S)


def _gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def _victims(lab: Lab, victim: Victim) -> list[int]:
    if victim == "driver":
        return lab.driver_processes()[:2]
    pid = (lab.agent if victim == "agent" else lab.broker).pid
    return [pid] if pid else []


def _restart(lab: Lab, fault: Restarted, stop: threading.Event) -> None:
    stop.wait(fault.at_s)
    server = lab.erp.servers[fault.system]
    server.stop(signal.SIGKILL)
    server.start()


def _jump(lab: Lab, fault: ClockJump, stop: threading.Event) -> None:
    stop.wait(0.1)
    clock = clocks.of(lab.folder, fault.program)
    clock.set(fault.seconds)
    stop.wait(4.0)
    clock.set(0)


def _damage(lab: Lab, fault: Damaged, stop: threading.Event) -> None:
    stop.wait(fault.at_s)
    lab.agent.kill()
    files = [path for path in lab.journal_folder.iterdir() if path.is_file() and path.stat().st_size]
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    data = bytearray(newest.read_bytes())
    data[int(len(data) * fault.place)] ^= 0x10
    newest.write_bytes(data)
    lab.agent.start()
