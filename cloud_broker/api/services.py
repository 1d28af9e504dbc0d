"""What the routes stand on; ``app.py`` gives it to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509
from fastapi import Request

from cloud_broker.approvals import Approvals
from cloud_broker.blobs import Blobs
from cloud_broker.commands import Submission
from cloud_broker.conditions import AgentCondition
from cloud_broker.dead_letters import DeadLetters
from cloud_broker.errors import BrokerError
from cloud_broker.replays import ReplayRuns
from cloud_broker.settings import Settings
from cloud_broker.store.agents import Agent
from cloud_broker.store.base import Store
from cloud_broker.store.commands import Command, RowSetInfo
from cloud_broker.tenants import Scope
from protocol.messages import Enrol, Enrolled


class RowReader(Protocol):
    """Rows of one row set on their way to a caller."""

    @property
    def columns(self) -> tuple[dict[str, str], ...]:
        """Dicts with ``name``, ``type``, ``source_type``, in order; none where it is sealed."""

    @property
    def sealed(self) -> bool:
        """Whether only the caller can read them: a part as in ``protocol/sealing.py``."""

    @property
    def rows_as(self) -> str:
        """What they are where they are not sealed: ``ndjson``, or ``arrow``, a stream of Arrow's IPC format."""

    def chunks(self) -> AsyncIterator[bytes]:
        """
        Yield its bytes in arbitrary pieces, also while the command still runs.

        Raises:
            ResultGone: the result is cut; what came so far is not all of it.
        """


class CommandsService(Protocol):
    """Commands from submission to the caller's answer."""

    async def submit(self, scope: Scope, submission: Submission) -> tuple[Command, bool]:
        """
        Keep a command; return it, and whether it is new rather than one with the same idempotency key.

        Raises:
            AgentNotFound, OperationNotFound, ParametersInvalid, IdempotencyKeyReused, StoreUnavailable
        """

    async def submit_many(
        self, scope: Scope, submissions: Sequence[Submission]
    ) -> list[tuple[Command, bool] | BrokerError]:
        """Keep commands, in order; return of each what ``submit`` does, or the error that it would raise."""

    def has_room(self, scope: Scope, count: int) -> bool:
        """Whether a tenant may have so many more commands under way."""

    async def get(self, scope: Scope, command_id: str) -> Command:
        """Return one command, or raise CommandNotFound."""

    async def wait(self, scope: Scope, command_id: str, timeout_s: float) -> Command:
        """Return one command once it is final, or as it is after ``timeout_s``; or raise CommandNotFound."""

    async def cancel(self, scope: Scope, command_id: str, by: str = "broker") -> Command:
        """Ask for its end and return it, whatever came of it; or raise CommandNotFound."""

    def waiting_for(self, scope: Scope, command: Command) -> str | None:
        """Return why a queued command waits; None for others."""

    async def row_sets(self, scope: Scope, command: Command) -> list[RowSetInfo]:
        """Return the row sets of a result, finished or so far."""

    async def open_rows(self, scope: Scope, command_id: str, index: int) -> RowReader:
        """
        Wait until a row set has begun and return its reader.

        Raises:
            CommandNotFound: there is no such command.
            RowSetNotFound: the command ended without this row set.
            ResultGone: the rows were removed, or never arrived whole.
        """

    def agent_condition(self, scope: Scope, agent: Agent) -> AgentCondition:
        """Return how an agent is."""

    async def drain(self, scope: Scope, agent: str, *, drained: bool, by: str) -> None:
        """Give an agent nothing new, or commands again."""


@dataclass(frozen=True, slots=True)
class Services:
    """
    What the routes stand on.

    Attributes:
        issue_token: of tenant, agent, group, seconds and actor; returns the token's text and when it expires.
        revoke_agent: of tenant, agent and actor; ends its link too. Returns whether there is such an agent.
        link_listening: whether agents can dial.
        dead_letters: what went wrong, and what people do about it.
        replay_runs: replays of many dead letters.
        approvals: what waits for a second person.
        blobs: contents that are too large for parameters.
        enrol: of the agent's name, a token's secret, a signing request (DER) and an address; as
            ``Admission.enrolled``.
        authorities: returns whom agents are to trust.
    """

    settings: Settings
    store: Store
    commands: CommandsService
    issue_token: Callable[[Scope, str, str | None, float, str], Awaitable[tuple[str, float]]]
    revoke_agent: Callable[[Scope, str, str], Awaitable[bool]]
    link_listening: Callable[[], bool]
    dead_letters: DeadLetters
    replay_runs: ReplayRuns
    approvals: Approvals
    blobs: Blobs
    enrol: Callable[[str, Enrol, bytes, str], Awaitable[tuple[Enrolled, bytes]]]
    authorities: Callable[[], list[x509.Certificate]]


def services(request: Request) -> Services:
    """Return what the application of this request stands on."""
    found: Services = request.app.state.services
    return found
