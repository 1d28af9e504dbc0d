"""
Secrets and keys for the running agent, opened by a short-lived process of the same program.

What opens a vault, a keyring and the agent's keys takes 10 MiB for as long as a process lives, and the agent reads
them when it starts and when it dials. They come through a pipe.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from agent import discretion
from agent.errors import AgentError, EnrolmentError, SecretError
from agent.identity.held import PASSPHRASE
from agent.identity.keys import AgentKeys, open_keys
from agent.own_program import own_program
from agent.secrets import open_store, secret_names
from agent.secrets.base import SecretStore, check
from agent.settings import Secrets, Settings

ANSWER_S: Final = 60.0  # seconds; a keyring may ask its person something
KEPT_S: Final = 60.0  # seconds for which a keyring's values are not asked for again; no file tells when they change
_NO_WINDOW: Final = getattr(subprocess, "CREATE_NO_WINDOW", 0)


class Question(msgspec.Struct, frozen=True):
    """
    Attributes:
        agent: whose secrets.
        state_dir: absolute.
        store: as the operator's file names it.
        names: of the secrets.
        keys: whether the agent's keys are wanted too; they are made where there are none.
    """

    agent: str
    state_dir: str
    store: str
    names: tuple[str, ...]
    keys: bool


class Answer(msgspec.Struct, frozen=True):
    """
    Attributes:
        values: of the secrets that there are.
        keys: the agent's.
        error: why there are none.
        of_enrolment: whether the error is one of the identity, and not of the store.
    """

    values: dict[str, str] = {}
    keys: AgentKeys | None = None
    error: str = ""
    of_enrolment: bool = False


class UnlockedSecrets(SecretStore):
    """
    What another process reads; the first is started at once, as it takes a moment to get ready.

    Values are kept until the vault's file changes.
    """

    def __init__(self, settings: Settings, base_dir: Path) -> None:
        self._settings, self._base_dir = settings, base_dir
        self._vault = base_dir / settings.state_dir / "secrets.vault"
        self._names = frozenset({PASSPHRASE, *secret_names(settings)})
        self._lock = threading.Lock()
        self._values: dict[str, str] = {}
        self._asked: frozenset[str] = frozenset()
        self._stamp: object = None
        self._ready: subprocess.Popen[bytes] | None = self._start()

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
            process, self._ready = self._ready, None
        if process is not None:
            process.communicate()

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
        process, self._ready = self._ready or self._start(), None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        # Not communicate()'s own timeout: that asks again and again whether the process has ended.
        alarm = threading.Timer(ANSWER_S, give_up)
        alarm.start()
        try:
            said, _ = process.communicate(msgspec.json.encode(question))
        finally:
            alarm.cancel()
        if late.is_set():
            raise SecretError(f"the store of secrets did not answer within {ANSWER_S:.0f} s")
        try:
            return msgspec.json.decode(said, type=Answer)
        except msgspec.DecodeError as exc:
            raise SecretError(
                f"the process that opens secrets ended with code {process.returncode} and said nothing; what it "
                "complained of stands in the log before this"
            ) from exc

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603 - our own program
                [*own_program(), "unlock", self._settings.secrets.store],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                creationflags=_NO_WINDOW,
            )
        except OSError as exc:
            raise SecretError(f"the process that opens secrets can't be started: {exc}") from exc


def _answered(question: Question) -> Answer:
    settings = Settings(
        agent=question.agent,
        state_dir=question.state_dir,
        secrets=msgspec.convert({"store": question.store}, Secrets),
    )
    try:
        store = open_store(settings)
        keys = open_keys(Path(question.state_dir), store) if question.keys else None
        found = {name: store.get(name) for name in question.names}
    except AgentError as exc:
        return Answer(error=str(exc), of_enrolment=isinstance(exc, EnrolmentError))
    return Answer({name: value for name, value in found.items() if value is not None}, keys)


def main() -> NoReturn:
    """Answer one question: on standard input what is wanted, on standard output what it is; no question, no answer."""
    discretion.begin()  # before the first secret comes
    say = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    # While the agent gets ready to ask: what takes longest to load.
    open_store(Settings(agent="-", state_dir=".", secrets=msgspec.convert({"store": sys.argv[2]}, Secrets)))
    asked = sys.stdin.buffer.read()
    if asked:
        with say:
            say.write(msgspec.json.encode(_answered(msgspec.json.decode(asked, type=Question))))
    sys.exit(0)
