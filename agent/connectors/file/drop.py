"""
One file written whole or not at all.

The content goes into a hidden ``.part`` beside the final name and is forced to the disk; then it takes its
name at once. What ``effect = "once"`` adds stands in ``attempts.py``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from agent import durable_file
from agent.connectors.file import documents, names, publish, tables
from agent.connectors.file.attempts import Attempt, Claim, Receipt
from agent.errors import (
    ContentDamaged,
    ContentInvalid,
    FileExists,
    NotHappened,
    OutcomeUnknown,
    SourceFailed,
    SourceUnavailable,
)
from agent.parameters import BlobName
from agent.settings import DropOperation

COPY_BYTES: Final = 1_048_576  # read and written at once

_FIXES: Final = {
    "ENOSPC": "the disk is full; make room",
    "EDQUOT": "the account's quota is used up; make room or raise it",
    "EFBIG": "the file is larger than the system allows",
    "EACCES": "the agent's account may not; give it the right to read, create and remove files",
    "EPERM": "the agent's account may not; give it the right to read, create and remove files",
    "ELOOP": "it is a link, and none is followed here; remove the link",
    "EROFS": "the file system is read-only",
    "EOPNOTSUPP": "its file system can't claim a name without replacing; use another folder, or overwrite = true",
    "ENOTSUP": "its file system can't claim a name without replacing; use another folder, or overwrite = true",
}
# By Windows' own numbers, which all come as EACCES: a file that is open there can be neither replaced nor moved.
_EITHER: Final = 5
_WINDOWS_FIXES: Final = {
    _EITHER: f"another program has it open, or {_FIXES['EACCES']}",
    32: "another program has it open; close it there",
    33: "another program has locked a part of it; close it there",
}
_REMEDIES: Final = {
    "ENOSPC": "folder.full",
    "EDQUOT": "folder.full",
    "EACCES": "folder.rights",
    "EPERM": "folder.rights",
    "EROFS": "folder.rights",
}
_NOT_THERE: Final = {
    "ENOENT": "there is no such folder",
    "ENOTDIR": "it is not a folder",
    "ESTALE": "the share was lost",
    "EHOSTDOWN": "the share's server is down",
}


@dataclass(frozen=True, slots=True)
class Drop:
    """
    One command's file and where it is to stand.

    Attributes:
        attempt: whose it is; its name is one that ``names.check`` has passed.
        way: how the name is claimed.
        once: whether a claim is kept, for a second run of the same command.
        max_bytes: more is not written.
    """

    attempt: Attempt
    way: publish.Way
    once: bool
    max_bytes: int

    def write(self, content: Iterable[bytes], sha256: str = "") -> Receipt:
        """
        Write ``content`` and make it appear; a second run of a ``once`` that succeeded returns the first receipt.

        Args:
            sha256: that ``content`` must have, hex; "" where any will do.

        Raises:
            ContentInvalid: from ``content``, or it is too large; nothing is left behind.
            ContentDamaged: it has another digest; nothing is left behind.
            FileExists: the name is taken.
            SourceUnavailable: the folder is not there.
            SourceFailed: it can't be written; nothing is left behind.
            OutcomeUnknown: the system failed at the last step.
            NotHappened: this attempt was given up meanwhile.
        """
        try:
            if self.once and (receipt := self._done_before()) is not None:
                return receipt
            self._refuse_taken()
            try:
                receipt = self._write_part(content)
                if sha256 not in ("", receipt.sha256):
                    found = f"what came has the SHA-256 {receipt.sha256}, and not {sha256}"
                    raise ContentDamaged(f"{self._final} was not written: {found}", touched=False)
                if self.once:
                    self._write_claim(Claim(receipt, self.way))
                self._appear()
            except BaseException:
                # The claim first: without its part it would say that it happened.
                if self._part.is_file():
                    self._claim.unlink(missing_ok=True)
                    self._part.unlink(missing_ok=True)
                raise
        except OSError as exc:
            if self._taken_away():
                raise self._given_up() from exc
            raise failure(exc, self._final) from exc
        return receipt

    @property
    def _part(self) -> Path:
        return self.attempt.part

    @property
    def _claim(self) -> Path:
        return self.attempt.claim

    @property
    def _folder(self) -> Path:
        return self.attempt.folder

    @property
    def _final(self) -> Path:
        return self._folder / self.attempt.name

    def _done_before(self) -> Receipt | None:
        if self.attempt.given_up:
            if (receipt := self.attempt.found()) is not None:
                return receipt
            raise self._given_up()
        for earlier in self.attempt.earlier():
            if (receipt := earlier.found()) is not None:
                return receipt
        receipt = self.attempt.found() if self.attempt.claimed() is not None else None
        if receipt is None:
            self.attempt.clear()
        return receipt

    def _taken_away(self) -> bool:
        return self.attempt.given_up or self.attempt.void.exists()

    def _given_up(self) -> NotHappened:
        return NotHappened(f"{self._final}: this attempt was given up before the file appeared", touched=False)

    def _refuse_taken(self) -> None:
        try:
            found = self._final.lstat()
        except FileNotFoundError:
            return
        if stat.S_ISLNK(found.st_mode):
            raise FileExists(
                f"{self._final} is a symbolic link; the agent neither follows nor replaces it. Remove the link",
                touched=False,
            )
        if self.way != "replace" or not stat.S_ISREG(found.st_mode):
            raise self._taken()

    def _taken(self) -> FileExists:
        return FileExists(
            f"{self._final} is there already; fetch or remove it, use another name, or set overwrite = true",
            touched=False,
        )

    def _write_part(self, content: Iterable[bytes]) -> Receipt:
        digest, size = hashlib.sha256(), 0
        if not self.once:
            self._part.unlink(missing_ok=True)  # of an earlier run
        with self._part.open("xb") as part:
            for piece in content:
                size += len(piece)
                if size > self.max_bytes:
                    raise ContentInvalid(
                        f"{self._final} was not written: it has more than {self.max_bytes} bytes, all that the "
                        "operation's max_bytes allows; an operator allows it by raising that number",
                        touched=False,
                    )
                part.write(piece)
                digest.update(piece)
            part.flush()
            os.fsync(part.fileno())
        return Receipt(self.attempt.name, size, digest.hexdigest())

    def _write_claim(self, claim: Claim) -> None:
        # The part's name before the claim's, or a power cut could leave only the claim.
        durable_file.sync_folder(self._folder)
        with self._claim.open("xb") as file:
            file.write(msgspec.json.encode(claim))
            file.flush()
            os.fsync(file.fileno())
        durable_file.sync_folder(self._folder)

    def _appear(self) -> None:
        try:
            publish.appear(self._part, self._final, self.way)
        except FileExistsError as exc:
            raise self._taken() from exc
        except OSError as exc:
            if self._part.exists() or self._taken_away():
                raise
            raise self._unsure(exc) from exc
        try:
            durable_file.sync_folder(self._folder)
        except OSError as exc:
            raise self._unsure(exc) from exc

    def _unsure(self, exc: OSError) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"{self._final}: the system failed when the file took its name: {exc.strerror}; look there"
        )


def content_of(operation: DropOperation, values: Mapping[str, Any], file: str = "") -> Iterator[bytes]:
    """
    Yield the bytes of the file that ``operation`` writes.

    Args:
        values: what ``agent.parameters.decode`` returned.
        file: with the content, where the values only name it.

    Raises:
        ContentInvalid: it can't be written so.
        SourceFailed: ``file`` can't be read.
    """
    form = operation.format
    if form.type in ("csv", "fixed-width"):
        yield from tables.written(values["rows"], form, operation.encoding)
    elif form.type == "xml":
        yield documents.xml_bytes(values["document"], form, operation.encoding)
    elif form.type == "json":
        yield documents.json_bytes(values["document"], operation.encoding)
    elif isinstance(values["content"], BlobName):
        yield from _of_file(Path(file))
    else:
        yield values["content"]


def _of_file(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb", buffering=0) as file:
            while data := file.read(COPY_BYTES):
                yield data
    except OSError as exc:
        raise failure(exc, path, "read") from exc


def forget(folder: Path, name: str, command_id: str, number: int) -> None:
    """The broker has the receipt: remove the claims, if there were any, and what was taken away."""
    try:
        names.check(name)
        last = Attempt(folder, name, command_id, number)
        for attempt in [last, *last.earlier()]:
            for path in (attempt.claim, attempt.void):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
    except names.NameRefused:
        return  # no drop of ours has such a name


def failure(exc: OSError, path: Path, wanted: str = "written") -> SourceFailed | SourceUnavailable:
    """Return what an error of the file system means, with the place and what to do."""
    code = errno.errorcode.get(exc.errno or 0, "")
    if code in _NOT_THERE:
        return SourceUnavailable(
            f"{path}: {_NOT_THERE[code]}; is the share mounted?",
            source_code=code,
            touched=False,
            remedy="folder.missing",
        )
    fix = _FIXES.get(code)
    if code == "EACCES" and hasattr(exc, "winerror"):
        # Without a number where a file could not be opened: then it may be either.
        fix = _WINDOWS_FIXES.get(getattr(exc, "winerror", None) or _EITHER, fix)
    return SourceFailed(
        f"{path} can't be {wanted}: {fix or exc.strerror or exc}",
        source_code=code,
        remedy=_REMEDIES.get(code, "folder.unusable"),
    )
