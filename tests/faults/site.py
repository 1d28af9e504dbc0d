"""Both programs under the lab: one broker, an agent for each of two tenants, and the ERP behind proxies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx2

from config.dev import processes
from config.dev.databases import free_port
from config.dev.demo.programs import Program, ProgramError
from tests.faults.erp import Erp
from tests.faults.program import Arming, arm, fired
from tests.faults.proxy import Proxy
from tests.whole.site import AgentSite, Broker, Caller

TENANTS: Final = ("acme", "globex")
LOOK_S: Final = 0.02  # seconds between two looks at a condition
READY_S: Final = 60.0  # seconds for a program to be there again
DIRECT: Final = '[link]\nproxy = "none"\n'
# What the second tenant may run: nothing that leaves a trace.
NEIGHBOURS: Final = (
    '[connections.probe]\ntype = "synthetic"\n[operations.echo]\nconnection = "probe"\nsynthetic = "echo"\n'
)


def until(ready: Callable[[], bool], what: str, within_s: float = READY_S) -> None:
    """Wait until ``ready`` says so; raises ``TimeoutError``."""
    deadline = time.monotonic() + within_s
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not {what} after {within_s:.0f} s")
        time.sleep(LOOK_S)


class Watched:
    """
    A program that is started again whenever it ends, as a service is.

    Attributes:
        folder: of its lab: ``armed`` and ``fired``.
        deaths: how often it ended without being asked to.
        next_life: what is to happen where once it was started again.
    """

    def __init__(self, name: str, folder: Path, config: Path, words: Sequence[str], before: Sequence[str] = ()) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._words = [*before, sys.executable, "-m", "tests.faults.program", str(folder), name, *words]
        self._words += ["--config", str(config)]
        self.program = Program(self._words, folder / "log")
        self._traced = any("strace" in word for word in before)
        self.deaths = 0
        self.next_life: Arming | None = None
        self._wanted = threading.Event()
        self._watching = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name=f"watch {name}", daemon=True)

    @property
    def pid(self) -> int:
        """Its process id; 0 while it does not run."""
        if self._traced and self.program.pid:
            return next(iter(processes.descendants(self.program.pid)), 0)
        return self.program.pid

    def start(self) -> None:
        """Start it, and again whenever it ends."""
        with self._lock:
            self.program.start()
            self._wanted.set()
        if not self._thread.is_alive():
            self._watching.set()
            self._thread.start()

    def close(self) -> None:
        """Stop it for good."""
        self._watching.clear()
        self._wanted.clear()
        if self._thread.is_alive():
            self._thread.join()
        if self._traced:
            # A tracer that is asked to end leaves its program alone.
            self.signal(signal.SIGTERM)
            until(lambda: not self.program.running, "stopped")
        self.program.stop()

    def kill(self) -> None:
        """Kill it, and leave it so until it is started."""
        with self._lock:
            self._wanted.clear()
            self.signal(signal.SIGKILL)
            until(lambda: not self.program.running, "killed")
            self.program.stop()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there."""
        with contextlib.suppress(ProcessLookupError):
            if pid := self.pid:
                os.kill(pid, number)

    def _watch(self) -> None:
        while self._watching.is_set():
            time.sleep(LOOK_S)
            with self._lock:
                if self._wanted.is_set() and not self.program.running:
                    self.deaths += 1
                    # One that fired must not fire again in the next life.
                    arm(self.folder, self.next_life)
                    self.next_life = None
                    self.program.stop()
                    self.program.start()


class Lab:
    """
    All of it, running.

    Attributes:
        link: the proxy between the agent ``plant-1`` of the first tenant and the broker.
        keys: of a caller of each tenant.
        sprung: how often a trap of a proxy has closed.
    """

    def __init__(
        self, folder: Path, erp: Erp, link: Proxy, ports: tuple[int, int], before: Mapping[str, Sequence[str]]
    ) -> None:
        """
        Args:
            ports: of the broker: API and link.
            before: words before those of a program, such as those of a tracer.
        """
        self.folder, self.erp, self.link = folder, erp, link
        self.sprung = 0
        self._made = Broker(folder / "broker")
        self._made.api_port, self._made.link_port = ports
        self._made.file.write_text(
            f'data_dir = "data"\n[api]\nlisten = "127.0.0.1:{ports[0]}"\n'
            f'[link]\nlisten = "127.0.0.1:{ports[1]}"\npublic_url = "wss://127.0.0.1:{link.port}"\n'
            '[retries]\nfirst = "100ms"\nmost = "400ms"\n'
        )
        self.url = self._made.url
        self.keys: dict[str, str] = {}
        first, second = TENANTS
        self._sites = {
            first: AgentSite(folder / first, DIRECT + erp.operator_file()),
            second: AgentSite(folder / second, DIRECT + NEIGHBOURS),
        }
        watch = partial(Watched, "agent", words=["run"])
        self.broker = Watched("broker", folder / "broker", self._made.file, ["serve"], before.get("broker", ()))
        self.agent = watch(folder / first, self._sites[first].file, before=before.get("agent", ()))
        self.neighbour = watch(folder / second, self._sites[second].file)

    @property
    def agent_site(self) -> AgentSite:
        """The folder and the words of the agent that faults are done to."""
        return self._sites[TENANTS[0]]

    @property
    def journal_folder(self) -> Path:
        """Where the agent's journal is."""
        return self.folder / TENANTS[0] / "state" / "journal"

    def start(self) -> None:
        """Set up and start everything; returns when both agents are linked."""
        admin = self._made.facts("init")["admin_key"]
        self.broker.start()
        until(self._made.ready, "serving")
        with ThreadPoolExecutor() as pool:
            secrets = pool.submit(self._keep_secrets)
            tokens = {tenant: self._let_in(admin, tenant) for tenant in TENANTS}
            secrets.result()
            list(pool.map(lambda tenant: self._sites[tenant].enrol(tokens[tenant]), TENANTS))
        self.agent.start()
        self.neighbour.start()
        self.wait_ready()

    def _keep_secrets(self) -> None:
        self.agent_site.secret("pg", self.erp.pg.password)
        self.agent_site.secret("my", self.erp.my.password)

    def _let_in(self, admin: str, tenant: str) -> str:
        """Make a tenant and its caller's key; return a token for its agent."""
        headers = {"Authorization": f"Bearer {admin}", "Outhaul-Tenant": tenant}
        with httpx2.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False) as client:
            client.post("/v1/tenants", json={"name": tenant}).raise_for_status()
            self.keys[tenant] = client.post("/v1/keys", json={"scopes": ["*"]}).raise_for_status().json()["key"]
            token: str = client.post("/v1/agents/plant-1/tokens", json={}).raise_for_status().json()["token"]
            return token

    def wait_ready(self) -> None:
        """
        Wait until the broker serves and both agents are linked.

        Raises:
            TimeoutError: they are not; the text has the ends of their logs.
        """
        try:
            until(self._made.ready, "serving")
            for tenant in TENANTS:
                with Caller(self.url, self.keys[tenant]) as caller:
                    until(partial(_linked, caller), f"{tenant} linked")
        except TimeoutError as exc:
            tails = "\n".join(watched.program.tail() for watched in (self.broker, self.agent, self.neighbour))
            raise TimeoutError(f"{exc}\n{tails}") from exc

    def linked(self) -> bool:
        """Whether the broker says that the agent is there."""
        with Caller(self.url, self.keys[TENANTS[0]]) as caller:
            return _linked(caller)

    def journal(self) -> dict[str, str]:
        """Return what the agent's journal has as the outcome of each command that has one."""
        answer = self.agent_site.cli("journal", "list", "--json", "--limit", "1000000")
        if answer.exit_code != 0:
            raise ProgramError(answer.text)
        return {entry["id"]: entry["outcome"] for entry in json.loads(answer.out) if entry["outcome"]}

    def driver_processes(self) -> list[int]:
        """Return the agent's driver processes."""
        return processes.descendants(self.agent.pid) if self.agent.pid else []

    def arm(self, arming: Arming | None, first: Arming | None = None) -> None:
        """Let something happen at a point of a program, and ``first`` at one of the agent; ``None`` for nothing."""
        self.agent.next_life = arming if first is not None else None
        arm(self.broker.folder, arming)
        arm(self.agent.folder, first or arming)

    def fired(self) -> list[str]:
        """Return the points at which something happened."""
        return [*fired(self.broker.folder), *fired(self.agent.folder)]

    def close(self) -> None:
        """Stop all."""
        problems = []
        for watched in (self.agent, self.neighbour, self.broker):
            try:
                watched.close()
            except ProgramError as exc:
                problems.append(str(exc))
        try:
            until(lambda: not self._left(), "alone", processes.GONE_S)
        except TimeoutError:
            problems.append(f"processes are left behind: {self._left()}")
        if problems:
            raise ProgramError("\n".join(problems))

    def _left(self) -> list[str]:
        """Return the command lines of processes of this lab, drivers of agents that died included."""
        found = []
        for path in processes.PROC.glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().decode(errors="replace").split("\0")
                if any(word.startswith(str(self.folder)) for word in words) and "tests.faults.program" in words:
                    found.append(" ".join(words))
        return found


def _linked(caller: httpx2.Client) -> bool:
    with contextlib.suppress(httpx2.TransportError):
        found: dict[str, Any] = caller.get("/v1/agents/plant-1").json()
        return found.get("state") == "online"
    return False


@contextlib.contextmanager
def lab(folder: Path, erp: Erp, before: Mapping[str, Sequence[str]] | None = None) -> Iterator[Lab]:
    """
    Run both programs while the block runs.

    Args:
        folder: empty; everything that they write goes there.
        before: as for ``Lab``; by ``broker`` and ``agent``.
    """
    with contextlib.ExitStack() as stack:
        ports = (free_port(), free_port())
        link = stack.enter_context(Proxy(ports[1]))
        made = Lab(folder, erp, link, ports, before or {})
        stack.callback(made.close)
        made.start()
        yield made
