"""
What a call to the broker can end with, by what the caller can do about it.

* OuthaulError
    * ProblemError       the broker said no; ``status``, ``code`` and ``detail`` tell why
    * NotReachable       no broker answered; nothing is known beyond what it answered before
    * AgentKeyChanged    an agent shows other keys than it did before
    * TenantChanged      the broker names another tenant than before, for what is to be signed
    * SealBroken         a sealed result is not what the agent sealed, or this key is not for it
    * ResultCut          the rows ended too early; what came before is whole rows or part of one
    * SecondPersonWanted another person must approve what was asked for; ``approval`` is what waits
    * UnknownAnswer      something answered that is no broker of ours
    * ProfileError       where the broker is, or with which key, is not known
    * WordsError         what was asked for can't be what was meant
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloud_broker.client.records import Approval


class OuthaulError(Exception):
    """Anything that this package raises on purpose."""


class ProblemError(OuthaulError):
    """
    The broker said no (RFC 9457).

    Attributes:
        status: of the HTTP answer.
        code: stable, such as ``parameters_invalid``.
        title: the kind of problem, in words.
        detail: this problem, in words.
        errors: one entry for each wrong parameter, as the broker gave them.
        document: all of the problem document.
    """

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        self.status = status
        self.document = dict(document)
        self.type = _text(document.get("type")) or "about:blank"
        self.code = (
            _text(document.get("code")) or self.type.rstrip("/").replace("#", "/").replace(":", "/").split("/")[-1]
        )
        self.title = _text(document.get("title"))
        self.detail = _text(document.get("detail"))
        found = document.get("errors")
        self.errors: list[Any] = found if isinstance(found, list) else []
        super().__init__(self.detail or self.title or f"the broker answered {status}")


class NotReachable(OuthaulError):
    """No broker answered."""


class AgentKeyChanged(OuthaulError):
    """An agent shows other keys than those that were kept of it."""


class TenantChanged(OuthaulError):
    """The broker names another tenant than before, and the caller names none: nothing was signed."""


class SealBroken(OuthaulError):
    """A sealed result is not what the agent sealed for this call; nothing of it can be relied on from here on."""


class ResultCut(OuthaulError):
    """The rows ended before their end."""


class SecondPersonWanted(OuthaulError):
    """
    The broker has kept what was asked for, and does it once another person approves.

    Attributes:
        approval: what waits.
    """

    def __init__(self, approval: Approval) -> None:
        super().__init__(f"{approval.summary} wants two people, and waits for the second as {approval.id}")
        self.approval = approval


class UnknownAnswer(OuthaulError):
    """Something answered that is no Outhaul broker, or a much later one."""


class ProfileError(OuthaulError):
    """No broker or no key is known, or they can't be used."""


class WordsError(OuthaulError):
    """The words given can't be what was meant."""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
