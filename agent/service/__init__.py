"""The agent as a service of the system it runs on: who is told how it is, and who starts and stops it."""

from __future__ import annotations

import os
import sys

from agent.service.base import Nobody, Notifier
from agent.service.notify import SystemdNotifier


def notifier() -> Notifier:
    """Return the ear of the service manager that started this process, as its environment tells."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    return SystemdNotifier(address) if address and sys.platform != "win32" else Nobody()
