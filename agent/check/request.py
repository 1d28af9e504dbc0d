"""
A check by the running agent itself: with the account, the rights and the sandbox that its service has.

    state_dir/check/ID.request      what is asked: by ``outhaul-agent check``, for the agent
    state_dir/check/ID.answer       what is found, a line each, as it is found: for ``outhaul-agent check``

The agent has the same program try everything, as a child of its own, so that nothing of the check is ever loaded into
the agent. Who may write there is the agent's account or an administrator already.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final
from uuid import uuid4

import msgspec

from agent import durable_file
from agent.connectors.base import Finding
from agent.errors import AgentError
from agent.folder_watch import FolderWatch
from agent.own_program import own_program

log = logging.getLogger(__name__)

FOLDER: Final = "check"
REQUEST: Final = ".request"
ANSWER: Final = ".answer"
BY_AGENT: Final = "OUTHAUL_CHECK_BY_AGENT"  # is in the environment of a check that a running agent started
LOOK_S: Final = 3600.0  # seconds between two looks of the agent where nothing is asked, for answers left behind
TAKEN_S: Final = 10.0  # seconds in which an agent takes up what is asked
SILENCE_S: Final = 180.0  # seconds without a word, after which nothing more is waited for; sources answer within 60
KEPT_S: Final = 3600.0  # seconds after which an answer that nobody fetched is removed
_POLL_S: Final = 0.1
_NO_WINDOW: Final = getattr(subprocess, "CREATE_NO_WINDOW", 0)


class Request(msgspec.Struct, frozen=True):
    """
    Attributes:
        config: the operator's file, absolute; the agent tries only its own.
        operation: the only one that is asked about.
    """

    config: str
    operation: str | None = None


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    One line of an answer.

    Attributes:
        finding: one that was found.
        ended: the exit code; nothing follows.
        other: the agent's own file, where it was asked about another; nothing follows.
    """

    finding: Finding | None = None
    ended: int | None = None
    other: str = ""


class Declined(Exception):
    """The running agent does not answer, or has another file; nothing was tried."""


# --- the agent's side -----------------------------------------------------------------------------


class CheckRequests:
    """Has what is asked tried, one at a time."""

    def __init__(self, state_dir: Path, config: Path) -> None:
        self._folder = state_dir / FOLDER
        self._config = config.absolute()

    async def run(self) -> None:
        """Look for requests and answer them, until cancelled."""
        watch = FolderWatch(self._folder)
        try:
            while True:
                try:
                    for path in await asyncio.to_thread(self._asked):
                        await self._answer(path)
                except OSError as exc:
                    log.warning("%s: a check can't be answered: %s", self._folder, exc, extra={"event": "no_check"})
                await watch.changed(LOOK_S)
        finally:
            watch.close()

    def _asked(self) -> list[Path]:
        try:
            there = sorted(self._folder.iterdir())
        except FileNotFoundError:
            return []
        for path in there:
            with contextlib.suppress(OSError):
                if path.suffix != REQUEST and time.time() - path.stat().st_mtime > KEPT_S:
                    path.unlink()
        return [path for path in there if path.suffix == REQUEST]

    async def _answer(self, path: Path) -> None:
        request = await asyncio.to_thread(_taken, path)
        if request is None:
            return
        descriptor = os.open(path.with_suffix(ANSWER), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab", buffering=0) as answer:
            if Path(request.config) != self._config:
                _say(answer, Line(other=str(self._config)))
                return
            _say(answer, Line(ended=await self._try(request, answer)))

    async def _try(self, request: Request, answer: IO[bytes]) -> int:
        asked = [] if request.operation is None else ["--", request.operation]
        child = await asyncio.create_subprocess_exec(
            *[*own_program(), "check", "--here", "--stream", "--config", str(self._config), *asked],
            stdin=subprocess.DEVNULL,
            stdout=answer,
            env={**os.environ, BY_AGENT: "1"},
            creationflags=_NO_WINDOW,
        )
        try:
            return await child.wait()
        finally:
            if child.returncode is None:  # the agent is stopping
                child.kill()
                await child.wait()


def _taken(path: Path) -> Request | None:
    """Take a request away and return it; ``None`` if it can't be read."""
    data = path.read_bytes()
    durable_file.patiently(path.unlink)
    try:
        return msgspec.json.decode(data, type=Request)
    except ValueError:
        return None


def _say(answer: IO[bytes], line: Line) -> None:
    answer.write(msgspec.json.encode(line) + b"\n")


# --- the asking side ------------------------------------------------------------------------------


def ask(state_dir: Path, request: Request) -> Iterator[Finding]:
    """
    Have the running agent try, and yield what it finds as it finds it.

    Raises:
        Declined: before anything was yielded: it does not take it up, or has another file.
        AgentError: it said nothing more.
    """
    folder = state_dir / FOLDER
    path = folder / f"{uuid4().hex}{REQUEST}"
    try:
        _make_folder(folder, state_dir)
        durable_file.write(path, msgspec.json.encode(request), 0o644, lasting=False)
    except OSError as exc:
        raise Declined(f"{folder}: can't be written: {exc.strerror or exc}") from exc
    answer = path.with_suffix(ANSWER)
    deadline = time.monotonic() + TAKEN_S
    while not answer.exists():
        if time.monotonic() > deadline:
            with contextlib.suppress(OSError):
                path.unlink()
            raise Declined(f"the agent that runs with {state_dir} does not take the check up")
        time.sleep(_POLL_S)  # no system tells alike when a file appears
    try:
        with answer.open("rb") as file:
            yield from _findings(file)
    finally:
        with contextlib.suppress(OSError):
            durable_file.patiently(answer.unlink)


def _findings(file: IO[bytes]) -> Iterator[Finding]:
    rest, deadline = b"", time.monotonic() + SILENCE_S
    while True:
        said = file.read()
        if said:
            deadline = time.monotonic() + SILENCE_S
        *lines, rest = (rest + said).split(b"\n")
        for text in lines:
            line = msgspec.json.decode(text, type=Line)
            if line.other:
                raise Declined(f"the agent that runs here has another file: {line.other}")
            if line.ended is not None:
                return
            if line.finding is not None:
                yield line.finding
        if not said:
            if time.monotonic() > deadline:
                raise AgentError(f"the running agent has found nothing more for {SILENCE_S:g} s; see its log")
            time.sleep(_POLL_S)  # as above: the answer grows in a file


def _make_folder(folder: Path, state_dir: Path) -> None:
    """Make the folder, as the agent's account's own where an administrator makes it."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if folder.is_dir():
            return
        raise
    if sys.platform != "win32" and os.geteuid() == 0:
        owner = state_dir.stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
