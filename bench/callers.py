"""
Callers that each wait for the end of one command before the next: `python -m bench.callers`.

Bare HTTP in a process of its own: a full client would take more of the machine than broker and agent together. What
to do comes as JSON on standard input, as the key is not for a list of processes; prints seconds of all commands
together, and then the median of one.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

import msgspec
import uvloop

from bench.crossbar import Times
from config.dev.demo.pair import AGENT, Pair
from config.dev.locked import ROOT

HEAD_END: Final = b"\r\n\r\n"
LENGTH: Final = b"content-length:"


class Work(msgspec.Struct):
    """What to do."""

    url: str
    key: str
    operation: str
    callers: int
    count: int


class Answer(NamedTuple):
    """Whether an answer is whole, and a success."""

    whole: bool
    good: bool


def called(pair: Pair, operation: str, callers: int, count: int) -> Times:
    """Have so many commands run, by so many callers at once."""
    work = Work(pair.url, pair.key, operation, callers, count)
    words = [sys.executable, "-m", "bench.callers"]
    done = subprocess.run(words, input=msgspec.json.encode(work), capture_output=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise RuntimeError(f"the callers failed: {done.stderr.decode(errors='replace')[-1000:]}")
    all_s, median_s = map(float, done.stdout.split())
    return Times(count // callers * callers / all_s, median_s)


class Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self, request: bytes, count: int, ended: asyncio.Future[None]) -> None:
        self.each: list[float] = []
        self._request = request
        self._left = count
        self._ended = ended
        self._began = 0.0
        self._heard = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._call()

    def data_received(self, data: bytes) -> None:
        self._heard += data
        answer = read(self._heard)
        if not answer.whole:
            return
        if not answer.good:
            self._ended.set_exception(RuntimeError(f"a command did not succeed: {self._heard[:600]!r}"))
            return
        self.each.append(time.perf_counter() - self._began)
        self._heard = b""
        self._call()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_exception(RuntimeError(f"the broker closed the connection: {exc}"))

    def _call(self) -> None:
        if self._transport is None or self._left == 0:
            self._ended.set_result(None)
            return
        self._left -= 1
        self._began = time.perf_counter()
        self._transport.write(self._request)


def read(heard: bytes) -> Answer:
    """Return what came so far of one answer."""
    end = heard.find(HEAD_END)
    if end < 0:
        return Answer(False, False)
    head = heard[:end].lower()
    length = next((int(line[len(LENGTH) :]) for line in head.split(b"\r\n") if line.startswith(LENGTH)), 0)
    body = heard[end + len(HEAD_END) :]
    return Answer(len(body) >= length, head.startswith(b"http/1.1 200") and b'"state":"succeeded"' in body)


async def call(work: Work) -> tuple[float, float]:
    """Return seconds: of all together, and the median of one."""
    place = urlsplit(work.url)
    body = json.dumps({"agent": AGENT, "operation": work.operation, "params": {"text": "x" * 200}}).encode()
    head = (
        f"POST /v1/commands HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {work.key}\r\n"
        f"Prefer: wait=30\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    request = head.encode() + HEAD_END + body
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    ends = [loop.create_future() for _ in range(work.callers)]
    each = work.count // work.callers
    callers = []
    for ended in ends:
        _, caller = await loop.create_connection(
            lambda ended=ended: Caller(request, each, ended),  # type: ignore[misc]  # it can't infer a lambda's default
            place.hostname or "",
            place.port or 0,
        )
        callers.append(caller)
    await asyncio.gather(*ends)
    all_s = time.perf_counter() - began
    return all_s, statistics.median([seconds for caller in callers for seconds in caller.each])


if __name__ == "__main__":
    print(*uvloop.run(call(msgspec.json.decode(sys.stdin.buffer.read(), type=Work))))
