"""
Certificates renewed again and again while everything fails that can: no agent is ever locked out.

One broker that issues for some seconds only, and agents of as many tenants, each behind a proxy of its own. Every agent
goes through faults, one after the other, and after each it must come to a new certificate and be linked with it.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import httpx2

from config.dev.databases import free_port
from tests.faults.points import RENEWAL
from tests.faults.program import Arming, arm, fired
from tests.faults.proxy import Proxy, Toxics
from tests.faults.site import DIRECT, NEIGHBOURS, Watched, until
from tests.whole.site import AgentSite, Broker, Caller

PATIENCE_S: Final = 90.0  # seconds to come to a new certificate after a fault; then the agent is locked out
LOOK_S: Final = 0.05
ASLEEP: Final = ("agent.recover", "broker.recover")  # points that only an agent passes that slept past the end
REFUSED: Final = "agent.back"  # points that only an agent passes whose new certificate is refused
WRITES: Final = 8  # files that are written in one renewal, about
NO: Final = "the lab says no"
NOT_LET_IN: Final = Arming(
    "broker.greet.before", 1, "raise", error="cloud_broker.link.conversation:Refused", arguments=("refused", NO)
)
RAISED: Final = (
    # The broker gives none today; it does not let the agent in, as if the new certificate were wrong; its store fails.
    Arming("broker.next.before", 1, "raise", error="cloud_broker.identity.renewals:RenewalRefused", arguments=(NO,)),
    NOT_LET_IN,
    Arming("broker.greet.after", 1, "raise", error="cloud_broker.link.conversation:Refused", arguments=("revoked", NO)),
    Arming("broker.greet.before", 1, "raise", error="cloud_broker.errors:StoreUnavailable", arguments=(NO,)),
    Arming("broker.greet.after", 1, "raise", error="cloud_broker.errors:StoreUnavailable", arguments=(NO,)),
    Arming("broker.identity.before", 1, "raise", error="cloud_broker.errors:StoreUnavailable", arguments=(NO,)),
    Arming("broker.identity.after", 2, "raise", error="cloud_broker.errors:StoreUnavailable", arguments=(NO,)),
)

Kind = Literal["point", "sleep", "link", "suspend", "nothing"]


@dataclass(frozen=True, slots=True)
class Fault:
    """
    What happens once.

    Attributes:
        kind: ``point``: ``arming`` at a point; ``sleep``: the agent is off until its certificate has run out, and
            ``arming`` waits for it; ``link``: ``toxics`` on the link for a while; ``suspend``: the broker refuses the
            tenant for a while; ``nothing``.
        at: which program, for ``point`` and ``sleep``.
        besides: what happens at the broker besides, so that the agent passes the point.
    """

    kind: Kind
    at: Literal["agent", "broker"] = "agent"
    arming: Arming | None = None
    toxics: Toxics | None = None
    besides: Arming | None = None

    def __str__(self) -> str:
        if self.arming is not None:
            where = f"{self.arming.action} at {self.arming.point} ({self.arming.hit})"
            return where if self.kind == "point" else f"{self.kind}, {where}"
        return self.kind if self.toxics is None else f"{self.kind} {self.toxics}"


def faults() -> list[Fault]:
    """Return every fault once."""
    found = [Fault("nothing"), Fault("suspend"), Fault("sleep")]
    for point in RENEWAL:
        at: Literal["agent", "broker"] = "agent" if point.program == "agent" else "broker"
        kind: Kind = "sleep" if point.name.startswith(ASLEEP) else "point"
        besides = NOT_LET_IN if point.name.startswith(REFUSED) else None
        found += [Fault(kind, at, Arming(point.name, action=action), besides=besides) for action in ("kill", "cut")]
    # Again in a recovery, which goes another way.
    for name in ("agent.request.after", "agent.beside.before", "agent.beside.after", "agent.switch.after"):
        found += [Fault("sleep", "agent", Arming(name, action=action)) for action in ("kill", "cut")]
    for hit in range(1, WRITES + 1):
        full = Arming("agent.fsync.before", hit, "fail", errno.ENOSPC, 1.0)
        found += [Fault("point", "agent", full), Fault("sleep", "agent", full)]
    found.append(Fault("point", "agent", Arming("agent.lineage.before", 1, "fail", errno.EIO, 0.5)))
    found += [Fault("point", "broker", arming) for arming in RAISED]
    found += [
        Fault("link", toxics=toxics)
        for toxics in (
            Toxics(frozen=True),
            Toxics(swallowed=True),
            Toxics(latency_s=0.3, jitter_s=0.3),
            Toxics(slice_bytes=100),
            Toxics(cut_after=2_000),
            Toxics(cut_after=5_000, how="reset"),
            Toxics(cut_after=8_000, how="half"),
        )
    ]
    return found


@dataclass(slots=True)
class Told:
    """
    What came of it.

    Attributes:
        renewed: certificates that agents came to.
        fired: faults that happened, by what they are.
        missed: faults whose point was not passed.
        locked_out: agents that came to none, and the ends of their logs.
        events: how often the agents' logs have each event.
        deaths: ends of programs.
    """

    renewed: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    locked_out: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    deaths: int = 0


class Plant:
    """One agent of one tenant behind one proxy."""

    def __init__(self, number: int, folder: Path, lab: Lab, proxy: Proxy) -> None:
        self.tenant = f"plant{number}"
        self.proxy = proxy
        self._lab = lab
        self._caller: Caller | None = None
        self._folder = folder / self.tenant
        self.site = AgentSite(self._folder, DIRECT + '[log]\nformat = "json"\n' + NEIGHBOURS)
        self.agent = Watched("agent", self._folder, self.site.file, ["run"])

    def serial(self) -> str:
        """Return the serial of the certificate in force, or "" while there are two."""
        with contextlib.suppress(OSError):
            names = (self._folder / "state" / "identity" / "current").read_text().split()
            return names[0] if len(names) == 1 else ""
        return ""

    def linked(self) -> bool:
        """Whether the broker says that the agent is there, with the certificate that it has."""
        self._caller = self._caller or self._lab.caller(self.tenant)
        with contextlib.suppress(httpx2.TransportError, ValueError, KeyError):
            found: dict[str, Any] = self._caller.get("/v1/agents/plant-1").json()
            return bool(found["state"] == "online" and found["certificate"]["serial"] == self.serial())
        return False

    def events(self) -> Counter[str]:
        """Return how often the log has each event."""
        return Counter(re.findall(r'"event": ?"(\w+)"', (self._folder / "log").read_text("utf-8", "replace")))

    # --- faults -------------------------------------------------------------------------------------

    def go_through(self, fault: Fault, rng: random.Random) -> bool:
        """
        Let one fault happen and wait for the next certificate; return whether the fault was passed.

        Raises:
            TimeoutError: there is none: the agent is locked out.
        """
        before = self.serial() or self._settled("")
        passed = len(self._fired(fault))
        with self._under(fault, rng):
            self._settled(before)
        until(self.linked, f"{self.tenant} linked", PATIENCE_S)
        return fault.arming is None or len(self._fired(fault)) > passed

    def _settled(self, before: str) -> str:
        until(lambda: self.serial() not in ("", before), f"{self.tenant} renewed", PATIENCE_S)
        return self.serial()

    def _fired(self, fault: Fault) -> list[str]:
        return fired(self._program(fault).folder)

    def _program(self, fault: Fault) -> Watched:
        return self.agent if fault.at == "agent" else self._lab.broker

    @contextlib.contextmanager
    def _under(self, fault: Fault, rng: random.Random) -> Iterator[None]:
        """Have a fault while the block runs, or for a part of it."""
        with contextlib.ExitStack() as stack:
            if fault.at == "broker" or fault.besides is not None:
                # One at a time: there is one broker, and one file that says what is to happen in it.
                stack.enter_context(self._lab.turn)
            if fault.kind == "sleep":
                self.agent.kill()
                time.sleep(self._lab.life_s + rng.random())  # nothing to wait for: the certificate is to run out
            if fault.arming is not None:
                arm(self._program(fault).folder, fault.arming)
                stack.callback(arm, self._program(fault).folder, None)
            if fault.besides is not None:
                arm(self._lab.broker.folder, replace(fault.besides, about=repr(self.tenant)))
                stack.callback(arm, self._lab.broker.folder, None)
            if fault.kind == "sleep":
                self.agent.start()
            if fault.toxics is not None or fault.kind == "suspend":
                for_a_while = threading.Thread(
                    target=self._trouble, args=(fault, rng), name=f"trouble of {self.tenant}"
                )
                for_a_while.start()
                stack.callback(for_a_while.join)
            yield

    def _trouble(self, fault: Fault, rng: random.Random) -> None:
        """Have the line bad, or the tenant suspended, from some moment of a certificate's life to another."""
        time.sleep(rng.uniform(0, self._lab.life_s * 0.7))  # the moment is what is tried
        if fault.toxics is None:
            self._lab.suspend(self.tenant, rng.uniform(0.1, self._lab.life_s))
            return
        for direction in rng.choice((("up",), ("down",), ("up", "down"))):
            self.proxy.set("up" if direction == "up" else "down", fault.toxics)
        time.sleep(rng.uniform(0.2, self._lab.life_s))  # how long it is bad
        self.proxy.clear()


class Lab:
    """
    A broker and its plants.

    Attributes:
        turn: held by who does something to the broker.
        life_s: of a certificate, seconds.
    """

    def __init__(self, folder: Path, plants: int, life_s: float, stack: contextlib.ExitStack) -> None:
        self.life_s = life_s
        self.turn = threading.Lock()
        self._made = Broker(folder / "broker")
        self._made.api_port, self._made.link_port = free_port(), free_port()
        self._keys: dict[str, str] = {}
        self.plants = [
            Plant(number, folder, self, stack.enter_context(Proxy(self._made.link_port, seed=number)))
            for number in range(plants)
        ]
        self._write_file(self.plants[0].proxy.port)
        self.broker = Watched("broker", folder / "broker", self._made.file, ["serve"])
        self._stack = stack
        for watched in (self.broker, *(plant.agent for plant in self.plants)):
            stack.callback(watched.close)

    def _write_file(self, link_port: int) -> None:
        self._made.file.write_text(
            f'data_dir = "data"\n[api]\nlisten = "127.0.0.1:{self._made.api_port}"\n'
            f'[link]\nlisten = "127.0.0.1:{self._made.link_port}"\npublic_url = "wss://127.0.0.1:{link_port}"\n'
            f'[certificates]\nlife = "{self.life_s:g}s"\ngrace = "1h"\n'
        )

    def start(self) -> None:
        """Set up and start everything; returns when all agents are linked."""
        admin = self._made.facts("init")["admin_key"]
        self.broker.start()
        until(self._made.ready, "serving")
        for plant in self.plants:
            plant_token = self._let_in(admin, plant.tenant)
            plant.site.enrol(at(plant_token, plant.proxy.port))
            plant.agent.start()
        for plant in self.plants:
            until(plant.linked, f"{plant.tenant} linked")

    def _let_in(self, admin: str, tenant: str) -> str:
        headers = {"Authorization": f"Bearer {admin}", "Outhaul-Tenant": tenant}
        with httpx2.Client(base_url=self._made.url, headers=headers, timeout=60, trust_env=False) as client:
            client.post("/v1/tenants", json={"name": tenant}).raise_for_status()
            self._keys[tenant] = client.post("/v1/keys", json={"scopes": ["*"]}).raise_for_status().json()["key"]
            token: str = client.post("/v1/agents/plant-1/tokens", json={}).raise_for_status().json()["token"]
            return token

    def caller(self, tenant: str) -> Caller:
        """Return a caller of a tenant, for as long as there is this lab."""
        return self._stack.enter_context(Caller(self._made.url, self._keys[tenant]))

    def suspend(self, tenant: str, seconds: float) -> None:
        """Have the broker refuse a tenant for a while."""
        for word in ("suspend", "resume"):
            answer = self._made.cli("tenant", word, tenant)
            assert answer.exit_code == 0, answer.text
            if word == "suspend":
                time.sleep(seconds)  # how long it is suspended


def at(token: str, port: int) -> str:
    """Return a token that leads through another proxy."""
    body = token.removeprefix("oht1.")
    content = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    content["url"] = f"wss://127.0.0.1:{port}"
    return "oht1." + base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def renew(
    folder: Path,
    wanted: int,
    plants: int,
    seed: int,
    says: Callable[[str], None],
    *,
    life_s: float,
    chosen: Sequence[Fault] | None = None,
) -> Told:
    """
    Have certificates renewed under faults; return what came of it.

    Args:
        folder: empty; all that the programs write goes there.
        wanted: how many certificates agents are to come to.
        plants: agents at work beside each other.
        life_s: of a certificate, seconds; whole ones.
        chosen: the faults; all of them where it is ``None``, in an order that the seed gives.
    """
    told = Told()
    rng = random.Random(seed)  # noqa: S311 - a seed that can be given again
    every = list(faults() if chosen is None else chosen)
    queue: list[Fault] = []
    while len(queue) < wanted:
        rng.shuffle(every)
        queue += every
    queue = queue[:wanted]
    with contextlib.ExitStack() as stack:
        lab = Lab(folder, plants, life_s, stack)
        lab.start()
        with ThreadPoolExecutor(plants) as pool:
            parts = [queue[number::plants] for number in range(plants)]
            running = [
                pool.submit(_see_through, plant, part, random.Random(f"{seed}:{number}"), told, says)  # noqa: S311 - as above
                for number, (plant, part) in enumerate(zip(lab.plants, parts, strict=True))
            ]
            for future in running:
                future.result()
        told.deaths = lab.broker.deaths + sum(plant.agent.deaths for plant in lab.plants)
        for plant in lab.plants:
            told.events += plant.events()
    return told


def _see_through(
    plant: Plant, part: Sequence[Fault], rng: random.Random, told: Told, says: Callable[[str], None]
) -> None:
    for number, fault in enumerate(part, 1):
        try:
            passed = plant.go_through(fault, rng)
        except TimeoutError as exc:
            told.locked_out.append(f"{exc} after {fault}\n{plant.agent.program.tail()}")
            says(f"LOCKED OUT: {exc} after {fault}")
            return
        told.renewed += 1
        if passed:
            told.fired[fault.kind if fault.arming is None else f"{fault.kind}, {fault.arming.action}"] += 1
        else:
            told.missed[str(fault)] += 1
        if number % 25 == 0:
            says(f"{plant.tenant}: {number} of {len(part)}")
