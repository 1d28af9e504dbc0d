"""
One end of a call through Crossbar.io: `python crossbar_client.py callee|caller URL CERTIFICATE [OUTSTANDING COUNT]`.

Run by the Python that Crossbar.io is installed for. A callee gives back what it is given; a caller prints seconds: of
all its calls together, and then the median of one.
"""

from __future__ import annotations

import asyncio
import ssl
import statistics
import sys
import time
from typing import Any

# Not of this project's environment.
from autobahn.asyncio.wamp import ApplicationRunner, ApplicationSession  # type: ignore[import-not-found]
from autobahn.wamp.serializer import MsgPackSerializer  # type: ignore[import-not-found]

PROCEDURE = "bench.echo"
PAYLOAD = {"text": "x" * 200}


class Callee(ApplicationSession):  # type: ignore[misc]  # nothing is known of what it stands on
    """Gives back what it is given."""

    async def onJoin(self, details: Any) -> None:
        """Offer the procedure; the name is the framework's."""
        await self.register(lambda payload: payload, PROCEDURE)
        print("ready", flush=True)


class Caller(ApplicationSession):  # type: ignore[misc]  # nothing is known of what it stands on
    """Calls, with so many calls outstanding."""

    outstanding = 1
    count = 1

    async def onJoin(self, details: Any) -> None:
        """Call as often as wanted, say how long it took, and leave; the name is the framework's."""
        each: list[float] = []

        async def some(count: int) -> None:
            for _ in range(count):
                began = time.perf_counter()
                if await self.call(PROCEDURE, PAYLOAD) != PAYLOAD:
                    raise RuntimeError("another answer than what was sent")
                each.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(some(self.count // self.outstanding) for _ in range(self.outstanding)))
        print(time.perf_counter() - began, statistics.median(each), flush=True)
        self.leave()

    def onDisconnect(self) -> None:
        """End the program; the name is the framework's."""
        asyncio.get_event_loop().stop()


def main() -> None:
    """Do what the words say."""
    role, url, certificate, *numbers = sys.argv[1:]
    if numbers:
        Caller.outstanding, Caller.count = map(int, numbers)
    context = ssl.create_default_context(cafile=certificate)
    runner = ApplicationRunner(url, "bench", ssl=context, serializers=[MsgPackSerializer()])
    runner.run(Callee if role == "callee" else Caller)


if __name__ == "__main__":
    main()
