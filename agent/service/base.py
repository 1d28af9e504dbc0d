"""What the agent is to the system's service manager, and the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

import msgspec

NAME: Final = "outhaul-agent"  # of the service, its account and its folders; on Windows each has its own spelling


class Notifier(Protocol):
    """
    Tells the service manager how the agent is.

    Any of them may be called from the event loop: none waits, none raises, and none has an effect where no service
    manager listens.
    """

    def ready(self) -> None:
        """It runs: whoever waits for it may go on."""

    def alive(self) -> None:
        """All its parts move on. Called every few seconds, also after ``stopping`` while what runs is brought to its
        end: then it asks for more time."""

    def stopping(self) -> None:
        """It was told to stop, and does so."""

    def status(self, text: str) -> None:
        """How it is, in one line for people."""


class Nobody(Notifier):
    """No service manager listens, as in a terminal."""

    def ready(self) -> None:
        pass

    def alive(self) -> None:
        pass

    def stopping(self) -> None:
        pass

    def status(self, text: str) -> None:
        pass


class ServiceStatus(msgspec.Struct, frozen=True):
    """
    The service as the system sees it.

    Attributes:
        installed: the system knows it.
        enabled: it starts with the machine.
        running: its process is there, and has said that it is ready.
        state: the system's own word for how it is; "" where there is none.
        account: it runs under; "" if unknown.
        config: the operator's file that it reads; "" if unknown.
        detail: what the agent last said of itself, or what went wrong; "" if nothing.
    """

    installed: bool
    enabled: bool = False
    running: bool = False
    state: str = ""
    account: str = ""
    config: str = ""
    detail: str = ""


class ServiceManager(Protocol):
    """
    What ``outhaul-agent service`` does, on one kind of system; a module with these functions is one.

    Each raises ``ServiceNotAllowed`` where the account may not, and ``ServiceError`` otherwise, with the fix.
    """

    def install(self, config: Path, account: str | None) -> list[str]:
        """
        Make the service and all that it needs, or mend what is there; it starts with the machine, but not now.

        A step that fails takes back what the steps before it have made; what was there before stays.

        Args:
            config: the operator's file; absolute.
            account: another one than the service's own.

        Returns:
            What was made or changed, a line for each; nothing if all was there.
        """

    def uninstall(self) -> list[str]:
        """Stop it and take it away; the operator's file and the agent's folders stay. Returns what was removed."""

    def start(self) -> None:
        """Start it, and wait until it says that it is ready; no error if it runs."""

    def stop(self) -> None:
        """Stop it, and wait until what ran has come to its end; no error if it does not run."""

    def status(self) -> ServiceStatus:
        """Tell how it is; that there is none is no error."""
