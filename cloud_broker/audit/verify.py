"""The chains of a store or of an export, checked from their beginnings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cloud_broker.audit import lines as audit_lines
from cloud_broker.audit.check import Check, Misfit
from cloud_broker.audit.lines import LineInvalid
from cloud_broker.store.base import Store

PART: Final = 2_000  # records read at a time


@dataclass(frozen=True, slots=True)
class Chain:
    """
    One chain, checked.

    Attributes:
        records: how many were looked at; with a misfit, up to and with it.
        head: hash of the last one, hex.
        misfit: the first record that does not fit; ``None`` if all do.
    """

    tenant: str
    records: int
    head: str
    misfit: Misfit | None


async def of_store(store: Store, kept: Mapping[str, Mapping[int, set[str]]], tenant: str | None = None) -> list[Chain]:
    """
    Check every chain of a store, those that somebody kept hashes of included.

    Args:
        kept: hashes by tenant and number (``audit_check.by_chain``).
        tenant: only this one's.
    """
    tenants = {one.name for one in await store.tenants()}
    there = {name for name, _, _ in await store.audit_chains()} | tenants
    names = sorted(there | kept.keys()) if tenant is None else [tenant]
    return [await _chain(store, Check(name, kept.get(name, {})), name, name in tenants) for name in names]


async def _chain(store: Store, check: Check, tenant: str, is_tenant: bool) -> Chain:
    count = 0
    while records := await store.audit_after(tenant, check.number if count else 0, PART):
        for record in records:
            count += 1
            if not check.take(record):
                return Chain(tenant, count, check.hash.hex(), check.misfit)
    misfit = check.end()
    if misfit is None and is_tenant and count == 0:
        misfit = Misfit(tenant, 1, "it is missing, with all behind it: each tenant's chain begins with its creation")
    return Chain(tenant, count, check.hash.hex(), misfit)


def of_export(lines: Iterable[bytes], kept: Mapping[str, Mapping[int, set[str]]]) -> list[Chain]:
    """
    Check an export of one or more chains; one that begins later than with a first record is believed to have had it.

    Raises:
        LineInvalid: a line is no record.
    """
    checks: dict[str, Check] = {}
    counts: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = audit_lines.decode(line)
        except LineInvalid as exc:
            raise LineInvalid(f"line {number}: {exc}") from exc
        check = checks.setdefault(record.tenant, Check(record.tenant, kept.get(record.tenant, {}), whole=False))
        if check.misfit is None:
            counts[record.tenant] = counts.get(record.tenant, 0) + 1
            check.take(record)
    return [Chain(name, counts[name], check.hash.hex(), check.end()) for name, check in sorted(checks.items())]
