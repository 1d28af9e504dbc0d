"""The process that opens secrets, as the agent sees it: started before it is needed, asked once."""

from __future__ import annotations

import os
import subprocess
import threading
from typing import Final

from agent.errors import SecretError
from agent.own_program import own_program

ANSWER_S: Final = 60.0  # seconds; a keyring may ask its person something
_NO_WINDOW: Final = getattr(subprocess, "CREATE_NO_WINDOW", 0)


class Opener:
    """
    A process that is started at once, as it takes a moment to get ready; it must be asked or closed.

    Raises:
        SecretError: it can't be started.
    """

    def __init__(self) -> None:
        self._account = _account()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [*own_program(), "unlock"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                creationflags=_NO_WINDOW,
            )
        except OSError as exc:
            raise SecretError(f"the process that opens secrets can't be started: {exc}") from exc

    @property
    def fits(self) -> bool:
        """Whether it may be asked: it was not yet, and has the account that this process has now."""
        return self._process.returncode is None and self._account == _account()

    def ask(self, question: bytes) -> tuple[bytes, int]:
        """
        Return what it says, and the code with which it ended.

        Raises:
            SecretError: it does not answer.
        """
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        # Not communicate()'s own timeout: that asks again and again whether the process has ended.
        alarm = threading.Timer(ANSWER_S, give_up)
        alarm.start()
        try:
            said, _ = self._process.communicate(question)
        finally:
            alarm.cancel()
        if late.is_set():
            raise SecretError(f"the store of secrets did not answer within {ANSWER_S:.0f} s")
        return said, self._process.returncode

    def close(self) -> None:
        """End it where it was never asked."""
        if self._process.returncode is None:
            self._process.communicate()


def _account() -> int:
    """Return whose rights this process has; root takes on the agent's account once it knows which that is."""
    return os.geteuid() if hasattr(os, "geteuid") else 0
