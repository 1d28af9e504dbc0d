"""What of a result may leave the site: `columns` leaves the others out, `mask` hides values."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any, Final

from agent.errors import TooManyRows
from agent.settings import DropOperation, OperationBase, PickOperation

MASKED: Final = "***"  # stands for a masked value that is not null


class Leaving:
    """
    What of one run's result may leave; one object for each run.

    Names are compared as people read them: whatever their case, and without the spaces around them.
    """

    def __init__(self, operation: OperationBase) -> None:
        self._listed = None if operation.columns is None else {_read(name): name for name in operation.columns}
        self._hidden = {_read(name) for name in operation.mask}
        # Receipts of files are our own words, and what follows a pick needs them.
        self._receipts = type(operation) in (DropOperation, PickOperation)
        self._seen: set[str] = set()

    def lets(self, name: str) -> bool:
        """Whether a column or an output leaves; it counts as there from now on."""
        read = _read(name)
        self._seen.add(read)
        return self._listed is None or read in self._listed

    def hides(self, name: str) -> bool:
        """Whether its values are hidden."""
        return _read(name) in self._hidden

    def outputs(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs that leave, hidden where they are to be, also inside of others."""
        if self._receipts:
            return dict(values)
        return {name: self.value(name, value) for name, value in values.items() if self.lets(name)}

    def value(self, name: str, value: Any) -> Any:
        """Return a value as it leaves: hidden, or with what is hidden inside of it."""
        if not self._hidden:
            return value
        if self.hides(name):
            return None if value is None else MASKED
        if isinstance(value, dict):
            return {key: self.value(key, child) for key, child in value.items()}
        if isinstance(value, list):
            return [self.value("", child) for child in value]
        return value

    def missing(self) -> list[str]:
        """Return the names in `columns` that were not there."""
        return [name for read, name in (self._listed or {}).items() if read not in self._seen]


def too_many(operation: str, most: int) -> TooManyRows:
    """Return the refusal of a result with more than ``most`` rows; what came of it is no whole result."""
    return TooManyRows(
        f"{operation} has more than {most} rows, all that it may return (operations.{operation}.max_rows); an operator "
        "allows it by raising that number, a caller may ask for less"
    )


def columns_missing(operation: str, missing: list[str]) -> str:
    """Return what is wrong where a listed column is not there."""
    return (
        f"its result has no {' and no '.join(map(repr, missing))}, which operations.{operation}.columns lists; "
        "write there the names that the source has, or have the source return them"
    )


def _read(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()
