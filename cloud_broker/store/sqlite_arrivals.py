"""The part of the embedded store for agents that come, stay and go: thousands at once after a restart."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from cloud_broker.store import records, together
from cloud_broker.store.agents import Agent, Arrival, Arrived, Linked
from cloud_broker.store.gathered import Gathered
from cloud_broker.store.sqlite_audit import head, note
from cloud_broker.store.sqlite_file import SqliteFile
from cloud_broker.store.tenants import Tenant
from cloud_broker.store.together import Kind
from cloud_broker.tenants import Scope

_TENANT: Final = 3  # columns of a standing that are the tenant's
_numbers = msgspec.json.Decoder(list[int])
_Name = tuple[str, str]  # tenant and agent
_Standing = tuple[Tenant | None, Agent | None]


class SqliteArrivals(SqliteFile):
    """Agents at the door and on their links."""

    _door: Gathered[_Name, _Standing]

    async def open(self) -> None:
        await super().open()
        self._door = Gathered(self._standings)

    async def standing(self, scope: Scope, name: str) -> _Standing:
        return await self._door.one((scope.tenant, name))

    async def _standings(self, names: Sequence[_Name]) -> list[_Standing]:
        def work(connection: sqlite3.Connection) -> list[_Standing]:
            known = _known(connection, names)
            return [known.get(name, (None, None)) for name in names]

        return await self._opened(self._points).read(work)

    async def doubtful(self, linked: Sequence[Linked]) -> list[int]:
        bound = msgspec.json.encode(linked).decode()
        return await self._one(lambda row: _numbers.decode(row[0]), "doubtful", linked=bound) or []

    async def arrived(self, arrival: Arrival) -> Arrived | None:
        found: Arrived | None = await self._write_one(_ARRIVE, _about(arrival.tenant, arrival.name), arrival)
        return found

    def has_kept(self, scope: Scope, name: str, given: str) -> None:
        self._send_one(_KEPT, _about(scope.tenant, name), (scope.tenant, name, given))

    async def agent_seen(
        self,
        scope: Scope,
        name: str,
        now: float,
        *,
        release: str = "",
        system: str = "",
        journal: str = "",
        position: int = 0,
    ) -> None:
        seen = (scope.tenant, name, now, release, system, journal, position)
        self._send_one(_SEEN, _about(scope.tenant, name), seen)


def _about(tenant: str, name: str) -> str:
    return f"agent {tenant}/{name}"


def _known(connection: sqlite3.Connection, names: Sequence[_Name]) -> dict[_Name, _Standing]:
    """Return what stands about those whose tenant there is."""
    known: dict[_Name, _Standing] = {}
    for cursor in together.run(connection, "standings_of", names):
        for row in cursor:
            tenant, agent, name = records.tenant(row[:_TENANT]), row[_TENANT:-1], str(row[-1])
            known[tenant.name, name] = (tenant, records.agent(agent) if agent[0] is not None else None)
    return known


def _arrive(connection: sqlite3.Connection, given: Sequence[Arrival]) -> list[Arrived | None]:
    names = [(arrival.tenant, arrival.name) for arrival in given]
    known = _known(connection, names)
    heads = {tenant: head(connection, tenant) for tenant in {tenant for tenant, _ in known}}
    changed: list[tuple[Any, ...]] = []
    seen: list[tuple[Any, ...]] = []
    arrived: list[Arrived | None] = []
    for arrival, name in zip(given, names, strict=True):
        tenant, before = known.get(name, (None, None))
        if tenant is None or before is None:
            arrived.append(None)
            continue
        agent = arrival.change(before)
        if agent != before:
            changed.append(records.identity_row(agent))
            if (act := arrival.noted(before, agent)) is not None:
                note(connection, act)
        refusal = arrival.refusal(tenant, agent)
        if refusal is None:
            seen.append((*name, arrival.at, arrival.release, arrival.system, arrival.journal, arrival.position))
        arrived.append(Arrived(before, agent, refusal, heads[tenant.name]))
    together.run(connection, "greeted", changed)
    together.run(connection, "seen", seen)
    return arrived


def _kept(connection: sqlite3.Connection, given: Sequence[tuple[str, str, str]]) -> list[None]:
    together.run(connection, "has_kept", given)
    return [None] * len(given)


def _seen(connection: sqlite3.Connection, given: Sequence[tuple[Any, ...]]) -> list[None]:
    together.run(connection, "seen", given)
    return [None] * len(given)


_ARRIVE: Final = Kind(0, _arrive, patient=True)
_KEPT: Final = Kind(1, _kept, patient=True)
_SEEN: Final = Kind(2, _seen, patient=True)
