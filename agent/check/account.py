"""Whose rights a check is made with: they should be those of the service, or it finds what the service does not."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path

from agent.connectors.base import Finding

STAGE = "account"


def name() -> str:
    """Return the account of this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def told(*, by_agent: bool, reason: str = "") -> Finding:
    """
    Return whose rights this check is made with.

    Args:
        by_agent: whether the running agent has it made.
        reason: why it isn't, where that was wanted.
    """
    if by_agent:
        return Finding(STAGE, True, f"{name()}, as the running agent", stage=STAGE)
    if reason:
        return Finding(STAGE, None, f"{name()}; {reason}", code="account.other", stage=STAGE)
    return Finding(STAGE, True, name(), stage=STAGE)


if sys.platform == "win32":

    def take_on_that_of(folder: Path) -> str:
        """Return why this process does not get the service's rights: on Windows only the service itself has them."""
        return "no agent runs here now that could try it with the service's own account"

else:
    import pwd

    def take_on_that_of(folder: Path) -> str:
        """
        Become the account whose ``folder`` is, for good, if this is root; return why that can't be, or "".

        The service's sandbox is not taken on with it.
        """
        if os.geteuid() != 0:
            return ""
        try:
            owner = folder.stat().st_uid
            account = pwd.getpwuid(owner)
        except OSError as exc:
            return f"{folder} does not tell whose it is: {exc.strerror}"
        except KeyError:
            return f"{folder} belongs to no account of this machine"
        if owner == 0:
            return ""
        os.initgroups(account.pw_name, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
        os.environ.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name)
        return ""
