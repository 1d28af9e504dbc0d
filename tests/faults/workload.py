"""Callers that want things done once, and ask again with the same key until somebody answers."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx2

from tests.faults.erp import System
from tests.faults.histories import HowOften, Mode, Told, Wish

ASK_AGAIN_S: Final = 0.1  # seconds between two tries of a caller that got no answer
WAIT_S: Final = 5.0  # seconds that a caller lets the broker keep it waiting
ONE_AGENT: Final = {"agent": "plant-1"}  # who is asked, where nobody says else
PATIENCE_S: Final = 60.0  # seconds until a caller gives up: then something is lost


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of wish; fields as in ``Wish``."""

    operation: str
    effect: HowOften
    system: System | None = None
    settled: bool = False
    mode: Mode = "ok"
    lines: int = 0
    ttl: float | None = None
    cancels: bool = False


POSTGRES: Final = (
    Work("pg-once", "once", "postgres", settled=True),
    Work("pg-once", "once", "postgres", settled=True),
    Work("pg-maybe", "at-most-once", "postgres"),
    Work("pg-verified", "at-most-once", "postgres", settled=True),
    Work("pg-once", "once", "postgres", settled=True, mode="reject"),
    Work("pg-once", "once", "postgres", settled=True, mode="fail"),
    Work("pg-maybe", "at-most-once", "postgres", mode="reject"),
    Work("pg-once", "once", "postgres", settled=True, cancels=True),
    Work("pg-once", "once", "postgres", settled=True, ttl=0.3),
    Work("pg-rows-once", "once", "postgres", settled=True, lines=40),
    Work("pg-rows-once", "once", "postgres", settled=True, lines=3_000),
    Work("pg-stock", "idempotent", "postgres"),
    Work("pg-read", "read", "postgres", lines=20_000),
    Work("pg-nap", "read", "postgres", cancels=True),
)
MARIADB: Final = (
    Work("my-once", "once", "mariadb", settled=True),
    Work("my-once", "once", "mariadb", settled=True),
    Work("my-maybe", "at-most-once", "mariadb"),
    Work("my-once", "once", "mariadb", settled=True, mode="reject"),
    Work("my-once", "once", "mariadb", settled=True, mode="fail"),
    Work("my-rows-once", "once", "mariadb", settled=True, lines=500),
)
FILES: Final = (
    Work("drop-once", "once", "files", settled=True),
    Work("drop-once", "once", "files", settled=True),
    Work("drop-maybe", "at-most-once", "files"),
)
SOAP: Final = (
    Work("post-verified", "at-most-once", "soap", settled=True),
    Work("post-verified", "at-most-once", "soap", settled=True),
    Work("post-maybe", "at-most-once", "soap"),
    Work("post-verified", "at-most-once", "soap", settled=True, mode="reject"),
)
PROBE: Final = (Work("echo", "read"), Work("rows", "read", lines=5_000))
OF_SYSTEM: Final[dict[System, tuple[Work, ...]]] = {
    "postgres": POSTGRES,
    "mariadb": MARIADB,
    "files": FILES,
    "soap": SOAP,
}
ORDERED: Final = ("pg-once", "my-once", "drop-once")


def wishes(rng: random.Random, run: str, works: Sequence[Work], callers: int) -> list[list[Wish]]:
    """
    Return what each caller wants, in the order in which it asks.

    Args:
        run: eight digits at most, unique; keys and order numbers begin with it.
        works: what there is to do, each once.
    """
    shuffled = list(works)
    rng.shuffle(shuffled)
    lists: list[list[Wish]] = [[] for _ in range(callers)]
    places: dict[tuple[int, str], int] = {}
    for number, work in enumerate(shuffled):
        caller = rng.randrange(callers)
        tenant, order_no = "acme", f"AC{run}{number:03d}"
        ordered = work.operation in ORDERED and rng.random() < 0.5
        wish = Wish(
            key=f"key-{run}-{number}",
            tenant=tenant,
            operation=work.operation,
            order_no=order_no,
            effect=work.effect,
            system=work.system,
            params=params(work, order_no),
            settled=work.settled,
            mode=work.mode,
            lines=work.lines,
            ttl=work.ttl,
            cancels=work.cancels,
        )
        if ordered:
            place = places[(caller, work.operation)] = places.get((caller, work.operation), -1) + 1
            wish = replace(wish, ordering_key=f"{run}-{caller}-{work.operation}", place=place)
        lists[caller].append(wish)
    lists[rng.randrange(callers)].append(_neighbours(run))
    return lists


def _neighbours(run: str) -> Wish:
    """Something that another tenant wants meanwhile."""
    order_no = f"GL{run}999"
    echo = Work("echo", "read")
    return Wish(f"key-{run}-g", "globex", "echo", order_no, "read", None, params(echo, order_no))


def params(work: Work, order_no: str) -> dict[str, Any]:
    """Return the parameters of one wish."""
    kind = work.operation
    if kind in ("pg-read", "rows"):
        return {"count": work.lines}
    if kind == "pg-nap":
        return {"seconds": 0.5}
    if kind == "echo":
        return {"text": order_no}
    if kind.endswith("rows-once"):
        return {"order_no": order_no, "count": work.lines}
    if kind == "pg-stock":
        return {"order_no": order_no}
    if kind.startswith("drop"):
        return {"order_no": order_no, "rows": [{"sku": "A-1", "qty": "3"}]}
    if kind.startswith("post"):
        due = "2019-01-31" if work.mode == "reject" else "2026-01-31"
        return {"invoiceNo": order_no, "customer": "C1", "amount": "10.50", "currency": "EUR", "dueDate": due}
    return {"order_no": order_no, "mode": work.mode}


class Caller:
    """One program that calls the broker, with the history of what it was told."""

    def __init__(
        self,
        url: str,
        keys: dict[str, str],
        seed: str,
        patience_s: float = PATIENCE_S,
        addressee: Mapping[str, str] = ONE_AGENT,
    ) -> None:
        self._addressee = addressee
        self._url, self._keys, self._patience_s = url, keys, patience_s
        self._random = random.Random(seed)  # noqa: S311 - it decides who asks twice
        self._clients: dict[str, httpx2.Client] = {}

    def run(self, wanted: Sequence[Wish], *, look_again: bool = True) -> list[Told]:
        """Ask for everything, in order; then wait for everything."""
        with contextlib.ExitStack() as stack:
            for tenant, key in self._keys.items():
                self._clients[tenant] = stack.enter_context(
                    httpx2.Client(
                        base_url=self._url,
                        headers={"Authorization": f"Bearer {key}"},
                        timeout=WAIT_S + 10,
                        trust_env=False,
                    )
                )
            there = [self._ask_for(wish) for wish in wanted]
            for told in there:
                if told.ids:
                    self._wait_for(told)
                    if look_again:
                        self._look_from_next_door(told)
            return there

    def _ask_for(self, wish: Wish) -> Told:
        told = Told(wish)
        self._submit(told)
        if told.ids and wish.cancels:
            self._answer(wish.tenant, "POST", f"/v1/commands/{told.ids[0]}/cancel")
        if told.ids and self._random.random() < 0.2:
            # Its first answer was lost on the way, as far as we know.
            self._submit(told)
        return told

    def _submit(self, told: Told) -> None:
        wish = told.wish
        body: dict[str, Any] = {**self._addressee, "operation": wish.operation, "params": wish.params}
        body["correlation_id"] = wish.order_no
        if wish.ttl is not None:
            body["ttl"] = wish.ttl
        if wish.ordering_key is not None:
            body["ordering_key"] = wish.ordering_key
        answer = self._answer(wish.tenant, "POST", "/v1/commands", body, {"Idempotency-Key": wish.key})
        if answer is None:
            told.refused = told.refused or f"no answer within {self._patience_s:.0f} s"
        elif answer.status_code in (200, 202):
            told.refused = ""
            command_id = answer.json()["id"]
            if command_id not in told.ids:
                told.ids.append(command_id)
        else:
            told.refused = f"{answer.status_code} {answer.text[:300]}"

    def _wait_for(self, told: Told) -> None:
        deadline = time.monotonic() + self._patience_s
        path = f"/v1/commands/{told.ids[0]}"
        found: dict[str, Any] = {}
        while time.monotonic() < deadline:
            answer = self._answer(told.wish.tenant, "GET", f"{path}?wait={WAIT_S}")
            if answer is None:
                return
            found = answer.json()
            if answer.status_code == 200 and found["finished_at"]:
                told.final = found
                break
            if answer.status_code != 200:
                told.final = {"state": f"gone: {answer.status_code}", **found}
                return
        if told.final is None:
            told.final = {**found, "state": f"not final: {found.get('state')}"}
            return
        if told.state == "succeeded" and told.wish.lines:
            self._read_rows(told, path)

    def _read_rows(self, told: Told, path: str) -> None:
        answer = self._answer(told.wish.tenant, "GET", f"{path}/rows")
        if answer is not None and answer.status_code == 200:
            rows = [json.loads(line) for line in answer.text.splitlines()]
            # The probe counts from 0 and calls it otherwise.
            first = told.wish.operation == "rows"
            told.rows = [{"n": next(iter(row.values())) + 1} for row in rows] if first else rows

    def _look_from_next_door(self, told: Told) -> None:
        """Another tenant must not see it, by its id or by its key."""
        other = next(tenant for tenant in self._keys if tenant != told.wish.tenant)
        answer = self._answer(other, "GET", f"/v1/commands/{told.ids[0]}")
        if answer is not None and answer.status_code != 404:
            told.leaked = f"{other} got {answer.status_code}"

    def _answer(
        self, tenant: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> httpx2.Response | None:
        """Ask until there is an answer that is no trouble of the broker's; ``None`` if there never was one."""
        deadline = time.monotonic() + self._patience_s
        while time.monotonic() < deadline:
            try:
                answer = self._clients[tenant].request(method, path, json=body, headers=headers)
                if answer.status_code < 500 and answer.status_code != 429:
                    return answer
            except httpx2.TransportError:
                pass
            time.sleep(ASK_AGAIN_S * (0.5 + self._random.random()))
        return None


def run_all(url: str, keys: dict[str, str], wanted: Sequence[Sequence[Wish]], seed: str) -> list[Told]:
    """Let all callers do their work at the same time; return what they were told, caller by caller."""
    with ThreadPoolExecutor(len(wanted)) as pool:
        callers = [pool.submit(Caller(url, keys, f"{seed}:{n}").run, wants) for n, wants in enumerate(wanted)]
        return [told for caller in callers for told in caller.result()]


def listed(url: str, key: str) -> Iterator[dict[str, Any]]:
    """Yield every command that the broker lists for a tenant."""
    cursor: str | None = None
    with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        while True:
            wanted = {"limit": "200", **({"cursor": cursor} if cursor else {})}
            page = client.get("/v1/commands", params=wanted).raise_for_status().json()
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return
