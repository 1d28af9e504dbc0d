"""Many commands in one request: a line in for each, a line out for each, as they come."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from cloud_broker.api import headers, problems
from cloud_broker.api.auth import Caller, caller
from cloud_broker.api.bodies import ENVELOPE_BYTES, decoded
from cloud_broker.api.openapi import describe
from cloud_broker.api.services import services
from cloud_broker.api.submissions import NewCommand, submission_of
from cloud_broker.api.turnstile import turnstile, visit
from cloud_broker.api.views import CommandView, command_view
from cloud_broker.commands import Submission
from cloud_broker.errors import BrokerError, ContentTypeUnsupported, RequestInvalid, RequestTooLarge, TenantSuspended
from cloud_broker.store.commands import Command
from protocol.states import FINAL, CommandState

NDJSON: Final = "application/x-ndjson"
TAKEN: Final = (NDJSON, "application/ndjson", "application/jsonl", "application/jsonlines")
LINES_AT_ONCE: Final = 128  # kept in one transaction; few enough that others who write wait some milliseconds only
MOST_UNREAD: Final = 1_048_576  # bytes of answers that one request may have waiting
PATIENCE_S: Final = 10.0  # seconds; so long lines wait for the tenant's other commands to end before they are refused
LOOK_S: Final = 0.02  # seconds between two looks whether there is room

router = APIRouter(prefix="/v1/commands", tags=["commands"])
log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode

# Why commands wait, by agent, group, connection and version of their operation.
Obstacles = dict[tuple[str | None, str | None, str, str], str | None]


class NewLine(NewCommand, frozen=True):
    """
    A command, as one line.

    Attributes:
        idempotency_key: what the header Idempotency-Key is to a single one.
    """

    idempotency_key: str | None = None


class LineTaken(msgspec.Struct, frozen=True):
    """
    What became of a line: the command is kept.

    Attributes:
        line: its number; the first is 1.
        status: as of a single submission: 202, or 200 for an earlier one that is final.
    """

    line: int
    status: int
    command: CommandView


class LineRefused(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    What became of a line: nothing was kept.

    Attributes:
        line: its number; the first is 1.
        status: as of a single submission.
        problem: its problem document.
        retry_after: seconds, as the header Retry-After has them, where sending it again may help.
    """

    line: int
    status: int
    problem: dict[str, Any]
    retry_after: int | None = None


class Lines:
    """
    Takes a body apart into lines as it comes. One beyond the limit is passed over; a blank one only counts.

    Args:
        limit: bytes of one line; no more is held.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._number = 0
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Yield number and text of each line that ends in this piece; ``None`` for one beyond the limit."""
        *ended, rest = piece.split(b"\n")
        for part in ended:
            self._keep(part)
            yield from self.end()
        self._keep(rest)

    def end(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield the line that the body ends with, or that ends here."""
        text = b"".join(self._parts).strip() if self._size <= self._limit else None
        self._number += 1
        self._parts, self._size = [], 0
        if text != b"":
            yield self._number, text

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self._limit:
            self._parts.append(part)
        else:
            self._parts.clear()


EXAMPLE: Final = {
    "agent": "plant-1",
    "operation": "create-sales-order",
    "params": {"customer": "C042"},
    "idempotency_key": "order-4711",
}


@router.post(
    "/bulk",
    **describe(
        "Submit many commands",
        scope="commands:write",
        answers={200: ("For each line one, in the same order: its command, or why it was not taken.", None)},
        problems=[ContentTypeUnsupported, TenantSuspended],
        lines=(NewLine, (LineTaken, LineRefused), NDJSON),
        example=EXAMPLE,
    ),
)
async def bulk(request: Request) -> Response:
    """
    Keep a command for each line, and see all of them through.

    Lines are answered as they come, some at a time, each once it is durable; one that is wrong is answered with its
    problem, and the others go on. Whoever sends many reads while sending: what is not read, is not taken any further.
    """
    who = await caller(request, "commands:write", new_work=True)
    media_type = request.headers.get("content-type", NDJSON).partition(";")[0].strip().lower()
    if media_type not in TAKEN:
        raise ContentTypeUnsupported(f"wants Content-Type: {NDJSON}, found {media_type}")
    if request.scope["http_version"] == "1.0":
        raise RequestInvalid("bulk needs HTTP/1.1: with HTTP/1.0 answers that were cut look like whole ones.")
    return _Answers(request, who)


class _Answers(Response):
    """A body that is written while the request's is read."""

    def __init__(self, request: Request, who: Caller) -> None:
        super().__init__(None, 200, {"Cache-Control": "no-store", "Content-Type": NDJSON})
        del self.headers["content-length"]
        self._request = request
        self._there = services(request)
        self._limit = self._there.settings.limits.command_bytes
        self._lines = Lines(self._limit + ENVELOPE_BYTES)
        self._traceparent = headers.traceparent(headers.first(request.scope, "traceparent", ""))
        self._tenant = who.scope.tenant
        self._patient = True  # as long as waiting has helped

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Whoever leaves in the middle is answered no more; what was kept is kept.
        with contextlib.suppress(ClientDisconnect):
            await self._stream(send)

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        here, outbox = visit(self._request), _Outbox(send)
        try:
            async for lines in self._in_slices():
                said = b"".join(map(_encode_line, await self._answers(lines)))
                # How fast the answers are read is up to the caller, who must not keep a turn from others meanwhile.
                async with here.resting():
                    await outbox.put(said)
            here.rest()
            await outbox.emptied()
        finally:
            await outbox.close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _in_slices(self) -> AsyncIterator[Sequence[tuple[int, bytes | None]]]:
        """Yield lines as they come, at most so many at once."""
        here, pieces = visit(self._request), self._request.stream()
        piece: bytes | None = b""
        while piece is not None:
            async with here.resting():
                piece = await anext(pieces, None)
            found = list(self._lines.end() if piece is None else self._lines.feed(piece))
            for start in range(0, len(found), LINES_AT_ONCE):
                yield found[start : start + LINES_AT_ONCE]

    async def _answers(self, lines: Sequence[tuple[int, bytes | None]]) -> list[LineTaken | LineRefused]:
        try:
            # Again for each part: it may be long since the first one, and the key may be revoked meanwhile.
            who = await caller(self._request, "commands:write", new_work=True)
        except BrokerError as exc:
            return [_refused(number, exc) for number, _ in lines]
        visit(self._request).more(len(lines) - 1)
        await self._paced(who, len(lines))
        read = [self._read(text, who.key.id) for _, text in lines]
        wanted = [one for one in read if isinstance(one, Submission)]
        kept = iter(await self._there.commands.submit_many(who.scope, wanted))
        found: list[LineTaken | LineRefused] = []
        obstacles: Obstacles = {}
        for (number, _), one in zip(lines, read, strict=True):
            answer = next(kept) if isinstance(one, Submission) else one
            if isinstance(answer, BrokerError):
                found.append(_refused(number, answer))
            else:
                found.append(self._taken(number, who, answer[0], obstacles))
        return found

    async def _paced(self, who: Caller, count: int) -> None:
        """Wait for the tenant's rate of lines, and for room; without patience once that did not help."""
        wait_s = turnstile(self._request).allowances.lines(who.scope.tenant, count, time.monotonic())
        commands, scope = self._there.commands, who.scope
        if wait_s <= 0 and commands.has_room(scope, count):
            self._patient = True
            return
        async with visit(self._request).resting():
            await asyncio.sleep(wait_s)
            until = time.monotonic() + (PATIENCE_S if self._patient else 0.0)
            while not (there_is := commands.has_room(scope, count)) and time.monotonic() < until:  # noqa: ASYNC110 - the ends of commands wake nobody in particular, and must not cost more for this
                await asyncio.sleep(LOOK_S)
            self._patient = there_is

    def _read(self, text: bytes | None, key_id: str) -> Submission | BrokerError:
        try:
            if text is None:
                limit = self._limit + ENVELOPE_BYTES
                raise RequestTooLarge(f"The line has more than the {limit} bytes that are taken here.", limit=limit)
            wanted = decoded(text, NewLine, "line")
            key = wanted.idempotency_key
            if key is not None:
                headers.checked_key("idempotency_key", key)
            return submission_of(wanted, key, self._traceparent, self._limit, key_id)
        except BrokerError as exc:
            return exc

    def _taken(self, number: int, who: Caller, command: Command, obstacles: Obstacles) -> LineTaken:
        waiting_for = self._waiting_for(who, command, obstacles) if command.state is CommandState.QUEUED else None
        status = 200 if command.state in FINAL else 202
        return LineTaken(number, status, command_view(command, waiting_for, command.row_sets))

    def _waiting_for(self, who: Caller, command: Command, obstacles: Obstacles) -> str | None:
        """Return why a queued command waits; what lines of one moment have in common is looked up once."""
        if command.ordering_key or command.failures:
            return self._there.commands.waiting_for(who.scope, command)
        place = command.agent, command.group, command.connection, command.operation_digest
        if place not in obstacles:
            obstacles[place] = self._there.commands.waiting_for(who.scope, command)
        return obstacles[place]


class _Outbox:
    """
    Answers on their way to a caller who may not read them yet: many read nothing before they have sent everything.

    Up to ``MOST_UNREAD`` bytes wait here; beyond, nothing more is taken from such a caller.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._moved = asyncio.Condition()
        self._task = asyncio.create_task(self._run(), name="answers in bulk")

    async def put(self, said: bytes) -> None:
        """Add answers, once there is room."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._bytes <= MOST_UNREAD)
            self._waiting.append(said)
            self._bytes += len(said)
            self._moved.notify_all()

    async def emptied(self) -> None:
        """Wait until all were sent."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._bytes == 0)

    async def close(self) -> None:
        """Send no more."""
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _run(self) -> None:
        while True:
            async with self._moved:
                await self._moved.wait_for(lambda: self._bytes > 0)
                said = b"".join(self._waiting)
                self._waiting.clear()
            await self._send({"type": "http.response.body", "body": said, "more_body": True})
            async with self._moved:
                self._bytes -= len(said)
                self._moved.notify_all()


def _refused(number: int, error: BrokerError) -> LineRefused:
    again = None if error.retry_after_s is None else problems.retry_after(error.retry_after_s)
    return LineRefused(number, error.status, problems.document(error), again)


def _encode_line(line: LineTaken | LineRefused) -> bytes:
    return _encode(line) + b"\n"
