"""Blobs at the agent: fetched whole or not used, whatever the link and the broker do."""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent import blobs as module
from agent.blobs import Blobs, wanted
from agent.errors import BlobUnavailable, ParametersInvalid, SignatureInvalid
from agent.parameters import BlobName
from agent.settings import DropOperation, FileFormat
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.messages import AnyMessage, BlobChunk, BlobGone, BlobInfo, Fetch, Run
from tests.waiting import until

DATA = bytes(range(256)) * 20_000  # 5 MB: more than a window
INFO = BlobInfo("blob_1", len(DATA), hashlib.sha256(DATA).hexdigest())
RUN = Run(id="cmd_1", epoch=3, operation="drop", expires_in_s=60.0, credit=0, blob=INFO)
DROP = DropOperation(connection="edi", drop="x", format=FileFormat(type="raw"), max_bytes=len(DATA))


class Broker:
    """Gives what is asked for, as far as a link lets it."""

    def __init__(self) -> None:
        self.asked: list[Fetch] = []
        self.linked = True
        self.most = 0  # bytes that were asked for and not given

    def hears(self, message: AnyMessage) -> None:
        assert isinstance(message, Fetch)
        if self.linked:
            self.asked.append(message)
            self.most = max(self.most, sum(one.bytes for one in self.asked))

    def gives(self, blobs: Blobs) -> None:
        """Give the next part that was asked for."""
        asked = self.asked.pop(0)
        for offset in range(asked.offset, asked.offset + asked.bytes, limits.CHUNK_BYTES):
            data = DATA[offset : min(offset + limits.CHUNK_BYTES, asked.offset + asked.bytes)]
            blobs.heard(chunk(offset, data), data)


def chunk(offset: int, data: bytes, **changed: Any) -> BlobChunk:
    return msgspec.structs.replace(BlobChunk("cmd_1", 3, offset, zlib.crc32(data)), **changed)


async def fetching(blobs: Blobs, broker: Broker, run: Run = RUN) -> asyncio.Task[Path]:
    task = asyncio.create_task(blobs.fetch(run, INFO))
    await until(lambda: broker.asked or task.done())
    return task


async def test_it_comes_whole_and_never_more_than_a_window_is_under_way(tmp_path: Path) -> None:
    broker = Broker()
    blobs = Blobs(tmp_path / "blobs", broker.hears)
    task = await fetching(blobs, broker)
    while not task.done():
        await until(lambda: broker.asked or task.done())
        if broker.asked:
            broker.gives(blobs)
    path = await task
    assert path.read_bytes() == DATA
    assert broker.most <= limits.BLOB_WINDOW_BYTES
    blobs.done("cmd_1", again=False)
    await until(lambda: not path.exists())


async def test_after_a_lost_link_only_the_rest_is_asked_for(tmp_path: Path) -> None:
    broker = Broker()
    blobs = Blobs(tmp_path / "blobs", broker.hears)
    task = await fetching(blobs, broker)
    for _ in range(3):
        broker.gives(blobs)
    broker.linked = False
    broker.asked.clear()
    await until(lambda: (tmp_path / "blobs" / "cmd_1").stat().st_size == 3 * module.PART_BYTES)
    broker.linked = True
    blobs.again("cmd_1")
    assert broker.asked[0].offset == 3 * module.PART_BYTES
    while not task.done():
        await until(lambda: broker.asked or task.done())
        if broker.asked:
            broker.gives(blobs)
    assert (await task).read_bytes() == DATA


async def test_the_next_process_goes_on_where_this_one_ended(tmp_path: Path) -> None:
    broker = Broker()
    first = Blobs(tmp_path / "blobs", broker.hears)
    task = await fetching(first, broker)
    broker.gives(first)
    await until(lambda: (tmp_path / "blobs" / "cmd_1").stat().st_size == module.PART_BYTES)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    broker.asked.clear()
    second = Blobs(tmp_path / "blobs", broker.hears)
    second.open()
    task = await fetching(second, broker)
    assert broker.asked[0].offset == module.PART_BYTES
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (chunk(1, b"x"), b"x"),
        (chunk(0, b"x"), b"y"),
        (chunk(0, b"x" * (limits.BLOB_WINDOW_BYTES + 1)), b"x" * (limits.BLOB_WINDOW_BYTES + 1)),
    ],
    ids=["not the next", "not its checksum", "more than was asked for"],
)
async def test_what_was_not_asked_for_costs_the_link(tmp_path: Path, message: BlobChunk, data: bytes) -> None:
    broker = Broker()
    blobs = Blobs(tmp_path / "blobs", broker.hears)
    task = await fetching(blobs, broker)
    with pytest.raises(RemoteProtocolError):
        blobs.heard(message, data)
    blobs.heard(BlobGone("cmd_1", 3, "it was removed"), b"")
    with pytest.raises(BlobUnavailable, match="it was removed"):
        await task


async def test_what_comes_for_another_attempt_or_command_is_of_no_effect(tmp_path: Path) -> None:
    broker = Broker()
    blobs = Blobs(tmp_path / "blobs", broker.hears)
    task = await fetching(blobs, broker)
    blobs.heard(chunk(5, b"x", epoch=2), b"x")
    blobs.heard(chunk(5, b"x", id="cmd_2"), b"x")
    blobs.heard(BlobGone("cmd_2", 3, "no"), b"")
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_disk_without_room_is_told_before_a_byte_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE_BYTES", 1 << 60)
    broker = Broker()
    blobs = Blobs(tmp_path / "blobs", broker.hears)
    with pytest.raises(BlobUnavailable, match="make room") as caught:
        await blobs.fetch(RUN, INFO)
    assert caught.value.may_work_later
    assert broker.asked == []


async def test_what_may_be_tried_again_is_kept_for_that(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs", lambda _: None)
    path = tmp_path / "blobs" / "cmd_1"
    path.parent.mkdir()
    path.write_bytes(DATA)
    blobs.done("cmd_1", again=True)
    assert await blobs.fetch(RUN, INFO) == path
    blobs.done("cmd_1", again=False)
    await until(lambda: not path.exists())


SHA256 = INFO.sha256


@pytest.mark.parametrize(
    ("run", "content", "signed", "error"),
    [
        (RUN, BlobName("blob_1"), False, None),
        (RUN, BlobName("blob_1", SHA256), True, None),
        (RUN, BlobName("blob_1"), True, SignatureInvalid),
        (RUN, BlobName("blob_1", "0" * 64), True, ParametersInvalid),
        (RUN, BlobName("blob_2"), False, ParametersInvalid),
        (msgspec.structs.replace(RUN, blob=None), BlobName("blob_1"), False, ParametersInvalid),
        (msgspec.structs.replace(RUN, sealed=True), BlobName("blob_1"), False, ParametersInvalid),
        (
            msgspec.structs.replace(RUN, blob=BlobInfo("blob_1", len(DATA) + 1, SHA256)),
            BlobName("blob_1"),
            False,
            ParametersInvalid,
        ),
    ],
)
def test_only_the_blob_that_was_meant_is_fetched(
    run: Run, content: BlobName, signed: bool, error: type[Exception] | None
) -> None:
    if error is None:
        assert wanted(DROP, content, run, signed=signed) == INFO
    else:
        with pytest.raises(error) as caught:
            wanted(DROP, content, run, signed=signed)
        assert caught.value.touched is False  # type: ignore[attr-defined]  # both are errors of commands


def test_a_content_in_the_parameters_needs_no_blob() -> None:
    assert wanted(DROP, b"here", RUN, signed=True) is None
