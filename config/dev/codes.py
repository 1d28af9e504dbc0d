"""The tables of ``docs/reference/errors.md``: each error code and problem, from the classes that carry them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

from agent.errors import AgentError, Cancelled, CommandError
from agent.exit_codes import EXIT_CODES
from agent.policy import judge
from cloud_broker.api.problems import type_of
from cloud_broker.errors import BrokerError
from config.dev.markdown import filled, table

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "reference" / "errors.md"
E = TypeVar("E", bound=Exception)

# Codes that the broker itself gives a command; a test reads the code for more.
BROKERS_OWN: Final = {
    "expired": (
        "`expired`",
        "`expired`",
        "deadline",
        "Its time was up before an agent could start it.",
    ),
    "agent_lost": (
        "",
        "`in_doubt`",
        "unknown",
        "The agent, or its process, was lost while the command was under way, and nobody can tell whether it happened.",
    ),
    "agent_silent": (
        "`failed`",
        "`in_doubt`",
        "technical or unknown",
        "Its agent is there, but did not tell what came of it, also long after its time was up.",
    ),
    "operation_changed": (
        "`failed`",
        "`failed`",
        "policy",
        "While it waited for an agent of its group, the operation was changed in their files: it fits no more.",
    ),
    "found_not_happened": (
        "`failed`",
        "`failed`",
        "technical",
        "It was in doubt, and a person found that it had not happened.",
    ),
    "result_lost": (
        "`failed`",
        "`in_doubt`",
        "technical",
        "It ran, but the rows that arrived do not agree with what the agent counted, or could not be kept.",
    ),
}


def tree(kind: type[E]) -> Iterator[type[E]]:
    """Yield a class and all its children, parents first, in the order of their file."""
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


def page() -> str:
    """Return the page, its tables made anew."""
    return filled(
        PAGE.read_text(encoding="utf-8"), {"command": _commands(), "request": _problems(), "agent": _agents_own()}
    )


def _commands() -> list[str]:
    # The code of a class that has children is that of no error: only the children are raised.
    rows = [_command_row(kind) for kind in tree(CommandError) if not kind.__subclasses__()]
    rows += [(f"`{code}`", *facts) for code, facts in BROKERS_OWN.items()]
    return table(("code", "`read`, `idempotent`", "`once`, `at-most-once`", "kind", "meaning"), rows)


def _problems() -> list[str]:
    rows = [
        (str(kind.status), f"`{kind.code}`", f"`{type_of(kind)}`", f"{kind.title}. {_meaning(kind)}")
        for kind in tree(BrokerError)
    ]
    return table(("status", "code", "type", "title, meaning"), rows)


def _agents_own() -> list[str]:
    kinds = [kind for kind in tree(AgentError) if not issubclass(kind, CommandError) and kind is not AgentError]
    rows = [(f"`{kind.code}`", str(_exit_code(kind)), _meaning(kind)) for kind in kinds]
    return table(("code", "exit code", "meaning"), rows)


def _command_row(kind: type[CommandError]) -> tuple[str, str, str, str, str]:
    wished = issubclass(kind, Cancelled)
    repeatable = judge(kind("", touched=True), "read", cancelled=wished)
    once = judge(kind("", touched=True), "at-most-once", cancelled=wished)
    kinds = " or ".join(dict.fromkeys((repeatable.kind, once.kind)))
    return f"`{kind.code}`", f"`{repeatable.outcome}`", f"`{once.outcome}`", kinds, _meaning(kind)


def _exit_code(kind: type[AgentError]) -> int:
    return next(code for known, code in EXIT_CODES if issubclass(kind, known))


def _meaning(kind: type[Exception]) -> str:
    return inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].replace("\n", " ").replace("``", "`")
