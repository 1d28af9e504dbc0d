"""The `file` connection: a local folder into which files are dropped and from which they are picked."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import msgspec

from agent import durable_file, parameters
from agent.connectors.base import Call, Driver, DriverSetup, Finding, Outputs, Piece
from agent.connectors.file import names, publish, text
from agent.connectors.file.attempts import Attempt, Claim
from agent.connectors.file.drop import Drop, content_of, failure, forget
from agent.connectors.file.pick import Picked, matching, pick, put_away
from agent.errors import CommandError, ParametersInvalid, SourceFailed, SourceUnavailable
from agent.settings import DropOperation, FileConnection, PickOperation

PART_KEPT_S: Final = 86_400  # seconds; no write takes a day
CLAIM_KEPT_S: Final = 40 * 86_400  # seconds; longer than the broker keeps a command by default
LOW_SPACE_BYTES: Final = 104_857_600  # below it `check` speaks up

_PROBE: Final = b"outhaul: a check; it may be deleted"
_REMOTE = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


class FileDriver(Driver):
    """A folder on a disk or a mounted share; nothing outside of it is read or written."""

    def __init__(self, setup: DriverSetup) -> None:
        super().__init__(setup)
        assert isinstance(setup.connection, FileConnection)  # noqa: S101 - the table of connectors sees to it
        self._connection = setup.connection
        self._root = Path()
        self._way: publish.Way | None = None

    def open(self) -> None:
        """
        Find the folder and clear away what crashes left there.

        Raises:
            SourceUnavailable: it is not there, or is none.
            SourceFailed: the root is of a kind that a later release brings.
        """
        if remote := _REMOTE.match(self._connection.root):
            raise SourceFailed(
                f"connections.{self.setup.name}.root: {remote[1]}:// comes in a later release; "
                "for now mount the share and name its folder",
                touched=False,
            )
        wanted = Path(self.setup.base_dir, self._connection.root)
        try:
            # Once: a link put in its place later changes nothing.
            self._root = wanted.resolve(strict=True)
            if not self._root.is_dir():
                raise NotADirectoryError(20, "not a folder", str(wanted))
            _clear(self._root)
        except OSError as exc:
            raise failure(exc, wanted, "read") from exc

    def run(self, call: Call) -> Iterator[Piece]:
        """Drop or pick; see ``Driver.run``."""
        operation = self.setup.operations[call.operation]
        values = parameters.decode(operation, call.params)
        if isinstance(operation, PickOperation):
            yield from pick(self._root, call.operation, operation)
        elif isinstance(operation, DropOperation):
            drop = self._drop(call, operation, values)
            content = content_of(operation, values, call.content)
            yield Outputs(msgspec.to_builtins(drop.write(content, call.content_sha256)))

    def find(self, call: Call) -> Outputs | None:
        """As ``Driver.find``: by the claim in the folder."""
        operation = self.setup.operations[call.operation]
        if not isinstance(operation, DropOperation) or operation.effect != "once":
            return super().find(call)
        attempt = self._attempt(call, operation, parameters.decode(operation, call.params))
        try:
            receipt = attempt.found()
        except OSError as exc:
            told = failure(exc, self._root, "read")
            raise SourceUnavailable(told.message, source_code=told.source_code) from exc
        return None if receipt is None else Outputs(msgspec.to_builtins(receipt))

    def settle(self, call: Call, outputs: Mapping[str, Any]) -> None:
        """Archive or delete what was picked; forget the claim of what was dropped. May be called again."""
        operation = self.setup.operations[call.operation]
        if isinstance(operation, DropOperation):
            # What was dropped for a sealed command an agent that was started anew knows by its parameters only.
            name = outputs.get("name") or names.fill(operation.drop, parameters.decode(operation, call.params))
            forget(self._root, str(name), call.command_id, call.epoch)
        elif isinstance(operation, PickOperation) and operation.then != "keep":
            archive = self._archive() if operation.then == "archive" else None
            files = msgspec.convert(outputs.get("files", []), list[Picked])
            put_away(self._root, archive, files, call.command_id)

    def check(self, operation: str | None = None) -> Iterator[Finding]:
        """Try the folder with a small file; or look at one operation's name, pattern and codec."""
        if operation is None:
            yield from self._check_folder()
        else:
            yield self._check_operation(operation)

    def _attempt(self, call: Call, operation: DropOperation, values: Mapping[str, Any]) -> Attempt:
        try:
            name = names.fill(operation.drop, values)
            names.temporary(name, call.command_id, "part")
        except names.NameRefused as exc:
            raise ParametersInvalid(f"{exc}; the operation's name is {operation.drop!r}", touched=False) from exc
        if name.casefold() == self._connection.archive.casefold():
            raise ParametersInvalid(f"the file name {name!r} is that of the archive folder", touched=False)
        return Attempt(self._root, name, call.command_id, call.epoch)

    def _drop(self, call: Call, operation: DropOperation, values: Mapping[str, Any]) -> Drop:
        attempt = self._attempt(call, operation, values)
        way = "replace" if operation.overwrite else self._claiming()
        return Drop(attempt, way, once=operation.effect == "once", max_bytes=operation.max_bytes)

    def _claiming(self) -> publish.Way:
        if self._way is None:
            try:
                self._way = publish.way_without_replacing(self._root, uuid4().hex)
            except OSError as exc:
                raise failure(exc, self._root) from exc
        return self._way

    def _archive(self) -> Path:
        try:
            names.check(self._connection.archive)
        except names.NameRefused as exc:
            raise SourceFailed(f"connections.{self.setup.name}.archive: {exc}") from exc
        return self._root / self._connection.archive

    def _check_folder(self) -> Iterator[Finding]:
        subject = f"connection {self.setup.name}"
        try:
            _try_to_write(self._root)
            way = publish.way_without_replacing(self._root, uuid4().hex)
            free = shutil.disk_usage(self._root).free
        except OSError as exc:
            error = failure(exc, self._root)
            yield Finding(subject, False, str(error), code=error.remedy)
            return
        detail = f"{self._root}: can be read and written, names are claimed by {way}, {free // 1_048_576} MiB free"
        if free < LOW_SPACE_BYTES:
            yield Finding(subject, False, detail, code="folder.full")
            return
        yield Finding(subject, True, detail)
        if any(isinstance(one, PickOperation) and one.then == "archive" for one in self.setup.operations.values()):
            yield self._check_archive(f"{subject}: archive")

    def _check_archive(self, subject: str) -> Finding:
        try:
            folder = self._archive()
            if not folder.exists():
                return Finding(subject, True, f"{folder}: is made when the first file goes there")
            _try_to_write(folder)
        except SourceFailed as exc:
            return Finding(subject, False, exc.message, code="folder.name")
        except OSError as exc:
            error = failure(exc, folder)
            return Finding(subject, False, str(error), code=error.remedy)
        return Finding(subject, True, f"{folder}: can be read and written")

    def _check_operation(self, name: str) -> Finding:
        subject, operation = f"operation {name}", self.setup.operations[name]
        if not isinstance(operation, DropOperation | PickOperation):
            return Finding(subject, False, "neither drops nor picks", code="operation.kind")
        try:
            text.codec_name(operation.encoding)
        except LookupError:
            return Finding(subject, False, f"encoding {operation.encoding!r} is unknown", code="operation.encoding")
        if isinstance(operation, DropOperation):
            try:
                names.fill(operation.drop, dict.fromkeys(parameters.template_names(operation.drop), "x"))
            except ValueError as exc:
                return Finding(subject, False, str(exc), code="operation.name")
            return Finding(subject, True, f"drops {operation.drop}")
        if os.sep in operation.pick or "/" in operation.pick or "\\" in operation.pick:
            detail = f"pattern {operation.pick!r} has a folder in it; only files in root itself are picked"
            return Finding(subject, False, detail, code="operation.name")
        return self._count(subject, operation.pick)

    def _count(self, subject: str, pattern: str) -> Finding:
        try:
            waiting = len(matching(self._root, pattern))
        except CommandError as exc:
            return Finding(subject, False, exc.message, code=exc.remedy)
        return Finding(subject, True, f"picks {pattern}; {waiting} there now")


def _try_to_write(folder: Path) -> None:
    """
    Write a small hidden file durably, read it, rename it and remove it.

    Raises:
        OSError: the folder or its disk does not let us.
    """
    token = uuid4().hex
    probe, renamed = folder / f".check.{token}.part", folder / f".renamed.{token}.part"
    try:
        with probe.open("xb") as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
        if probe.read_bytes() != _PROBE:
            raise OSError(errno.EIO, "what was written is not what is read", str(probe))
        durable_file.patiently(lambda: os.rename(probe, renamed))
    finally:
        for path in (probe, renamed):
            with contextlib.suppress(FileNotFoundError):
                durable_file.patiently(path.unlink)


def _clear(root: Path) -> None:
    """Remove what earlier crashes left; a claim goes before its part, which alone means nothing."""
    now = time.time()
    with os.scandir(root) as entries:
        ours = sorted(
            (entry.name for entry in entries if names.is_ours(entry.name)), key=lambda n: not n.endswith(".claim")
        )
    stale = {
        name.rsplit(".", 1)[0]
        for name in ours
        if _older(root / name, now, PART_KEPT_S, ".part", ".void")
        and not (root / name).is_dir()
        and not _may_have_happened(root / name)
    }
    for name in ours:
        path = root / name
        if _older(path, now, CLAIM_KEPT_S, ".claim", ".part") or name.rsplit(".", 1)[0] in stale:
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()


def _may_have_happened(part: Path) -> bool:
    """Whether a part that stands beside its claim is no proof that its file never appeared."""
    try:
        claim = msgspec.json.decode(part.with_suffix(".claim").read_bytes(), type=Claim)
    except (OSError, ValueError):
        return False
    return claim.way == "link"


def _older(path: Path, now: float, seconds: float, *suffixes: str) -> bool:
    try:
        return path.name.endswith(suffixes) and now - path.lstat().st_mtime > seconds
    except OSError:
        return False
