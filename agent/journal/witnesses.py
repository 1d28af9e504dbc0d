"""What the broker's audit trail says of this journal: its export shows whether the journal was cut or rewritten."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from agent.journal.base import Anchor
from agent.journal.reading import Reading

_HEAD: Final = re.compile(r"(\d{1,15}):([0-9a-f]{64})")


class _Line(msgspec.Struct, frozen=True):
    tenant: str
    number: int
    at: str
    action: str
    actor: str
    detail: dict[str, Any]


_line: Final = msgspec.json.Decoder(_Line)


@dataclass(frozen=True, slots=True)
class Witness:
    """
    Where the journal stood, as the broker noted it.

    Attributes:
        number: of the record in the audit trail; ``at`` is its time.
        mark: of the journal.
        position: of the journal's record.
        head: of the chain there, hex.
    """

    number: int
    at: str
    mark: str
    position: int
    head: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    What came of it.

    Attributes:
        compared: witnesses of records that the journal still has.
        older: witnesses of records that were let go when it was written anew.
        misfit: the first that does not fit, for people; "" if all do.
    """

    compared: int
    older: int
    misfit: str


def of_export(lines: Iterable[bytes], tenant: str, agent: str) -> list[Witness]:
    """
    Return what an export of the audit trail (JSON lines) says of the journal of one agent, in its order.

    Args:
        tenant: the agent's; "" for whichever the export is of.

    Raises:
        ValueError: a line is no record of it.
    """
    found = []
    for count, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = _line.decode(line)
        except (ValueError, RecursionError) as exc:
            raise ValueError(f"line {count}: wants a record of the broker's audit trail: {exc}") from exc
        if record.actor == f"agent:{agent}" and tenant in ("", record.tenant):
            found += _witness(record)
    return found


def _witness(record: _Line) -> list[Witness]:
    detail = record.detail
    told = detail.get("head")
    if record.action == "journal_anchor":
        told = f"{detail.get('position')}:{told}"
    elif record.action == "journal_misfit":
        told = detail.get("has")
    elif record.action != "command_ended":
        return []
    match = _HEAD.fullmatch(told) if isinstance(told, str) else None
    if match is None:
        return []
    return [Witness(record.number, record.at, str(detail.get("journal", "")), int(match[1]), match[2])]


def compare(reading: Reading, witnesses: Sequence[Witness]) -> Comparison:
    """
    Compare a journal, read whole, with what the broker noted of it.

    Returns:
        Where the journal is another one than the broker last knew, that is the misfit.
    """
    if not witnesses:
        return Comparison(0, 0, "")
    last = witnesses[-1]
    if last.mark != reading.mark:
        return Comparison(
            0,
            0,
            f"the broker knows it as {last.mark!r} with {last.position} records ({_where(last)}), and this one is "
            f"{reading.mark!r}: it was begun anew, and the broker has not heard of that yet",
        )
    compared = older = 0
    misfits = []
    for one in witnesses:
        if one.mark != reading.mark:
            continue
        if one.position < reading.base:
            older += 1
            continue
        compared += 1
        if one.position > reading.position:
            misfits.append(
                (reading.position + 1, f"is missing: the broker knows {one.position} of them ({_where(one)})")
            )
        elif reading.heads.get(one.position, b"").hex() not in ("", one.head):
            misfits.append((one.position, f"or one before it was written anew: the broker has another ({_where(one)})"))
    if not misfits:
        return Comparison(compared, older, "")
    number, what = min(misfits)
    return Comparison(compared, older, f"record {number} {what}")


def _where(witness: Witness) -> str:
    return f"record {witness.number} of its audit trail, {witness.at}"


def contradiction(anchors: Sequence[Anchor]) -> str:
    """Return where the broker's own words about its audit trail contradict each other; "" if they don't."""
    last: dict[str, Anchor] = {}
    for one in anchors:
        before = last.get(one.tenant)
        if before is not None and one.number < before.number:
            return f"it had {before.number} records and then {one.number}: it was cut, or put back"
        if before is not None and one.number == before.number and one.hash != before.hash:
            return f"its record {one.number} had two hashes: it was written anew"
        last[one.tenant] = one
    return ""
