"""
The short-lived process that opens secrets and keys, and ends: ``outhaul-agent unlock``.

What opens a vault, a keyring and the agent's keys takes 10 MiB for as long as a process lives. It loads nothing that
its answer does not need, as the agent waits for it when it starts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import msgspec

from agent import discretion
from agent.errors import AgentError, EnrolmentError
from agent.identity.keys import AgentKeys, load_libraries, open_keys
from agent.secrets import store_of


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


def _answered(question: Question) -> Answer:
    try:
        state_dir = Path(question.state_dir)
        store = store_of(question.store, question.agent, state_dir)
        keys = open_keys(state_dir, store) if question.keys else None
        found = {name: store.get(name) for name in question.names}
    except AgentError as exc:
        return Answer(error=str(exc), of_enrolment=isinstance(exc, EnrolmentError))
    return Answer({name: value for name, value in found.items() if value is not None}, keys)


def main() -> NoReturn:
    """Answer one question: on standard input what is wanted, on standard output what it is; no question, no answer."""
    discretion.begin()  # before the first secret comes
    say = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    # While the agent gets ready to ask: what takes longest to load. Most have a vault.
    store_of("vault", "-", Path())
    load_libraries()
    asked = sys.stdin.buffer.read()
    if asked:
        with say:
            say.write(msgspec.json.encode(_answered(msgspec.json.decode(asked, type=Question))))
    # The agent waits for the end, and there is nothing to clear away: standard error, where a service has one, keeps
    # nothing back.
    os._exit(0)
