"""How a program begins: where a library is missing, the sentence that says what to install."""

from __future__ import annotations

import importlib
import sys
from typing import Final, NoReturn

_OURS: Final = ("protocol", "agent", "cloud_broker")


def start(program: str, module: str, extra: str) -> NoReturn:
    """Run ``main`` of ``module``, and leave with what it returns."""
    try:
        sys.exit(importlib.import_module(module).main())
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] in _OURS:
            raise
        sys.exit(
            f"{program}: the Python package {exc.name!r} is not installed here; "
            f"all that {program} needs comes with: pip install 'outhaul[{extra}]'"
        )
