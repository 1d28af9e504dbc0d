"""
What can be found wrong, and what to do about it: one table for ``outhaul-agent check`` and for its page of the manual.

Whoever finds something wrong gives its ``code``; where the remedy depends on what was found, also a ``fix`` of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from agent.connectors.base import Finding

NOT_TRIED: Final = "not-tried"


@dataclass(frozen=True, slots=True)
class Remedy:
    """
    Attributes:
        means: what is wrong, and how it comes about.
        fix: what to do, in one line; stands under what failed.
    """

    means: str
    fix: str


REMEDIES: Final[dict[str, Remedy]] = {
    # --- file
    "file.broken": Remedy(
        "The operator's file can't be read, or something in it is wrong; each line names file, line and key.",
        "correct the file where the message says, then check again",
    ),
    # --- network
    "network.unreachable": Remedy(
        "The broker can't be reached, or refused this agent; the message says how far it came.",
        "see the message; the agent itself tries again by itself",
    ),
}


def not_tried(subject: str, first: str, *, stage: str = "") -> Finding:
    """Return that ``subject`` was left out because ``first`` failed, on which it depends."""
    return Finding(subject, None, f"not tried: {first} failed first", code=NOT_TRIED, stage=stage)


def with_remedy(finding: Finding) -> Finding:
    """Return a finding with what to do about it, if it failed."""
    if finding.ok is not False or finding.fix or finding.code not in REMEDIES:
        return finding
    return replace(finding, fix=REMEDIES[finding.code].fix)
