"""The part of the client that is about what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, Literal, TypedDict, Unpack

from cloud_broker.client.records import Command, DeadLetter, ReplayPlan, ReplayRun, TimelineStep, decode
from cloud_broker.client.requests import Requests, new_key, part
from cloud_broker.client.signing import DEFAULT_VALID_S, Signer, Work

MOST: Final = 5000  # dead letters that one run may be about
Moment = datetime | str | None


class Filter(TypedDict, total=False):
    """
    Which dead letters; what is missing or ``None`` means any.

    Attributes:
        since: created then or later; ``before`` earlier.
        code: of their error.
    """

    state: str | None
    operation: str | None
    agent: str | None
    correlation_id: str | None
    since: Moment
    before: Moment
    code: str | None


class DeadLetterCalls(Requests):
    """Timelines, dead letters, what people find out, and replays."""

    def timeline(self, command_id: str) -> list[TimelineStep]:
        """
        Return what happened to a command, oldest first.

        Raises:
            ProblemError: 404, if there is none.
        """
        return list(self._items(f"/v1/commands/{part(command_id)}/timeline", {}, TimelineStep))

    def dead_letters(self, **wanted: Unpack[Filter]) -> Iterator[DeadLetter]:
        """Yield what needs a person, newest first; pages are asked for as they are needed."""
        return self._items("/v1/dead-letters", _given(wanted), DeadLetter)

    def resolve(
        self, command_id: str, found: Literal["happened", "not_happened"], *, who: str = "", note: str = ""
    ) -> Command:
        """
        Tell what was found out of a command in doubt; return it with its new state.

        Raises:
            ProblemError: 409, if it is not in doubt, or the opposite was found before.
        """
        body = {"found": found, "who": who, "note": note}
        return decode(self._post(f"/v1/commands/{part(command_id)}/resolve", body), Command)

    def replay(
        self,
        command_id: str,
        *,
        ttl_s: float | None = None,
        signer: Signer | None = None,
        work: Work | None = None,
        valid_s: float | None = None,
    ) -> Command:
        """
        Do a command again; return the new one, or the one that did it before.

        Args:
            signer: signs it anew, where it was signed before.
            work: what is signed, of ``signing.work_of``: of the parameters that the caller has, not of what the
                broker tells.
            valid_s: as of ``Outhaul.call``.

        Raises:
            ProblemError: 409, if it is under way, succeeded, is in doubt and must be resolved first, or was signed.
        """
        body: dict[str, Any] = {"ttl": ttl_s}
        headers = {}
        if signer is not None and work is not None:
            headers["Idempotency-Key"] = new_key()
            body["signature"] = signer.sign(work, headers["Idempotency-Key"], valid_s or ttl_s or DEFAULT_VALID_S)
        return decode(self._post(f"/v1/commands/{part(command_id)}/replay", body, headers), Command)

    def count_dead_letters(self, *, most: int = MOST, **wanted: Unpack[Filter]) -> ReplayPlan:
        """Return how many dead letters a replay would be about, at most ``most``, and how many are in doubt."""
        body = {"filter": _given(wanted), "max": most, "dry_run": True}
        return decode(self._post("/v1/dead-letters/replay", body), ReplayPlan)

    def replay_all(self, *, most: int | None = None, rate: float | None = None, **wanted: Unpack[Filter]) -> ReplayRun:
        """
        Have the broker do many dead letters again, oldest first; return the run, which goes on by itself.

        Args:
            most: how many at most; ``None`` leaves it to the broker, as ``rate`` a second.
        """
        body = {"filter": _given(wanted), "max": most, "rate": rate}
        # A lost answer is asked for again; then it must not become two runs.
        key = {"Idempotency-Key": new_key()}
        return decode(self._post("/v1/dead-letters/replay", body, key), ReplayRun)

    def replay_runs(self) -> Iterator[ReplayRun]:
        """Yield the runs that were asked for, newest first."""
        return self._items("/v1/dead-letters/replays", {}, ReplayRun)

    def replay_run(self, run_id: str) -> ReplayRun:
        """Return a run as it is now. Raises ``ProblemError``: 404, if there is none."""
        return decode(self._get(f"/v1/dead-letters/replays/{part(run_id)}"), ReplayRun)

    def cancel_replay(self, run_id: str) -> ReplayRun:
        """Stop a run after the command it is at; return it. Raises ``ProblemError``: 404, if there is none."""
        return decode(self._post(f"/v1/dead-letters/replays/{part(run_id)}/cancel", {}), ReplayRun)


def _given(wanted: Filter) -> dict[str, str]:
    asked = {**wanted, "since": moment_text(wanted.get("since")), "before": moment_text(wanted.get("before"))}
    return {name: str(value) for name, value in asked.items() if value}


def moment_text(moment: Moment) -> str | None:
    """Return a time as RFC 3339."""
    return moment.isoformat() if isinstance(moment, datetime) else moment
