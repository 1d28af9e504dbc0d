"""systemd is told that the agent runs, lives and stops."""

from __future__ import annotations

import os
import socket
import sys
from typing import Final

from agent.service.base import Notifier

MORE_S: Final = 30  # seconds that an agent asks for, again and again, while what runs comes to its end


class SystemdNotifier(Notifier):
    """
    Says what ``sd_notify`` says, as datagrams; see the manual page sd_notify(3).

    Nothing waits for systemd, and what it does not take is lost: the next word comes in a few seconds.
    """

    def __init__(self, address: str) -> None:
        """
        Args:
            address: of the socket, as in ``NOTIFY_SOCKET``; ``@`` stands for the zero byte of one that is no file.
        """
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._stopping = False

    def ready(self) -> None:
        self._say("READY=1")

    def alive(self) -> None:
        more = f"\nEXTEND_TIMEOUT_USEC={MORE_S * 1_000_000}" if self._stopping else ""
        self._say(f"WATCHDOG=1{more}")

    def stopping(self) -> None:
        self._stopping = True
        self._say("STOPPING=1")

    def status(self, text: str) -> None:
        self._say("STATUS=" + " ".join(text.split()))

    def _say(self, text: str) -> None:
        if sys.platform == "win32":
            return  # another manager, another way
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
                to.setblocking(False)
                to.sendto(text.encode(), self._address)
        except OSError:
            pass  # there is nobody else to tell; a watchdog that hears nothing acts by itself


def watchdog_s() -> float | None:
    """Return in how many seconds systemd ends this process if it hears nothing; ``None`` if it never does."""
    told, of = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not told.isdecimal() or of not in ("", str(os.getpid())):
        return None
    return int(told) / 1_000_000
