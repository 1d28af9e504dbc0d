"""What was measured of each subject, kept as JSON: one may be measured again without the others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.figures import Figure, machine


@dataclass(frozen=True, slots=True)
class Measured:
    """
    One subject.

    Attributes:
        date: on which it was measured, as ``2026-11-22``.
        took_s: seconds.
        missing: a line for each peer that was not to be had, with the reason.
    """

    date: str
    took_s: float
    missing: Sequence[str]
    figures: Sequence[Figure]

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        figures = [figure.document() for figure in self.figures]
        return {"date": self.date, "took_s": round(self.took_s), "missing": self.missing, "figures": figures}


def kept(file: Path, *, short: bool) -> dict[str, Measured]:
    """Return what a file has of earlier runs that goes with this one: on such a machine, and as long."""
    try:
        document = json.loads(file.read_bytes())
        if (document["machine"], document["short"]) != (machine(), short):
            return {}
        return msgspec.convert(document["subjects"], dict[str, Measured])
    except (OSError, ValueError, KeyError):  # a file of an earlier release too
        return {}


def keep(file: Path, found: Mapping[str, Measured], *, short: bool) -> None:
    """Write all subjects."""
    subjects = {subject: measured.document() for subject, measured in found.items()}
    document = {"machine": machine(), "short": short, "subjects": subjects}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
