"""Which release an agent is of, compared with the broker's own; pure."""

from __future__ import annotations

import re
from typing import Final

from cloud_broker import RELEASE

_NUMBERS: Final = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})")


def outdated(release: str) -> bool:
    """Whether a release is earlier than this one; what is no release of ours, or not known yet, is not."""
    own, found = _NUMBERS.match(RELEASE), _NUMBERS.match(release)
    if own is None or found is None:
        return False
    return tuple(map(int, found.groups())) < tuple(map(int, own.groups()))
