"""What libraries load for uses that are not ours: left behind, as it is most of what a start takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def left_behind(*names: str) -> Iterator[None]:
    """Have modules that are not loaded yet be empty while the block runs; who wants them afterwards gets them."""
    made = {name: ModuleType(name) for name in names if name not in sys.modules}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]
