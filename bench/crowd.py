"""Rows for many at once, beside small commands, and in how much memory."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bench.figures import Figure, Goal, Lab, alternated
from bench.passages import WAIT_S, reading, through_outhaul
from config.dev import processes
from config.dev.demo.pair import AGENT, Pair

CALLERS: Final = 9
NINE_OF_TEN: Final = 0.9  # of a processor's time is left for nine where a tenth takes its share
MOST_GROWTH_MIB: Final = 16
MOST_SLOWER: Final = 5  # times, of the slowest hundredth of small commands
LOOK_S: Final = 0.05  # between two looks at memory
SLOW_PAUSE_S: Final = 0.25  # after each piece, of a caller who reads slowly
SLOW_PIECE: Final = 65_536


def measure(lab: Lab) -> list[Figure]:
    """Return what a slow reader, small commands and memory notice of large results."""
    return [_beside_a_slow_reader(lab), *_one_large(lab)]


def _beside_a_slow_reader(lab: Lab) -> Figure:
    rounds, count = (1, 500) if lab.short else (3, 50_000)
    beside, alone = alternated(rounds, lambda: _with_a_slow_one(lab.running, count), lambda: _nine(lab.running, count))
    return Figure(
        f"{CALLERS} callers at once beside a tenth that reads slowly",
        "rows/s",
        beside,
        alone,
        f"{CALLERS} alone",
        Goal("at least", NINE_OF_TEN),
    )


def _nine(pair: Pair, count: int) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as pool:
        for passage in [pool.submit(through_outhaul, pair, "lines", count) for _ in range(CALLERS)]:
            passage.result()
    return CALLERS * count / (time.perf_counter() - started)


def _with_a_slow_one(pair: Pair, count: int) -> float:
    enough = threading.Event()

    def slow() -> None:
        with reading(pair, "lines", count) as answer:
            while not enough.wait(SLOW_PAUSE_S) and answer.read1(SLOW_PIECE):
                pass

    with _meanwhile(slow, enough):
        return _nine(pair, count)


def _one_large(lab: Lab) -> list[Figure]:
    """Return what one large result does to small commands beside it, and how much memory it takes."""
    rounds, commands, small, large = (1, 20, 1_000, 10_000) if lab.short else (3, 1_000, 100_000, 10_000_000)
    pair = lab.running
    idle = [_p99_ms(_small(pair, commands)) for _ in range(rounds)]
    least_mib = _peak_mib(pair, small, lambda: None)
    during: list[float] = []
    most_mib = _peak_mib(pair, large, lambda: during.extend(_p99_ms(_small(pair, commands)) for _ in range(rounds)))
    return [
        Figure(
            f"p99 of small commands while a result of {large:,} rows flows",
            "ms",
            during,
            idle,
            "the same idle",
            Goal("at most", MOST_SLOWER),
        ),
        Figure(
            f"memory of agent, driver and broker, {large:,} rows beside {small:,}: growth",
            "MiB",
            [max(0.0, most_mib - least_mib)],
            goal=Goal("at most", MOST_GROWTH_MIB),
        ),
    ]


def _small(pair: Pair, commands: int) -> list[float]:
    """Return how many seconds each of some small commands took, one after the other."""
    place = urlsplit(pair.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=WAIT_S)
    body = json.dumps({"agent": AGENT, "operation": "echo", "params": {"text": "x" * 200}})
    headers = {"Authorization": f"Bearer {pair.key}", "Content-Type": "application/json", "Prefer": "wait=30"}
    found = []
    for _ in range(commands):
        started = time.perf_counter()
        connection.request("POST", "/v1/commands", body, headers)
        answer = json.loads(connection.getresponse().read())
        found.append(time.perf_counter() - started)
        if answer["state"] != "succeeded":
            raise RuntimeError(f"a small command did not succeed: {answer}")
    connection.close()
    return found


def _p99_ms(seconds: Sequence[float]) -> float:
    return 1000 * sorted(seconds)[len(seconds) * 99 // 100]


def _peak_mib(pair: Pair, count: int, meanwhile: Callable[[], None]) -> float:
    """Return the most memory that so many rows take, while something else is done too."""
    enough, begun = threading.Event(), threading.Event()
    peak = 0.0

    def look() -> None:
        nonlocal peak
        ended = False
        while not ended:  # a short one is looked at too, when it has ended
            ended = enough.wait(LOOK_S)
            family = [pid for one in (pair.broker.pid, pair.agent.pid) for pid in (one, *processes.descendants(one))]
            peak = max(peak, sum(map(_resident_mib, family)))

    with _meanwhile(look, enough), ThreadPoolExecutor(1) as pool:
        flowing = pool.submit(through_outhaul, pair, "lines", count, pause=begun.set)
        begun.wait(WAIT_S)
        meanwhile()
        flowing.result()
    return peak


def _resident_mib(pid: int) -> float:
    with contextlib.suppress(OSError, StopIteration):
        text = Path(f"/proc/{pid}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:")) / 1024
    return 0.0


@contextlib.contextmanager
def _meanwhile(work: Callable[[], None], enough: threading.Event) -> Iterator[None]:
    """Do ``work`` in a thread while the block runs; it is waited for."""
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(work)
        try:
            yield
        finally:
            enough.set()
        doing.result()
