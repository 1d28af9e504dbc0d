"""
Whether the agent that greets is the one that was here last.

With each Welcome an agent is given a new random text, which it keeps before it says Holding and shows with its next
Hello. A machine put back to an earlier state shows an older text and lives on. Of two machines with one identity each
shows what the other has made old: sooner or later one of them shows a text that was given up for the other's sake.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MAX_ABANDONED: Final = 8  # texts remembered of those that were given up
MAX_CHARS: Final = 100  # of a text; ours are shorter
GIVEN_BYTES: Final = 16  # of chance in a text


@dataclass(frozen=True, slots=True)
class Lineage:
    """
    What the broker remembers of the texts it gave to one agent.

    Attributes:
        tip: the last one; "" before the first.
        before: what the agent showed when it was given the tip.
        confirmed: whether the agent said Holding after it was given the tip, so that it certainly has it.
        abandoned: texts that were given up when an older one was shown, oldest first.
    """

    tip: str = ""
    before: str = ""
    confirmed: bool = False
    abandoned: tuple[str, ...] = ()


NEW: Final = Lineage()


class Verdict(StrEnum):
    """Who it is that shows a text."""

    SAME = "same"
    PUT_BACK = "put_back"  # or one of two, which will show
    TWO = "two"


def judge(kept: Lineage, shown: str) -> Verdict:
    """Return what the text means that an agent shows."""
    if shown and shown in kept.abandoned:
        # Unless the one for whose sake it was given up never had the text it was given: that was perhaps no other
        # machine, but an old greeting of this one, which came late.
        return Verdict.TWO if kept.confirmed else Verdict.PUT_BACK
    if not kept.tip or shown == kept.tip or (shown == kept.before and not kept.confirmed):
        return Verdict.SAME
    return Verdict.PUT_BACK


def follow(kept: Lineage, shown: str, fresh: str) -> Lineage:
    """Return what to remember when an agent that shows one text, and is not one of two, is given another."""
    abandoned = kept.abandoned
    if judge(kept, shown) is Verdict.PUT_BACK:
        # Not the one that is shown: a machine may be put back to the same state many times.
        given_up = [text for text in (kept.before, kept.tip) if text not in ("", shown, *abandoned)]
        abandoned = tuple(text for text in (*abandoned, *given_up) if text != shown)[-MAX_ABANDONED:]
    return Lineage(tip=fresh, before=shown, abandoned=abandoned)
