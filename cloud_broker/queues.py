"""
The order in which commands leave: pure data, no waiting.

A ``Queue`` holds what waits for one agent or group, apart for each lane, so that commands for a busy connection, or
for those members only that have another version of an operation, keep nobody else waiting. ``Order`` keeps commands
with one ordering key one after another.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

SPARE: Final = 1_000  # commands that are gone and not worth looking for


class Lane(NamedTuple):
    """
    What stands in a queue together.

    Attributes:
        digest: of the operation; "" for whichever the agent has.
    """

    connection: str
    digest: str = ""


class Queue:
    """Waiting commands of one addressee: higher priority first, then first come, first served."""

    __slots__ = ("_gone", "_heaps", "_waiting")

    def __init__(self) -> None:
        self._heaps: dict[Lane, list[tuple[int, int, str]]] = {}
        self._gone: set[str] = set()
        self._waiting: set[str] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, lane: Lane, priority: int, number: int, command_id: str) -> None:
        """Add a command; ``number`` grows with each submission."""
        self._waiting.add(command_id)
        self._gone.discard(command_id)
        heapq.heappush(self._heaps.setdefault(lane, []), (-priority, number, command_id))

    def remove(self, command_id: str) -> None:
        """Take a command out, wherever it stands."""
        if command_id in self._waiting:
            self._waiting.discard(command_id)
            self._gone.add(command_id)
            if len(self._gone) > len(self._waiting) + SPARE:
                self._sweep()

    def _sweep(self) -> None:
        # Nobody looks at the heads while the agent is away, and there commands go on to expire.
        for lane, heap in list(self._heaps.items()):
            self._heaps[lane] = [item for item in heap if item[2] not in self._gone]
            heapq.heapify(self._heaps[lane])
        self._gone.clear()

    def lanes(self) -> list[Lane]:
        """Return those that something may stand in."""
        return list(self._heaps)

    def clear(self, lane: Lane) -> list[str]:
        """Take out a whole lane; return what stood in it, in no order."""
        there = []
        for _, _, command_id in self._heaps.pop(lane, []):
            if command_id in self._gone:
                self._gone.discard(command_id)
            else:
                self._waiting.discard(command_id)
                there.append(command_id)
        return there

    def head(self, free: Callable[[Lane], bool]) -> tuple[int, int, str] | None:
        """Return the first command whose lane is ``free``, as ``(-priority, number, id)``."""
        best: tuple[int, int, str] | None = None
        for lane in list(self._heaps):
            heap = self._heaps[lane]
            while heap and heap[0][2] in self._gone:
                self._gone.discard(heapq.heappop(heap)[2])
            if not heap:
                del self._heaps[lane]
            elif free(lane) and (best is None or heap[0] < best):
                best = heap[0]
        return best

    def pop(self, lane: Lane) -> str:
        """Take out the head of one lane, as ``head`` returned it."""
        command_id = heapq.heappop(self._heaps[lane])[2]
        self._waiting.discard(command_id)
        return command_id


class Order:
    """Commands with one ordering key: only the first of each key may leave."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str], deque[str]] = {}

    def join(self, tenant: str, key: str, command_id: str) -> bool:
        """Stand in line; return whether it is the first."""
        line = self._keys.setdefault((tenant, key), deque())
        line.append(command_id)
        return line[0] == command_id

    def first(self, tenant: str, key: str, command_id: str) -> bool:
        """Whether it may leave."""
        return self._keys[(tenant, key)][0] == command_id

    def leave(self, tenant: str, key: str, command_id: str) -> str | None:
        """Step out for good; return the id of the one that may leave now because of it."""
        line = self._keys[(tenant, key)]
        was_first = line[0] == command_id
        line.remove(command_id)
        if not line:
            del self._keys[(tenant, key)]
            return None
        return line[0] if was_first else None
