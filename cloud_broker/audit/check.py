"""Whether a chain of the audit trail is whole: the first record that does not fit is named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cloud_broker.audit import trail as audit
from cloud_broker.audit.lines import Kept
from cloud_broker.audit.trail import BEGINNING, Record


@dataclass(frozen=True, slots=True)
class Misfit:
    """
    The first record of a chain that does not fit.

    Attributes:
        number: of the record, as it should be.
        what: for people.
    """

    tenant: str
    number: int
    what: str


class Check:
    """
    Follows one chain from its beginning.

    Args:
        tenant: whose.
        kept: hashes that somebody kept, by the records' numbers; several may be told of one.
        whole: whether it must begin with its first record; a part of an export need not.
    """

    def __init__(self, tenant: str, kept: Mapping[int, set[str]], *, whole: bool = True) -> None:
        self.number = 0
        self.hash = BEGINNING
        self.misfit: Misfit | None = None
        self._tenant = tenant
        self._kept = kept
        self._anywhere = not whole

    def take(self, record: Record) -> bool:
        """Look at the next record; return whether all is well so far."""
        if self.misfit is None:
            what = self._wrong(record)
            if what is not None:
                self.misfit = Misfit(self._tenant, self.number + 1 if not self._anywhere else record.number, what)
            self.number, self.hash, self._anywhere = record.number, record.hash, False
        return self.misfit is None

    def end(self) -> Misfit | None:
        """There are no more; return what does not fit, if anything."""
        last = max(self._kept, default=0)
        if self.misfit is None and last > self.number:
            self.misfit = Misfit(
                self._tenant,
                self.number + 1,
                f"it is missing, with all behind it: somebody kept the hash of record {last}, and the chain ends at "
                f"{self.number}: it was cut, or put back to an earlier state",
            )
        return self.misfit

    def _wrong(self, record: Record) -> str | None:
        wanted = self.number + 1
        if record.tenant != self._tenant:
            return f"it is of another chain ({record.tenant!r})"
        if not self._anywhere and record.number < wanted:
            return f"after record {self.number} comes record {record.number}, which was there before"
        if not self._anywhere and record.number > wanted:
            missing = (
                "it is missing" if record.number == wanted + 1 else f"it and all up to {record.number - 1} are missing"
            )
            return missing
        if audit.hash_of(record) != record.hash:
            return "it was changed: its hash is of something else"
        if not self._anywhere and record.previous != self.hash:
            return "it does not follow the record before it: one of the two is not the one that was written"
        others = self._kept.get(record.number, set()) - {record.hash.hex()}
        if others:
            return f"somebody kept another hash of it ({min(others)}): the chain was written anew, here or before"
        return None


def by_chain(kept: Iterable[Kept]) -> dict[str, dict[int, set[str]]]:
    """Return hashes by tenant and by number."""
    found: dict[str, dict[int, set[str]]] = {}
    for one in kept:
        found.setdefault(one.tenant, {}).setdefault(one.number, set()).add(one.hash)
    return found
