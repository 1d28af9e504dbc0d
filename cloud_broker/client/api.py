"""The broker's HTTP API for Python callers: commands in, results out, streams in constant memory."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

import httpx2

from cloud_broker.client.approvals import ApprovalCalls
from cloud_broker.client.audit import AuditCalls
from cloud_broker.client.blobs import BlobCalls
from cloud_broker.client.bulk import BulkCalls
from cloud_broker.client.connection import Connection, checked_header
from cloud_broker.client.dead_letters import DeadLetterCalls, moment_text
from cloud_broker.client.errors import NotReachable, ResultCut, WordsError
from cloud_broker.client.known_agents import KnownAgent, check
from cloud_broker.client.ndjson import whole_lines
from cloud_broker.client.proofs import Sent, Verified, verify
from cloud_broker.client.records import Agent, Command, Operation, decode
from cloud_broker.client.requests import encoded, new_key, part
from cloud_broker.client.row_file import RowFile
from cloud_broker.client.sealing import SealedCall
from cloud_broker.client.signing import DEFAULT_VALID_S, Signer, work_of
from cloud_broker.client.unsealed import Unsealed

SILENCE_S: Final = 60.0  # seconds without a row after which we look whether the command still runs
MAX_WAIT_S: Final = 30.0  # seconds of one request that waits; common proxies cut idle ones after 60

RowsAs = Literal["ndjson", "arrow"]
RowFormat = Literal["ndjson", "csv", "arrow", "sealed"]
READ_BYTES: Final = 262_144  # bytes that a file of rows holds
MEDIA_TYPES: Final[dict[str, str]] = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv",
    "arrow": "application/vnd.apache.arrow.stream",
    "sealed": "application/octet-stream",
}


class Outhaul(AuditCalls, BulkCalls, DeadLetterCalls, ApprovalCalls, BlobCalls):
    """
    One broker, one key; safe to use from several threads. Close it, or use it in a ``with``.

    Args:
        url: such as ``https://broker.example.com``; ``http://`` for a loopback address only.
        key: an API key, or a token of the broker's OpenID issuer.
        tenant: for a key that spans tenants.
        silence_s: seconds without a row after which ``stream`` looks whether the command still runs.
        pause: waits between two tries; replaced in tests.

    Raises:
        ProfileError: the url can't be used, or would carry the key in clear.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        tenant: str | None = None,
        silence_s: float = SILENCE_S,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(Connection(url, key, tenant, silence_s, pause))
        self.url = self._connection.url
        self.tenant = tenant

    def __repr__(self) -> str:
        return f"<Outhaul {self.url}>"

    def __enter__(self) -> Outhaul:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._connection.close()

    # --- commands ---------------------------------------------------------------------------------

    def call(
        self,
        agent: str | None = None,
        operation: str = "",
        params: Mapping[str, Any] | None = None,
        *,
        group: str | None = None,
        wait_s: float = 0.0,
        idempotency_key: str | None = None,
        ttl_s: float | None = None,
        correlation_id: str | None = None,
        ordering_key: str | None = None,
        priority: int | None = None,
        sealed: SealedCall | None = None,
        signer: Signer | None = None,
        valid_s: float | None = None,
        version: str | None = None,
        signature: str | None = None,
        rows_as: RowsAs = "ndjson",
    ) -> Command:
        """
        Submit a command and return it, after at most about ``wait_s`` seconds, ended or not.

        A lost answer is asked for again with the same idempotency key, so it never runs twice.

        Args:
            agent: by name; exactly one of agent and group.
            params: JSON values; a Decimal is sent as a number, digit for digit, bytes as base64.
            idempotency_key: made up if ``None``; give your own to be able to repeat the call later.
            ttl_s: seconds until it may not start any more; ``None`` leaves it to the broker.
            sealed: from ``seal``, in place of agent, operation and params; ``unsealed`` reads what comes back.
            signer: signs it, for operations that want that.
            valid_s: seconds in which what was signed may run; as long as ``ttl_s`` or an hour, if ``None``.
            version: of the operation, that is signed; ``None`` takes what the broker tells.
            signature: of ``Signer.sign``, in place of signer, for who keeps it to verify what comes back; it is for one
                idempotency key.
            rows_as: ``arrow`` has the rows sent as an Arrow stream, which ``arrow`` reads, and nothing else does.

        Raises:
            ProblemError: the broker did not take it.
            WordsError: the params are no JSON values.
            NotReachable: no answer; whether it was taken is not known. The idempotency key is in the message.
        """
        body = {
            "agent": agent if sealed is None else sealed.agent,
            "group": group,
            "operation": operation if sealed is None else sealed.operation,
            "params": dict(params or {}) if sealed is None else None,
            "sealed": None if sealed is None else sealed.text,
            "seal_to": None if sealed is None else sealed.seal_to,
            "ttl": ttl_s,
            "correlation_id": correlation_id,
            "ordering_key": ordering_key,
            "priority": priority,
            "rows_as": rows_as if rows_as != "ndjson" else None,
        }
        key = idempotency_key if idempotency_key is not None else new_key()
        if signer is not None:
            work = work_of(self, agent, operation, params, group=group, sealed=sealed, version=version)
            signature = signer.sign(work, key, valid_s or ttl_s or DEFAULT_VALID_S)
        body["signature"] = signature
        first_wait_s = min(wait_s, MAX_WAIT_S)
        headers = {"Idempotency-Key": checked_header("idempotency key", key), "Content-Type": "application/json"}
        if first_wait_s > 0:
            headers["Prefer"] = f"wait={_whole_seconds(first_wait_s)}"
        content = encoded({name: value for name, value in body.items() if value is not None})
        started = time.monotonic()
        try:
            answer = self._connection.ask(
                "POST",
                "/v1/commands",
                content=content,
                headers=headers,
                wait_s=first_wait_s,
            )
        except NotReachable as exc:
            raise NotReachable(
                f"{exc}; the command may have been taken: repeat the call with the idempotency key {key}, "
                "then it never runs twice"
            ) from exc
        command = decode(answer.content, Command)
        left_s = wait_s - (time.monotonic() - started)
        if command.final or left_s <= 0:
            return command
        try:
            return self.command(command.id, wait_s=left_s)
        except NotReachable:
            # It was taken; an error here would hide its id.
            return command

    def command(self, command_id: str, *, wait_s: float = 0.0) -> Command:
        """
        Return a command, after at most about ``wait_s`` seconds or once it ended.

        Raises:
            ProblemError: 404, if there is none.
        """
        deadline = time.monotonic() + wait_s
        while True:
            left_s = min(max(deadline - time.monotonic(), 0.0), MAX_WAIT_S)
            query = {"wait": f"{left_s:.3f}"} if left_s > 0 else {}
            found = decode(self._get(f"/v1/commands/{part(command_id)}", query, wait_s=left_s), Command)
            if found.final or time.monotonic() >= deadline:
                return found

    def commands(
        self,
        *,
        state: str | None = None,
        operation: str | None = None,
        agent: str | None = None,
        correlation_id: str | None = None,
        since: datetime | str | None = None,
    ) -> Iterator[Command]:
        """Yield commands, newest first; pages are asked for as they are needed."""
        wanted = {
            "state": state,
            "operation": operation,
            "agent": agent,
            "correlation_id": correlation_id,
            "since": moment_text(since),
        }
        return self._items("/v1/commands", {name: value for name, value in wanted.items() if value}, Command)

    def cancel(self, command_id: str) -> Command:
        """
        Ask that a command be stopped and return it as it is then; one that runs may still end otherwise.

        Raises:
            ProblemError: 404, if there is none.
        """
        return decode(self._connection.ask("POST", f"/v1/commands/{part(command_id)}/cancel").content, Command)

    # --- sealed calls -----------------------------------------------------------------------------

    def seal(
        self, agent: str, operation: str, params: Mapping[str, Any] | None = None, *, agent_key: str | None = None
    ) -> SealedCall:
        """
        Return a call that only ``agent`` can read, and whose result only who has the returned object can.

        Args:
            agent_key: the agent's public key, ``x25519:…``; ``None`` asks the broker for it, keeps it at the first
                sight and takes no other one later (``known_agents``).

        Raises:
            AgentKeyChanged: the broker shows another key than before.
            WordsError: the agent has no key, or the params are no JSON values.
        """
        tenant, key = self.agent_seal_key(agent)[:2] if agent_key is None else (self.agent(agent).tenant, agent_key)
        return SealedCall.of(tenant, agent, operation, encoded(dict(params or {})), key)

    def agent_seal_key(self, name: str) -> tuple[str, str, Path | None]:
        """Return an agent's tenant and key as ``seal`` takes them, and where they are kept if they are new there."""
        known, new_in = self.known_agent(name)
        return known.tenant, known.seal, new_in

    def known_agent(self, name: str) -> tuple[KnownAgent, Path | None]:
        """
        Return an agent's tenant and keys, and where they are kept if they are new there.

        Raises:
            AgentKeyChanged: the broker shows other keys than before.
            WordsError: it has shown none.
        """
        found = self.agent(name)
        keys = found.keys or {}
        if not keys.get("seal"):
            raise WordsError(f"{name} has shown no keys: it was never linked, or is of an earlier release")
        known = KnownAgent(found.tenant, keys.get("sign", ""), keys["seal"])
        return known, check(self.url, self.tenant, name, known)

    def verify(
        self, command_id: str, *, agent_key: str | None = None, rows: bool = True, sent: Sent | None = None
    ) -> Verified:
        """
        Compare how a command ended with what its agent signed.

        Args:
            agent_key: the agent's public key, ``ed25519:…``; ``None`` asks the broker for it, keeps it at the first
                sight and takes no other one later (``known_agents``).
            rows: read them all, to compare them too.
            sent: what you have of what you sent; without it only the broker says that the proof is of your request.

        Raises:
            AgentKeyChanged: the broker shows another key than before.
            WordsError: it has not ended, or ``sent`` has no signature of a command.
        """
        return verify(self, self.command(command_id), agent_key, rows=rows, sent=sent)

    def unsealed(self, call: SealedCall) -> Unsealed:
        """Return what reads the result of a sealed call."""
        return Unsealed(self, call)

    # --- rows -------------------------------------------------------------------------------------

    def rows(self, command_id: str, set_index: int = 0) -> Iterator[dict[str, Any]]:
        """
        Yield the rows of one row set, one by one, also while the command still runs.

        Values as in the contract: decimals and times are strings, bytes base64.

        Raises:
            ResultCut: some are missing.
            ProblemError: 404, if there is no such command or row set.
        """
        return (json.loads(line) for line in self.lines(command_id, set_index))

    def lines(self, command_id: str, set_index: int = 0) -> Generator[bytes, None, None]:
        """Yield the rows as ``rows`` does, each as its JSON text."""
        count = 0
        with closing(self.stream(command_id, set_index)) as pieces:
            for line in whole_lines(pieces, f"the rows of {command_id}"):
                count += 1
                yield line
        self.check_count(command_id, set_index, count)

    def stream(
        self, command_id: str, set_index: int = 0, row_format: RowFormat = "ndjson"
    ) -> Generator[bytes, None, None]:
        """
        Yield the rows of one row set as bytes, in pieces as they come, also while the command still runs.

        Raises:
            ResultCut: the body ended too early.
            ProblemError: 404, if there is no such command or row set.
        """
        path, seen = f"/v1/commands/{part(command_id)}/rows", 0
        while True:
            try:
                with closing(
                    self._connection.body(path, {"set": str(set_index)}, MEDIA_TYPES[row_format], skip=seen)
                ) as pieces:
                    for piece in pieces:
                        seen += len(piece)
                        yield piece
                return
            except httpx2.ReadTimeout as exc:
                # A slow statement is no fault: rows of a running command may come at any time.
                if self.command(command_id).final:
                    raise ResultCut(f"the rows of {command_id} stopped after {seen:,} bytes") from exc

    def arrow(self, command_id: str, set_index: int = 0) -> io.BufferedReader:
        """
        Return one row set of a command that was called with ``rows_as="arrow"``, as a file of an Arrow stream.

        It reads on as the rows come, also while the command still runs: ``pyarrow.ipc.open_stream(file)``.

        Raises:
            ProblemError, ResultCut: by the file's reads, as ``stream`` does.
        """
        return io.BufferedReader(RowFile(self.stream(command_id, set_index, "arrow")), READ_BYTES)

    def check_count(self, command_id: str, set_index: int, count: int) -> None:
        """
        Compare a number of rows with what the broker says there are, once the command has ended.

        Raises:
            ResultCut: they differ.
        """
        command = self.command(command_id)
        if command.final and set_index < len(command.row_sets) and command.row_sets[set_index].rows != count:
            wanted = command.row_sets[set_index].rows
            raise ResultCut(f"row set {set_index} of {command_id} has {wanted:,} rows, {count:,} came")

    # --- agents -----------------------------------------------------------------------------------

    def agents(self) -> list[Agent]:
        """Return the tenant's agents."""
        return list(self._items("/v1/agents", {}, Agent))

    def agent(self, name: str) -> Agent:
        """Return one agent; ``raw`` has all that the broker tells of it."""
        return decode(self._get(f"/v1/agents/{part(name)}"), Agent)

    def drain(self, name: str, *, drained: bool = True) -> Agent:
        """
        Let an agent be given nothing new, or commands again, and return it; what it has comes to its end.

        Raises:
            ProblemError: 404, if there is none.
        """
        word = "drain" if drained else "undrain"
        return decode(self._connection.ask("POST", f"/v1/agents/{part(name)}/{word}").content, Agent)

    def operations(self, agent: str) -> list[Operation]:
        """Return what may be run on an agent."""
        return list(self._items(f"/v1/agents/{part(agent)}/operations", {}, Operation))


def _whole_seconds(wait_s: float) -> int:
    return max(1, round(wait_s))
