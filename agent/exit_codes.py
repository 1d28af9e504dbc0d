"""With what a command of ``outhaul-agent`` ends."""

from __future__ import annotations

from typing import Final

from agent.errors import (
    AgentError,
    ConfigError,
    EnrolmentError,
    LinkError,
    SecretError,
    ServiceNotAllowed,
    TokenRefused,
    UpgradeNotAllowed,
)

DONE, FAILED, WRONG_WORDS, NOT_REACHABLE, NOT_ALLOWED = range(5)

EXIT_CODES: Final[tuple[tuple[type[AgentError], int], ...]] = (
    (TokenRefused, NOT_ALLOWED),
    (ServiceNotAllowed, NOT_ALLOWED),
    (UpgradeNotAllowed, NOT_ALLOWED),
    (ConfigError, WRONG_WORDS),
    (LinkError, NOT_REACHABLE),
    (EnrolmentError, FAILED),
    (SecretError, FAILED),
    (AgentError, FAILED),
)


def code_of(error: AgentError) -> int:
    """Return the code for an error that ends a command."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
