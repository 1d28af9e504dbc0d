"""
Secrets and keys for the running agent, opened by a short-lived process of the same program (``opening.py``).

The agent reads them when it starts and when it dials. They come through a pipe.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from agent.errors import EnrolmentError, SecretError
from agent.identity.held import PASSPHRASE
from agent.identity.keys import AgentKeys
from agent.secrets import open_store
from agent.secrets.base import SecretStore, check
from agent.secrets.opener import Opener
from agent.secrets.opening import Answer, Question
from agent.secrets.resolve import secret_names
from agent.settings import Settings

KEPT_S: Final = 60.0  # seconds for which a keyring's values are not asked for again; no file tells when they change


class UnlockedSecrets(SecretStore):
    """
    What another process reads.

    Values are kept until the vault's file changes.

    Args:
        opener: the first that is asked; else it is started at once.
    """

    def __init__(self, settings: Settings, base_dir: Path, opener: Opener | None = None) -> None:
        self._settings, self._base_dir = settings, base_dir
        self._vault = base_dir / settings.state_dir / "secrets.vault"
        self._names = frozenset({PASSPHRASE, *secret_names(settings)})
        self._lock = threading.Lock()
        self._values: dict[str, str] = {}
        self._asked: frozenset[str] = frozenset()
        self._stamp: object = None
        self._ready: Opener | None = opener or Opener()

    def open_keys(self) -> AgentKeys:
        """
        Return the agent's keys; only for the process that holds the journal, as they may be made.

        Raises:
            EnrolmentError: as ``keys.open_keys``.
            SecretError: as ``get``.
        """
        with self._lock:
            keys = self._ask(self._names, keys=True).keys
        if keys is None:
            raise SecretError("the agent's keys did not come; start the agent again")
        return keys

    def get(self, name: str) -> str | None:
        check(name)
        with self._lock:
            if name not in self._asked or self._stamp != self._now():
                self._ask({*self._names, name}, keys=False)
            return self._values.get(name)

    def set(self, name: str, value: str) -> None:
        open_store(self._settings, self._base_dir).set(name, value)

    def delete(self, name: str) -> bool:
        return open_store(self._settings, self._base_dir).delete(name)

    def names(self) -> list[str]:
        return open_store(self._settings, self._base_dir).names()

    def close(self) -> None:
        """End a process that was never asked."""
        with self._lock:
            opener, self._ready = self._ready, None
        if opener is not None:
            opener.close()

    def _now(self) -> object:
        """Return what is another one when the values may be others."""
        if self._settings.secrets.store == "keyring":
            return time.monotonic() // KEPT_S
        try:
            found = self._vault.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _ask(self, names: Iterable[str], *, keys: bool) -> Answer:
        # The stamp first: what is written meanwhile is then seen as a change.
        stamp, asked = self._now(), frozenset(names)
        question = Question(
            self._settings.agent,
            str((self._base_dir / self._settings.state_dir).absolute()),
            self._settings.secrets.store,
            tuple(sorted(asked)),
            keys,
        )
        answer = self._answer(question)
        if answer.error:
            raise (EnrolmentError if answer.of_enrolment else SecretError)(answer.error)
        # Keys that are made may have a passphrase made for them: that is no change.
        self._values, self._asked, self._stamp = answer.values, asked, self._now() if keys else stamp
        return answer

    def _answer(self, question: Question) -> Answer:
        opener, self._ready = self._ready, None
        if opener is None or not opener.fits:
            if opener is not None:
                opener.close()
            opener = Opener()
        said, code = opener.ask(msgspec.json.encode(question))
        try:
            return msgspec.json.decode(said, type=Answer)
        except msgspec.DecodeError as exc:
            raise SecretError(
                f"the process that opens secrets ended with code {code} and said nothing; what it complained of "
                "stands in the log before this"
            ) from exc
