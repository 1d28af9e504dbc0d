"""The operator's file as a command takes it: where it is, whose account reads it, where its log goes."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agent.config_file import Loaded

DEFAULT_FILE: Final = "agent.toml"
ENVIRONMENT_KEY: Final = "OUTHAUL_AGENT_CONFIG"


def system_file() -> Path:
    """Return where an installed agent has its file."""
    if sys.platform == "win32":
        return Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData")) / "Outhaul" / DEFAULT_FILE
    place, before = Path("/etc/outhaul-agent") / DEFAULT_FILE, Path("/etc/outhaul") / DEFAULT_FILE
    # Where 0.1.0 had it. By os.path, which says "no" of what lies in a folder that is closed to this account.
    return before if os.path.isfile(before) and not os.path.isfile(place) else place


def find_file(named: Path | None) -> Path:
    """Return the operator's file: the named one, the environment's, the one here, or the system's."""
    if named is not None:
        return named
    if os.environ.get(ENVIRONMENT_KEY):
        return Path(os.environ[ENVIRONMENT_KEY])
    here = Path(DEFAULT_FILE)
    return here if here.is_file() else system_file()


def load(named: Path | None, *, log_file: bool = False) -> Loaded:
    """Read the operator's file, and set up the log as it says; in the log's file only for who runs long."""
    # It takes longer to load than `--help` should take.
    from agent import config_file, logs

    loaded = config_file.load(find_file(named))
    _as_the_agent(loaded)
    logs.set_up(loaded.settings.log, loaded.base_dir if log_file else None)
    return loaded


def _as_the_agent(loaded: Loaded) -> None:
    """Go on with the account whose state_dir it is, where root asks: what root leaves there no service can read."""
    from agent.check import account

    who = user()
    if account.take_on_that_of(loaded.base_dir / loaded.settings.state_dir) == "" and user() != who:
        os.environ["SUDO_USER"] = who  # who asked is still to be known


def user() -> str:
    """Return who sits at the keyboard, also where they act for the agent's account."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
