"""Both programs as processes: what an operator and a platform team would start."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2

from config.dev.databases import free_port
from config.dev.demo.programs import Answer, Program, run

WAIT_S = 60  # seconds that a command may take in a test before something is wrong


class Broker:
    """One broker with its data folder; ``words`` start it."""

    def __init__(self, folder: Path, words: Sequence[str] = ("outhaul-broker",)) -> None:
        self.folder = folder
        self.api_port, self.link_port = free_port(), free_port()
        self.file = folder / "broker.toml"
        folder.mkdir(parents=True, exist_ok=True)
        self.file.write_text(
            f'data_dir = "data"\n[api]\nlisten = "127.0.0.1:{self.api_port}"\n'
            f'[link]\nlisten = "127.0.0.1:{self.link_port}"\n'
        )
        self.become(words)

    def become(self, words: Sequence[str]) -> None:
        """Be another release from now on; it must not run."""
        self._words = words
        self.program = Program([*words, "serve", "--config", str(self.file)], self.folder / "broker.log")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    def cli(self, *words: str) -> Answer:
        return run([*self._words, *words, "--config", str(self.file)])

    def facts(self, *words: str) -> Any:
        answer = self.cli(*words, "--json")
        assert answer.exit_code == 0, answer.text
        return json.loads(answer.out)

    def start(self) -> None:
        self.program.start()
        self.program.wait_until(self.ready, "serving")

    def ready(self) -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(f"{self.url}/readyz", timeout=5).status_code == 200
        return False

    def kill(self) -> None:
        """End it as a power cut would, as far as processes go."""
        os.kill(self.program.pid, signal.SIGKILL)
        self.program.stop()

    def tenant(self, name: str) -> Caller:
        answer = self.cli("tenant", "create", name)
        assert answer.exit_code == 0, answer.text
        return Caller(self.url, self.facts("key", "create", "--tenant", name, "--scope", "*")["key"])

    def token(self, tenant: str, agent: str, *words: str) -> str:
        token: str = self.facts("token", "create", "--tenant", tenant, "--agent", agent, *words)["token"]
        return token


class Caller(httpx2.Client):
    """A caller of the HTTP API."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=WAIT_S + 10)
        self.key = key

    def submit(
        self, operation: str, params: Any = None, *, agent: str | None = "plant-1", **more: Any
    ) -> httpx2.Response:
        headers = more.pop("headers", {})
        body = {"agent": agent, "operation": operation, "params": params or {}, **more}
        return self.post("/v1/commands", json=body, headers=headers)

    def run(self, operation: str, params: Any = None, **more: Any) -> dict[str, Any]:
        """Submit a command and return it in its final state."""
        headers = {"Prefer": f"wait={WAIT_S}", **more.pop("headers", {})}
        answer = self.submit(operation, params, headers=headers, **more)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def final(self, command: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/v1/commands/{command['id']}", params={"wait": WAIT_S}).json()
        assert found["finished_at"], found
        return found

    def rows(self, command: dict[str, Any], index: int = 0) -> list[dict[str, Any]]:
        answer = self.get(f"/v1/commands/{command['id']}/rows", params={"set": index})
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]

    def agent(self, name: str = "plant-1") -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/v1/agents/{name}").json()
        return found


class AgentSite:
    """One agent with its folder; ``text`` is the operator's file without its first lines, ``words`` start it."""

    def __init__(
        self, folder: Path, text: str, *, agent: str = "plant-1", words: Sequence[str] = ("outhaul-agent",)
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.agent = agent
        self.file = folder / "agent.toml"
        self.write(text)
        self.become(words)

    def become(self, words: Sequence[str]) -> None:
        """Be another release from now on; it must not run."""
        self._words = words
        self.program = Program([*words, "run", "--config", str(self.file)], self.folder / "agent.log")

    def write(self, text: str) -> None:
        self.file.write_text(f'agent = "{self.agent}"\nstate_dir = "state"\n{text}', encoding="utf-8")

    def cli(self, *words: str, stdin: str = "") -> Answer:
        return run([*self._words, *words, "--config", str(self.file)], stdin=stdin)

    def secret(self, name: str, value: str) -> None:
        answer = self.cli("secret", "set", name, stdin=value)
        assert answer.exit_code == 0, answer.text

    def enrol(self, token: str) -> None:
        answer = self.cli("enroll", "--token", token)
        assert answer.exit_code == 0, answer.text

    def start(self, caller: Caller) -> None:
        self.program.start()
        self.program.wait_until(lambda: caller.agent(self.agent).get("state") == "online", "online")

    def kill(self) -> None:
        os.kill(self.program.pid, signal.SIGKILL)
        self.program.stop()


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[Broker]:
    """A broker, initialised and serving."""
    made = Broker(folder)
    made.facts("init")
    made.start()
    try:
        yield made
    finally:
        made.program.stop()


@contextlib.contextmanager
def agent(made: AgentSite, by: Broker, caller: Caller, tenant: str = "acme") -> Iterator[AgentSite]:
    """An agent, enrolled and online."""
    made.enrol(by.token(tenant, made.agent))
    made.start(caller)
    try:
        yield made
    finally:
        made.program.stop()


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process had at once."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def children(pid: int) -> list[int]:
    """Return the direct children of a process."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def listening(pid: int) -> list[int]:
    """Return the TCP ports that a process listens on."""
    try:
        inodes, theirs = _sockets(pid), set[str]()
    except PermissionError:
        # An agent's process can be looked into by root only: whatever of ours is of no other process is its own.
        inodes, theirs = set(), set()
        for process in Path("/proc").iterdir():
            if process.name.isdecimal():
                with contextlib.suppress(OSError):
                    theirs |= _sockets(int(process.name))
    ports = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            own = words[9] in inodes if inodes else int(words[7]) == os.getuid() and words[9] not in theirs
            if words[3] == "0A" and own:
                ports.append(int(words[1].rpartition(":")[2], 16))
    return ports


def _sockets(pid: int) -> set[str]:
    """Return the numbers of a process's sockets."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    return found


def refuses(port: int) -> bool:
    """Whether nothing listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
