"""Look-ups that many ask for at the same time, made as one: each change between threads costs more than the look-up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

PATIENCE_S: Final = 0.01  # seconds between two look-ups; whoever comes alone waits for nobody

Asked = TypeVar("Asked")
Found = TypeVar("Found")


class Gathered(Generic[Asked, Found]):
    """
    Gathers what is asked for.

    Args:
        look_up: returns what is found, in the order in which it is asked for.
    """

    def __init__(self, look_up: Callable[[Sequence[Asked]], Awaitable[Sequence[Found]]]) -> None:
        self._look_up = look_up
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Asked, asyncio.Future[Found]]] = []
        self._began_at = float("-inf")
        self._under_way: set[asyncio.Task[None]] = set()

    def one(self, asked: Asked) -> asyncio.Future[Found]:
        """Look one up; what is returned raises what the look-up does."""
        answer: asyncio.Future[Found] = self._loop.create_future()
        if not self._waiting:
            self._loop.call_later(max(0.0, self._began_at + PATIENCE_S - self._loop.time()), self._begin)
        self._waiting.append((asked, answer))
        return answer

    def _begin(self) -> None:
        self._began_at = self._loop.time()
        waiting, self._waiting = self._waiting, []
        task = self._loop.create_task(self._answer(waiting), name="look up what was asked for")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _answer(self, waiting: Sequence[tuple[Asked, asyncio.Future[Found]]]) -> None:
        try:
            found = await self._look_up([asked for asked, _ in waiting])
        except Exception as exc:  # whoever asked gets it
            for _, answer in waiting:
                if not answer.done():
                    answer.set_exception(exc)
            return
        for (_, answer), one in zip(waiting, found, strict=True):
            if not answer.done():
                answer.set_result(one)
