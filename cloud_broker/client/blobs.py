"""Contents too large for JSON: sent before the command that names them, and picked files as they were."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import httpx2

from cloud_broker.client.errors import ResultCut, WordsError
from cloud_broker.client.records import Record, decode
from cloud_broker.client.requests import Requests, part

PIECE_BYTES: Final = 262_144  # of a file that are read and sent at once
BYTES: Final = "application/octet-stream"


class Blob(Record, frozen=True, kw_only=True):
    """
    A content that the broker keeps for a command to come.

    Attributes:
        blob: its id.
        sha256: of its bytes, hex.
    """

    blob: str
    bytes: int
    sha256: str

    @property
    def content(self) -> dict[str, str]:
        """What stands in the parameters in place of the content; the digest is for who signs them."""
        return {"blob": self.blob, "sha256": self.sha256}


class BlobCalls(Requests):
    """Blobs, and the contents of picked files."""

    def send_blob(self, source: Path | bytes, told: Callable[[int, int], None] = lambda _sent, _all: None) -> Blob:
        """
        Send a content and return what it is named by; a file of any size, in constant memory.

        Args:
            told: called with the bytes that were sent and those that there are, now and then.

        Raises:
            ProblemError: the broker did not take it: 413 too large, 507 no room.
            WordsError: the file can't be read.
            NotReachable: no answer came; nothing was kept.
            ResultCut: the broker has other bytes than were sent.
        """
        digests: list[str] = []

        def body() -> Iterator[bytes]:
            digest, sent = hashlib.sha256(), 0
            with _opened(source) as (file, size):
                while data := file.read(PIECE_BYTES):
                    yield data
                    digest.update(data)
                    sent += len(data)
                    told(sent, size)
            digests.append(digest.hexdigest())

        with _opened(source) as (_, size):
            answer = self._connection.send("/v1/blobs", body, size)
        blob = decode(answer.content, Blob)
        if blob.sha256 != digests[-1]:
            raise ResultCut(f"the broker has a blob with the SHA-256 {blob.sha256}, and {digests[-1]} was sent")
        return blob

    def content(self, command_id: str, file: str | None = None) -> Generator[bytes, None, None]:
        """
        Yield a picked file as it was, in pieces as they come, also while the command still runs.

        Args:
            file: its name, where several were picked; ``None`` for the first.

        Raises:
            ResultCut: some of it is missing.
            ProblemError: 404, if there is no such command or file.
        """
        query = {"file": file} if file is not None else {}
        path = f"/v1/commands/{part(command_id)}/content"
        try:
            with closing(self._connection.body(path, query, BYTES, skip=0)) as pieces:
                yield from pieces
        except httpx2.ReadTimeout as exc:
            raise ResultCut(f"the content of {command_id} stopped") from exc


@contextmanager
def _opened(source: Path | bytes) -> Iterator[tuple[BinaryIO, int]]:
    if isinstance(source, bytes):
        yield io.BytesIO(source), len(source)
        return
    try:
        file = source.open("rb", buffering=0)
    except OSError as exc:
        raise WordsError(f"{source} can't be read: {exc.strerror or exc}") from exc
    with file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        yield file, size
