"""
Two agents of one group under callers, one of them killed or stopped every few seconds.

    python -m tests.faults --groups 5 [--seed N]

As many orders as keys must be in every system afterwards, save those of which it is told why they are in doubt.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2

from config.dev.databases import free_port
from tests.faults import checker, workload
from tests.faults.checker import Violation
from tests.faults.erp import Erp
from tests.faults.histories import Histories, Told, Wish
from tests.faults.run import explained, tally
from tests.faults.site import DIRECT, Watched, until
from tests.faults.workload import Caller, Work
from tests.whole.site import AgentSite, Broker

TENANT: Final = "acme"
NEIGHBOUR: Final = "globex"
GROUP: Final = "plants"
MEMBERS: Final = ("plant-1", "plant-2")
CALLERS: Final = 12
EACH: Final = 6  # wishes of one caller at a time
PATIENCE_S: Final = 300.0  # seconds without an end until a caller takes its command for lost
EVERY_S: Final = (1.0, 4.0)  # seconds between two faults, drawn from this range
AWAY_S: Final = (2.0, 8.0)  # seconds that one that is not started at once is away
STOPPED_S: Final = (1.0, 6.0)  # seconds that one is stopped, and goes on after that as if nothing had been
TELL_EVERY_S: Final = 30.0
LOOK_S: Final = 0.2
WORKS: Final = (
    Work("pg-once", "once", "postgres", settled=True),
    Work("pg-once", "once", "postgres", settled=True),
    Work("pg-verified", "at-most-once", "postgres", settled=True),
    Work("pg-maybe", "at-most-once", "postgres"),
    Work("pg-rows-once", "once", "postgres", settled=True, lines=200),
    Work("pg-stock", "idempotent", "postgres"),
    Work("pg-read", "read", "postgres", lines=2_000),
    Work("my-once", "once", "mariadb", settled=True),
    Work("my-once", "once", "mariadb", settled=True),
    Work("my-rows-once", "once", "mariadb", settled=True, lines=200),
    Work("drop-once", "once", "files", settled=True),
    Work("post-verified", "at-most-once", "soap", settled=True),
)
FAULTS: Final = ("killed", "killed", "killed and away", "stopped")


class GroupLab:
    """
    A broker, and the agents of one group.

    Attributes:
        members: by name, each started again when it ends.
        done: how often each fault was done.
    """

    def __init__(self, folder: Path, erp: Erp) -> None:
        self.folder, self.erp = folder, erp
        self._made = Broker(folder / "broker")
        self._made.api_port, self._made.link_port = free_port(), free_port()
        self._made.file.write_text(
            f'data_dir = "data"\n[api]\nlisten = "127.0.0.1:{self._made.api_port}"\n'
            f'[link]\nlisten = "127.0.0.1:{self._made.link_port}"\n[retries]\nfirst = "100ms"\nmost = "400ms"\n'
        )
        self.url = self._made.url
        self.keys: dict[str, str] = {}
        self.done: Counter[str] = Counter()
        text = DIRECT + patient(erp.operator_file())
        self._sites = {name: AgentSite(folder / name, text, agent=name) for name in MEMBERS}
        self.broker = Watched("broker", folder / "broker", self._made.file, ["serve"])
        self.members = {name: Watched("agent", folder / name, site.file, ["run"]) for name, site in self._sites.items()}

    def start(self) -> None:
        """Set up and start everything; returns when all members are linked."""
        admin = self._made.facts("init")["admin_key"]
        self.broker.start()
        until(self._made.ready, "serving")
        for tenant in (TENANT, NEIGHBOUR):
            with self._client(admin, tenant) as client:
                client.post("/v1/tenants", json={"name": tenant}).raise_for_status()
                self.keys[tenant] = client.post("/v1/keys", json={"scopes": ["*"]}).raise_for_status().json()["key"]
        for name, site in self._sites.items():
            site.secret("pg", self.erp.pg.password)
            site.secret("my", self.erp.my.password)
            with self._client(self.keys[TENANT]) as client:
                token = client.post(f"/v1/agents/{name}/tokens", json={"group": GROUP}).raise_for_status().json()
            site.enrol(token["token"])
            self.members[name].start()
        self.wait_ready()

    def _client(self, key: str, tenant: str = "") -> httpx2.Client:
        headers = {"Authorization": f"Bearer {key}", **({"Outhaul-Tenant": tenant} if tenant else {})}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def states(self) -> Mapping[str, str]:
        """Return how the broker says that each member is."""
        with contextlib.suppress(httpx2.TransportError), self._client(self.keys[TENANT]) as client:
            return {one["name"]: one["state"] for one in client.get("/v1/agents").json()["items"]}
        return {}

    def wait_ready(self) -> None:
        """Wait until all members are linked; raises ``TimeoutError`` with the ends of all logs."""
        try:
            until(lambda: set(self.states().values()) == {"online"}, "all linked")
        except TimeoutError as exc:
            tails = "\n".join(watched.program.tail() for watched in (self.broker, *self.members.values()))
            raise TimeoutError(f"{exc}\n{tails}") from exc

    def outcomes(self) -> dict[str, str]:
        """Return the outcome of each command as the members' journals have it: what happened at one has happened."""
        merged: dict[str, str] = {}
        for site in self._sites.values():
            for entry in self._entries(site):
                if entry["outcome"] and merged.get(entry["id"]) != "succeeded":
                    merged[entry["id"]] = entry["outcome"]
        return merged

    @staticmethod
    def _entries(site: AgentSite) -> list[dict[str, Any]]:
        answer = site.cli("journal", "list", "--json", "--limit", "1000000")
        assert answer.exit_code == 0, answer.text
        found: list[dict[str, Any]] = json.loads(answer.out)
        return found

    def fault(self, rng: random.Random, stop: threading.Event) -> None:
        """Do something to one member while all others are there, and leave it as it was."""
        name, what = rng.choice(MEMBERS), rng.choice(FAULTS)
        member = self.members[name]
        while any(self.states().get(other) != "online" for other in MEMBERS if other != name):
            # A group of which all are away is none.
            if stop.wait(LOOK_S):
                return
        self.done[what] += 1
        if what == "stopped":
            member.signal(signal.SIGSTOP)
            stop.wait(rng.uniform(*STOPPED_S))
            member.signal(signal.SIGCONT)
        elif what == "killed":
            member.signal(signal.SIGKILL)
        else:
            member.kill()
            stop.wait(rng.uniform(*AWAY_S))
            member.start()

    def close(self) -> None:
        """Stop all."""
        for watched in (*self.members.values(), self.broker):
            watched.signal(signal.SIGCONT)
            watched.close()


@dataclass(slots=True)
class GroupReport:
    """
    What was done and what came of it.

    Attributes:
        asked: how often another member was asked what became of something.
        at: how many commands ended at each member.
        faults: how often each was done.
        tallies, doubts: as in ``tests.faults.run.Report``.
    """

    commands: int = 0
    effects: int = 0
    asked: int = 0
    at: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    tallies: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return it for people."""
        return [
            f"{self.commands} commands of one group, {self.effects} effects",
            f"  members: {listed(self.faults)}; {self.asked} times another was asked; ended at {listed(self.at)}",
            *(f"  {line}" for line in self.tallies),
            f"  {len(self.doubts)} in doubt",
            *(f"    {count} of: {line[:300]}" for line, count in Counter(self.doubts).most_common()),
            f"  {len(self.violations)} violations",
            *(f"    {violation}" for violation in self.violations),
        ]


@contextlib.contextmanager
def group_lab(folder: Path, systems: Erp) -> Iterator[GroupLab]:
    """A lab that runs."""
    made = GroupLab(folder, systems)
    try:
        made.start()
        yield made
    finally:
        made.close()


def work(lab: GroupLab, seconds: float, seed: int, says: Callable[[str], None]) -> GroupReport:
    """Let callers work and members be lost for some time; return what came of it."""
    until_s = time.monotonic() + seconds
    told: list[Told] = []
    stop = threading.Event()
    with ThreadPoolExecutor(CALLERS + 1) as pool:
        killer = pool.submit(_lose, lab, random.Random(seed), stop)  # noqa: S311 - a seed that can be given again
        callers = [pool.submit(_call, lab, number, seed, until_s, told) for number in range(CALLERS)]
        while any(not caller.done() for caller in callers):
            stop.wait(min(TELL_EVERY_S, max(1.0, until_s - time.monotonic())))
            says(f"{len(told)} commands; {listed(lab.done)}")
            if time.monotonic() > until_s:
                stop.set()
                killer.result()
                for caller in callers:
                    caller.result()
    lab.wait_ready()
    commands = list(workload.listed(lab.url, lab.keys[TENANT]))
    seen = Histories(told, {TENANT: commands}, lab.outcomes(), lab.erp.effects(), lab.erp.stock(), [])
    return GroupReport(
        commands=len({command_id for one in told for command_id in one.ids}),
        effects=len(seen.effects),
        asked=(lab.folder / "broker" / "log").read_text(errors="replace").count("is asked what became of"),
        at=Counter(str(command["agent"]) for command in commands),
        faults=lab.done,
        tallies=tally(told, seen.effects),
        doubts=explained(told),
        violations=checker.check(seen),
    )


def _call(lab: GroupLab, number: int, seed: int, until_s: float, told: list[Told]) -> None:
    rng = random.Random(f"{seed}:{number}")  # noqa: S311 - a seed that can be given again
    caller = Caller(lab.url, lab.keys, f"{seed}:{number}", PATIENCE_S, {"group": GROUP})
    turn = 0
    while time.monotonic() < until_s:
        wanted: list[Wish] = workload.wishes(rng, f"{number:02d}{turn:05d}", rng.choices(WORKS, k=EACH), 1)[0]
        told += caller.run([wish for wish in wanted if wish.tenant == TENANT], look_again=turn % 10 == 0)
        turn += 1


def _lose(lab: GroupLab, rng: random.Random, stop: threading.Event) -> None:
    while not stop.wait(rng.uniform(*EVERY_S)):
        lab.fault(rng, stop)


def patient(operations: str) -> str:
    """Give the `verify` operations time: under load the start of a driver alone takes seconds."""
    for name in ("pg-find", "find-invoice"):
        operations = re.sub(rf"(\[operations\.{name}\][^\[]*timeout = )\"\d+s\"", r'\1"30s"', operations)
    return operations


def listed(counted: Counter[str]) -> str:
    """Return what was counted in one line."""
    return ", ".join(f"{count} {name}" for name, count in counted.most_common()) or "nothing yet"
