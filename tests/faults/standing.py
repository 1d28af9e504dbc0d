"""
``make soak``: agents that stand for minutes in each state that lasts, and what of them grows meanwhile.

An agent is in these states for years, and dials or waits in them again and again; with the lab's timers it does so
hundreds of times a minute. What is looked at is what leaks: anonymous memory, threads, handles, child processes, and
the bytes in its own folder.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from config.dev import processes
from tests.faults.proxy import Proxy, Toxics
from tests.faults.renewals import at
from tests.faults.site import Watched, until
from tests.whole.site import AgentSite, Broker, Caller

LOOK_S: Final = 1.0
WARM_UP: Final = 0.4  # of the looks, from the first on: what is loaded and kept once is no growth
GROWTH_KIB: Final = 1_536  # of anonymous memory from the middle of the rest to its end, beyond noise of the allocator
CACHES: Final = 2  # connections of the broker's store; each keeps up to 16 MiB of the pages that it read or wrote
SPREAD: Final = 6  # threads, handles or processes more at the end than after the warm-up
LOG_BYTES: Final = 50_000
LOG_FILES: Final = 3
STATE_BYTES: Final = 8 << 20
PROBE: Final = """
[connections.probe]
type = "synthetic"
[operations.echo]
connection = "probe"
synthetic = "echo"
[operations.rows]
connection = "probe"
synthetic = "rows"
[operations.rows.params]
count = { type = "integer", min = 0 }
width = { type = "integer", default = 8 }
[connections.db]
type = "odbc"
connection_string = "Driver=SQLite3;Database=erp.db"
[operations.one]
connection = "db"
sql = "SELECT 1 AS n"
effect = "read"
[connections.gone]
type = "odbc"
connection_string = "Driver={PostgreSQL Unicode};Server=127.0.0.1;Port=1;Database=erp;Uid=a"
[operations.never]
connection = "gone"
sql = "SELECT 1 AS n"
effect = "read"
[connections.edi]
type = "file"
root = "edi"
[operations.drop]
connection = "edi"
drop = "ORD-{order_no}.json"
format = { type = "json" }
effect = "once"
[operations.drop.params]
order_no = { type = "string", max_length = 20 }
"""


@dataclass(frozen=True, slots=True)
class Look:
    """
    What one process had at a time.

    Attributes:
        at: seconds since the first look.
        memory: anonymous resident KiB.
        handles: open ones; ``None`` where this account may not look.
        children: of it, and theirs.
        kept: bytes in the agent's folder, its log included.
    """

    at: float
    memory: int
    threads: int
    handles: int | None
    children: int
    kept: int


@dataclass(frozen=True, slots=True)
class State:
    """
    One state to stand in.

    Attributes:
        name: as it is told.
        link: keys of ``[link]``, with ``{port}`` for that of a proxy before the broker.
        enrolled: whether the agent has a certificate.
        notified: whether it runs as a service does, and waits for what is missing.
        toxics: of the proxy, both ways.
    """

    name: str
    link: str = ""
    enrolled: bool = True
    notified: bool = False
    toxics: Toxics | None = None


DEAD: Final = "wss://127.0.0.1:1"
STATES: Final = (
    State("linked and idle"),
    State("linked and busy"),
    State("source down"),
    State("link cut again and again"),
    State("broker away", f'urls = ["{DEAD}"]'),
    State("names not found", 'urls = ["wss://no-such-broker.invalid:8443"]'),
    State("proxy away", 'proxy = "http://127.0.0.1:1"'),
    State("line swallows all", toxics=Toxics(swallowed=True)),
    State("revoked"),
    State("another authority", 'urls = ["wss://127.0.0.1:{other}"]'),
    State("not enrolled", enrolled=False, notified=True),
)


@dataclass(frozen=True, slots=True)
class Slope:
    """
    What of a process grew.

    Attributes:
        who: state, or program.
        tries: how often its log says that it tried or worked.
        per_hour: KiB of memory an hour, by least squares over the looks after the warm-up.
        first: the median of what it had after the warm-up.
        last: the median at the end.
        pages: KiB that it may keep of its store besides.
    """

    who: str
    tries: int
    per_hour: float
    first: Look
    last: Look
    pages: int = 0

    @property
    def wrong(self) -> list[str]:
        """What grew that should not."""
        found = []
        if self.last.memory - self.first.memory > GROWTH_KIB + self.pages:
            found.append(f"memory grows: {self.first.memory} to {self.last.memory} KiB")
        for name in ("threads", "handles", "children"):
            before, after = getattr(self.first, name), getattr(self.last, name)
            if before is not None and after > before + SPREAD:
                found.append(f"{name} grow: {before} to {after}")
        if self.last.kept > STATE_BYTES:
            found.append(f"its folder has {self.last.kept} bytes")
        return found

    def line(self) -> str:
        """The row of the table that `make soak` prints."""
        handles = "-" if self.last.handles is None else str(self.last.handles)
        return (
            f"{self.who:<26} {self.tries:>6} {self.last.memory / 1024:>9.1f} {self.per_hour / 1024:>+9.2f}"
            f" {self.last.threads:>8} {handles:>8} {self.last.children:>8} {self.last.kept / 1024:>9.0f}"
        )


HEAD: Final = (
    f"{'state':<26} {'tries':>6} {'MiB':>9} {'MiB/h':>9} {'threads':>8} {'handles':>8} {'children':>8} {'KiB kept':>9}"
)


def slope(who: str, tries: int, looks: Sequence[Look]) -> Slope:
    """Return what grew over looks at one process; raises ``ValueError`` if there are too few."""
    rest = looks[int(len(looks) * WARM_UP) :]
    if len(rest) < 4:
        raise ValueError(f"{who}: {len(looks)} looks are too few")
    third = max(1, len(rest) // 3)
    per_second = statistics.linear_regression([one.at for one in rest], [one.memory for one in rest]).slope
    return Slope(who, tries, per_second * 3600, _median(rest[:third]), _median(rest[-third:]))


def _median(looks: Sequence[Look]) -> Look:
    handles = [one.handles for one in looks if one.handles is not None]
    return Look(
        looks[-1].at,
        int(statistics.median(one.memory for one in looks)),
        int(statistics.median(one.threads for one in looks)),
        int(statistics.median(handles)) if handles else None,
        int(statistics.median(one.children for one in looks)),
        int(statistics.median(one.kept for one in looks)),
    )


def look(pid: int, folder: Path, at: float) -> Look:
    """
    Look at a process.

    Raises:
        OSError: it is not there.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    facts = dict(re.findall(r"^(RssAnon|Threads):\s+(\d+)", status, re.MULTILINE))
    handles = None
    with contextlib.suppress(PermissionError):
        handles = len(os.listdir(f"/proc/{pid}/fd"))
    kept = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            kept += path.stat().st_size if path.is_file() else 0
    return Look(at, int(facts["RssAnon"]), int(facts["Threads"]), handles, len(list(processes.descendants(pid))), kept)


class Plant:
    """An agent in one state."""

    def __init__(self, state: State, number: int, folder: Path, link: str) -> None:
        self.state = state
        self.tenant = f"plant{number}"
        self.folder = folder / self.tenant
        proxy = "" if "proxy" in link else 'proxy = "none"\n'
        self.site = AgentSite(
            self.folder,
            f"[link]\n{proxy}{link}\n"
            f'[log]\nfile = "state/log/agent.log"\nfile_bytes = {LOG_BYTES}\nfiles = {LOG_FILES}\n' + PROBE,
        )
        (self.folder / "edi").mkdir()
        before = ["/usr/bin/env", f"NOTIFY_SOCKET={self.folder / 'notify'}"] if state.notified else []
        self.agent = Watched("agent", self.folder / "lab", self.site.file, ["run"], before)
        self.looks: list[Look] = []

    def look(self, at: float) -> None:
        with contextlib.suppress(OSError, KeyError):
            self.looks.append(look(self.agent.pid, self.folder / "state", at))

    def told(self) -> int:
        """How many lines it told, as far as they are kept."""
        files = (self.folder / "state" / "log").glob("agent.log*")
        return sum(path.read_bytes().count(b"\n") for path in files)


def stand(folder: Path, seconds: float, says: Callable[[str], None], states: Sequence[State] = STATES) -> list[Slope]:
    """
    Have an agent in each state for some time; return what grew, of the agents and of the broker.

    Args:
        folder: empty; all that the programs write goes there.
        says: told what happens, in lines.
    """
    with contextlib.ExitStack() as stack:
        made = Broker(folder / "broker")
        other = Broker(folder / "other")
        watched = Watched("broker", folder / "broker-lab", made.file, ["serve"])
        stranger = Watched("broker", folder / "other-lab", other.file, ["serve"])
        admin = stack.enter_context(Caller(made.url, made.facts("init")["admin_key"]))
        other.facts("init")
        for one, program in ((made, watched), (other, stranger)):
            program.start()
            stack.callback(program.close)
            until(one.ready, "serving")
        plants, callers = [], dict[str, Caller]()
        for number, state in enumerate(states):
            proxy = stack.enter_context(Proxy(made.link_port, seed=number))
            plant = Plant(state, number, folder, state.link.replace("{other}", str(other.link_port)))
            token, key = _let_in(admin, plant.tenant)
            callers[plant.tenant] = caller = stack.enter_context(Caller(made.url, key))
            if state.enrolled:
                _enrol(plant, at(token, proxy.port))
            if state.notified:
                stack.enter_context(_ear(plant.folder / "notify"))
            plant.agent.start()
            stack.callback(plant.agent.close)
            _bring_about(plant, caller, proxy)
            plants.append((plant, proxy))
        says(f"{len(plants)} agents, each in its state")
        store = folder / "broker" / "data" / "broker.db"
        before = store.stat().st_size
        seen = _watch(plants, callers, watched, folder / "none", seconds)
        found = [slope(plant.state.name, plant.told(), plant.looks) for plant, _ in plants]
        broker = slope("the broker of them all", 0, seen)
        return [*found, replace(broker, pages=CACHES * (store.stat().st_size - before) // 1024)]


def _let_in(admin: Caller, tenant: str) -> tuple[str, str]:
    """Return a token and a caller's key of a new tenant."""
    headers = {"Outhaul-Tenant": tenant}
    admin.post("/v1/tenants", json={"name": tenant}, headers=headers).raise_for_status()
    key = admin.post("/v1/keys", json={"scopes": ["*"]}, headers=headers).raise_for_status().json()["key"]
    token = admin.post("/v1/agents/plant-1/tokens", json={}, headers=headers).raise_for_status().json()["token"]
    return str(token), str(key)


def _enrol(plant: Plant, token: str) -> None:
    """Enrol; the state begins after it."""
    kept = plant.site.file.read_text()
    plant.site.file.write_text(re.sub(r"(?m)^(urls|proxy) = .*$", "", kept).replace("[link]", '[link]\nproxy = "none"'))
    plant.site.enrol(token)
    plant.site.file.write_text(kept)


@contextlib.contextmanager
def _ear(path: Path) -> Iterator[None]:
    """Somebody who is told how a service is, and says nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(path))
        ear.setblocking(False)
        yield


def _bring_about(plant: Plant, caller: Caller, proxy: Proxy) -> None:
    name = plant.state.name
    if name in ("linked and idle", "linked and busy", "source down", "link cut again and again", "revoked"):
        until(lambda: caller.agent()["state"] == "online", f"{name}: linked")
    if name == "revoked":
        answer = caller.post("/v1/agents/plant-1/revoke", json={"reason": "soak"})
        assert answer.status_code == 200, answer.text
    if plant.state.toxics is not None:
        for direction in ("up", "down"):
            proxy.set("up" if direction == "up" else "down", plant.state.toxics)


def _watch(
    plants: Sequence[tuple[Plant, Proxy]], callers: dict[str, Caller], broker: Watched, data: Path, seconds: float
) -> list[Look]:
    began = time.monotonic()
    seen: list[Look] = []
    for turn in itertools.count():
        passed = time.monotonic() - began
        if passed > seconds:
            return seen
        for plant, proxy in plants:
            _stir(plant, callers[plant.tenant], proxy, turn)
            plant.look(passed)
        seen.append(look(broker.pid, data, passed))
        time.sleep(max(0.0, LOOK_S - (time.monotonic() - began - passed)))  # between two looks
    raise AssertionError("it counts without end")


def _stir(plant: Plant, caller: Caller, proxy: Proxy, turn: int) -> None:
    """Do what the state wants done again and again."""
    match plant.state.name:
        case "linked and busy":
            for operation, params in (
                ("echo", {}),
                ("rows", {"count": 2_000}),
                ("one", {}),
                ("drop", {"order_no": f"{turn}", "document": {"n": turn}}),
            ):
                caller.submit(operation, params)
            shutil.rmtree(plant.folder / "edi" / "archive", ignore_errors=True)
        case "source down":
            caller.submit("never", {}, ttl=5)
        case "link cut again and again":
            proxy.cut(reset=turn % 2 == 0)
