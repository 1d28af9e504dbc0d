"""Broker and agent of the demo, set up and started by their own commands, as an operator would."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloud_broker.client.api import Outhaul
from cloud_broker.client.errors import OuthaulError
from config.dev import processes
from config.dev.databases import HOST, free_port
from config.dev.demo.programs import Answer, Program, must, run
from config.dev.demo.story import Story

API_PORT, LINK_PORT = 8440, 8443  # what the broker takes by itself
TENANT: Final = "acme"
AGENT: Final = "plant-1"
HEAD_OFFICE: Final = "head-office.key"
SCOPES: Final = ("commands:write", "commands:read", "agents:read")


@dataclass(frozen=True, slots=True)
class Pair:
    """
    What runs.

    Attributes:
        folder: everything that is written, wiped at the next start.
        key: of a caller of the tenant.
    """

    folder: Path
    broker: Program
    agent: Program
    url: str
    key: str
    link_port: int

    @property
    def head_office(self) -> Path:
        """The file with the key that the head office signs with."""
        return self.folder / HEAD_OFFICE

    def caller(self) -> Outhaul:
        """Return a client of the HTTP API."""
        return Outhaul(self.url, self.key)

    def environment(self) -> dict[str, str]:
        """What the `outhaul` command wants to know."""
        # What it keeps stays in the demo's folder, not at home.
        home = str(self.folder / "caller")
        return {"OUTHAUL_URL": self.url, "OUTHAUL_KEY": self.key, "XDG_CONFIG_HOME": home, "APPDATA": home}

    def outhaul(self, story: Story, *words: str) -> Answer:
        """Run `outhaul` as a caller, and print what is asked and answered."""
        story.asks(["outhaul", *words])
        answer = run(["outhaul", *words], environment=self.environment())
        story.answers(answer.text)
        return answer

    def online(self) -> bool:
        """Whether the broker says that the agent is linked."""
        with self.caller() as client, contextlib.suppress(OuthaulError):
            return client.agent(AGENT).state == "online"
        return False


def head_office_key(folder: Path) -> str:
    """
    Make the key that the head office signs with; return its public half as the operator's file wants it.

    Raises:
        ProgramError: as `pair`.
    """
    words = ["outhaul", "keygen", "head-office", "--out", str(folder / HEAD_OFFICE), "--no-passphrase", "--json"]
    return str(json.loads(must(words))["public"])


@contextlib.contextmanager
def pair(
    folder: Path,
    operator_file: str,
    kept: Mapping[str, str],
    says: Callable[[str], None] = lambda _: None,
    *,
    usual_ports: bool = True,
    broker_settings: str = "",
) -> Iterator[Pair]:
    """
    Set broker and agent up and run them while the block runs.

    Args:
        folder: where their files go.
        operator_file: the text of the agent's file; it names the agent ``plant-1``.
        kept: the values of its secrets.
        says: told what happens, in sentences.
        usual_ports: whether the broker takes the ports that it takes by itself, where they are free.
        broker_settings: more of the broker's file, tables only.

    Raises:
        ProgramError: one of their commands failed; the text has its words.
    """
    api, link = (_port(API_PORT), _port(LINK_PORT)) if usual_ports else (free_port(), free_port())
    broker_file, agent_file = folder / "broker" / "broker.toml", folder / "agent" / "agent.toml"
    broker = Program(["outhaul-broker", "serve", "--config", str(broker_file)], folder / "broker.log")
    agent = Program(["outhaul-agent", "run", "--config", str(agent_file)], folder / "agent.log")
    with contextlib.ExitStack() as stack:
        stack.callback(broker.stop)
        stack.callback(agent.stop)
        says("In the cloud: a broker, set up and started.")
        url = _set_up_broker(broker_file, api, link, broker_settings)
        broker.start()
        broker.wait_until(lambda: _listens(broker, api, link), "listening")
        key, token = _let_in(broker_file)
        says(f"It answers callers at {url}, and agents on port {link}. A tenant, a caller's key, an agent's token.")
        says("Beside the ERP: an agent, with the operator's file, its secrets and a certificate of its own.")
        _set_up_agent(agent_file, operator_file, kept, token)
        running = Pair(folder, broker, agent, url, key, link)
        agent.start()
        agent.wait_until(running.online, "linked")
        yield running


def _set_up_broker(file: Path, api: int, link: int, more: str) -> str:
    file.parent.mkdir(parents=True)
    own = f'data_dir = "data"\n[api]\nlisten = "{HOST}:{api}"\n[link]\nlisten = "{HOST}:{link}"\n'
    file.write_text(own + more, "utf-8")
    made = json.loads(must(["outhaul-broker", "init", "--config", str(file), "--json"]))
    return str(made["api_url"])


def _let_in(file: Path) -> tuple[str, str]:
    config = ("--config", str(file))
    scopes = [word for scope in SCOPES for word in ("--scope", scope)]
    must(["outhaul-broker", "tenant", "create", TENANT, *config])
    key = json.loads(must(["outhaul-broker", "key", "create", "--tenant", TENANT, *scopes, *config, "--json"]))
    token = json.loads(
        must(["outhaul-broker", "token", "create", "--tenant", TENANT, "--agent", AGENT, *config, "--json"])
    )
    return str(key["key"]), str(token["token"])


def _set_up_agent(file: Path, operator_file: str, kept: Mapping[str, str], token: str) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(operator_file, "utf-8")
    config = ("--config", str(file))
    # By standard input: neither a secret nor the token is seen in a list of processes.
    for name, value in kept.items():
        must(["outhaul-agent", "secret", "set", name, *config], stdin=value)
    must(["outhaul-agent", "enroll", "--token", "-", *config], stdin=token + "\n")


def _port(wanted: int) -> int:
    """Return the usual port if it is free, else any that is."""
    with socket.socket() as probe:
        # As servers do, so that connections of an earlier run that fade away do not count.
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError:
            return free_port()
    return wanted


def _listens(broker: Program, *ports: int) -> bool:
    """Whether it is this broker that answers, and nobody who took its ports in the meantime."""
    try:
        return processes.of(broker.pid).listening.issuperset(ports)
    except processes.CannotTell:
        return all(_answers(port) for port in ports)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
        return True
    return False
