"""The part of the client that submits many commands: some hundred in each request, their answers as they come."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from cloud_broker.client.connection import LAST_PAUSE_S, TRIES
from cloud_broker.client.errors import ProblemError, UnknownAnswer
from cloud_broker.client.records import Command, Record, decode
from cloud_broker.client.requests import Requests, encoded, new_key

LINES_IN_A_REQUEST: Final = 500  # so many are sent again if an answer is lost
BYTES_IN_A_REQUEST: Final = 262_144  # of lines; a longer line goes alone
REPEATABLE: Final = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class BulkAnswer:
    """
    What became of one of many.

    Attributes:
        number: of the command, in the order in which they were given; the first is 1.
        key: its idempotency key, given or made up.
        command: as the broker keeps it; ``None`` if it did not take it, and then ``problem`` says why.
    """

    number: int
    key: str
    command: Command | None = None
    problem: ProblemError | None = None


class _Answered(Record, frozen=True, kw_only=True):
    line: int
    status: int
    command: msgspec.Raw = msgspec.Raw(b"")
    problem: dict[str, Any] = msgspec.field(default_factory=dict)
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    key: str
    text: bytes


class BulkCalls(Requests):
    """Many commands at once."""

    def submit_many(
        self,
        commands: Iterable[Mapping[str, Any]],
        *,
        key_of: Callable[[int], str] | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> Iterator[BulkAnswer]:
        """
        Submit commands and yield what became of each, in their order; as many as there are, in constant memory.

        What is lost on the way is sent again with the same idempotency keys, so nothing runs twice. A command that the
        broker has no room for now is sent again some times too.

        Args:
            commands: the members of each as `POST /v1/commands` takes them (``agent`` or ``group``, ``operation``,
                ``params``, ``ttl``, …), and ``idempotency_key``.
            key_of: returns the idempotency key of the command of this number that has none; made up if ``None``. Give
                one to be able to give the same commands again after this program was ended.
            pause: waits before what was refused for now is sent again; replaced in tests.

        Raises:
            ProblemError: the broker takes none of them, for instance because of the key.
            WordsError: one of them is no JSON object that can be sent; those before it may have been.
            NotReachable: no answer. Those that were answered are kept; of the others nothing is known.
        """
        waiting: list[_Line] = []
        size = 0
        for number, command in enumerate(commands, start=1):
            given = command.get("idempotency_key")
            key = str(given) if given is not None else (key_of(number) if key_of is not None else new_key())
            members = {name: value for name, value in command.items() if value is not None}
            line = _Line(number, key, encoded({**members, "idempotency_key": key}) + b"\n")
            if waiting and (len(waiting) == LINES_IN_A_REQUEST or size + len(line.text) > BYTES_IN_A_REQUEST):
                yield from self._submitted(waiting, pause)
                waiting, size = [], 0
            waiting.append(line)
            size += len(line.text)
        if waiting:
            yield from self._submitted(waiting, pause)

    def _submitted(self, lines: list[_Line], pause: Callable[[float], None]) -> list[BulkAnswer]:
        """Send lines; those that were refused for now again, in the same order, until all are answered for good."""
        found: dict[int, BulkAnswer] = {}
        asked = lines
        for tries_left in range(TRIES - 1, -1, -1):
            again, pause_s = [], 0.0
            for line, answer in zip(asked, self._sent(asked), strict=True):
                if answer.status in REPEATABLE and tries_left:
                    again.append(line)
                    pause_s = max(pause_s, answer.retry_after)
                else:
                    found[line.number] = _read(line, answer)
            if not again:
                break
            pause(min(pause_s, LAST_PAUSE_S) * (1 + random.random()) / 2)  # noqa: S311 - it spreads load
            asked = again
        return [found[line.number] for line in lines]

    def _sent(self, lines: list[_Line]) -> list[_Answered]:
        content = b"".join(line.text for line in lines)
        answer = self._connection.ask(
            "POST",
            "/v1/commands/bulk",
            content=content,
            headers={"Content-Type": "application/x-ndjson", "Accept": "application/x-ndjson"},
        )
        found = [decode(text, _Answered) for text in answer.content.splitlines()]
        if [one.line for one in found] != list(range(1, len(lines) + 1)):
            raise UnknownAnswer(f"{len(lines)} commands were sent in bulk, and {len(found)} answers came")
        return found


def _read(line: _Line, answer: _Answered) -> BulkAnswer:
    if answer.problem:
        return BulkAnswer(line.number, line.key, problem=ProblemError(answer.status, answer.problem))
    return BulkAnswer(line.number, line.key, command=decode(bytes(answer.command), Command))
