"""POST /v1/blobs: what is taken, what is refused, and what stays of it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud_broker.blobs import DAY_S, Blobs
from cloud_broker.errors import NoRoom
from cloud_broker.settings import LimitSettings
from cloud_broker.store.base import Store
from cloud_broker.tenants import Scope
from tests.cloud_broker.api.broker import running
from tests.waiting import until

LIMITS = LimitSettings(blob_bytes=100_000, tenant_blob_bytes=150_000)
ACME = Scope("acme")


def digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def files(folder: Path) -> list[Path]:
    return [path for path in (folder / "blobs").rglob("*") if path.is_file()]


async def in_pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_a_blob_is_kept_once_and_named_by_its_bytes(tmp_path: Path) -> None:
    async with running(tmp_path, limits=LIMITS) as broker:
        client = broker.client(await broker.key("acme", "commands:write"))
        async with client:
            first = await client.post("/v1/blobs", content=b"hello", headers={"Content-Digest": digest(b"hello")})
            again = await client.post("/v1/blobs", content=in_pieces(b"he", b"", b"llo"))
            empty = await client.post("/v1/blobs", content=b"")
        assert first.status_code == 201
        assert first.json() == again.json()
        assert first.json()["sha256"] == hashlib.sha256(b"hello").hexdigest()
        assert (empty.status_code, empty.json()["bytes"]) == (201, 0)
        assert sorted(path.read_bytes() for path in files(tmp_path)) == [b"", b"hello"]
        noted = await broker.store.audit_after("acme", 0, 100)
        assert [record.target for record in noted if record.action == "blob_kept"] == [
            f"blob:{one.json()['blob']}" for one in (first, empty)
        ]


@pytest.mark.parametrize(
    ("size", "headers", "status", "code"),
    [
        (100_001, {}, 413, "request_too_large"),
        (5, {"Content-Digest": digest(b"other")}, 400, "request_invalid"),
        (5, {"Content-Digest": "sha-256=:AAAA:"}, 400, "request_invalid"),
        (5, {"Content-Digest": "sha-256=text"}, 400, "request_invalid"),
        (5, {"Content-Encoding": "gzip"}, 415, "content_type_unsupported"),
    ],
)
@pytest.mark.parametrize("whole", [True, False], ids=["with its length", "in pieces"])
async def test_what_is_refused_leaves_nothing(
    tmp_path: Path, size: int, headers: dict[str, str], status: int, code: str, whole: bool
) -> None:
    data = b"x" * size
    async with (
        running(tmp_path, limits=LIMITS) as broker,
        broker.client(await broker.key("acme", "commands:write")) as client,
    ):
        answer = await client.post("/v1/blobs", content=data if whole else in_pieces(data), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        await until(lambda: not files(tmp_path))
        # Nor does it count for what the tenant may keep.
        assert (await client.post("/v1/blobs", content=b"y" * 100_000)).status_code == 201


async def test_a_tenant_keeps_no_more_than_it_may_and_another_is_not_touched(tmp_path: Path) -> None:
    async with running(tmp_path, limits=LIMITS) as broker:
        async with broker.client(await broker.key("acme", "commands:write")) as client:
            assert (await client.post("/v1/blobs", content=b"x" * 100_000)).status_code == 201
            for content in (b"y" * 60_000, in_pieces(b"y" * 30_000, b"y" * 30_000)):
                full = await client.post("/v1/blobs", content=content)
                assert (full.status_code, full.json()["code"]) == (507, "no_room"), full.text
                assert "tenant_blob_bytes" in full.json()["detail"]
            assert (await client.post("/v1/blobs", content=b"z" * 50_000)).status_code == 201
        async with broker.client(await broker.key("other", "commands:write")) as client:
            assert (await client.post("/v1/blobs", content=b"x" * 100_000)).status_code == 201


async def test_a_key_that_may_not_write_sends_no_blob(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        for key, status in ((await broker.key("acme", "commands:read"), 403), (None, 401)):
            async with broker.client(key) as client:
                assert (await client.post("/v1/blobs", content=b"x")).status_code == status
        assert files(tmp_path) == []


async def made(store: Store, folder: Path, now: list[float], spare_bytes: int = 0) -> Blobs:
    blobs = Blobs(store, folder / "blobs", LIMITS, lambda: now[0], spare_bytes)
    await blobs.open()
    return blobs


async def test_a_disk_without_room_takes_none(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        blobs = await made(broker.store, tmp_path, [0.0], spare_bytes=1 << 60)
        with pytest.raises(NoRoom, match="disk has no room"):
            await blobs.receive(ACME, in_pieces(b"x"), by="k")
        assert files(tmp_path) == []


async def test_what_nothing_names_is_removed_after_a_while_and_what_is_used_again_stays(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        now = [1_700_000_000.0]
        blobs = await made(broker.store, tmp_path, now)
        old = await blobs.receive(ACME, in_pieces(b"old"), by="k")
        kept = await blobs.receive(ACME, in_pieces(b"kept"), by="k")
        now[0] += 1.9 * DAY_S
        assert (await blobs.receive(ACME, in_pieces(b"kept"), by="k")).id == kept.id
        now[0] += 0.2 * DAY_S
        await blobs.tidy()
        assert await broker.store.blob(ACME, old.id) is None
        assert [path.read_bytes() for path in files(tmp_path)] == [b"kept"]
        assert await broker.store.blob_totals() == {"acme": 4}


async def test_files_that_the_store_does_not_know_are_removed_at_the_start(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        now = [1_700_000_000.0]
        blobs = await made(broker.store, tmp_path, now)
        known = await blobs.receive(ACME, in_pieces(b"known"), by="k")
        for path in ("acme/coming/0123", "acme/zz/blob_0000000000000000000000000z", "nobody/aa/blob_x"):
            stray = tmp_path / "blobs" / path
            stray.parent.mkdir(parents=True, exist_ok=True)
            stray.write_bytes(b"half")
        await made(broker.store, tmp_path, now)
        assert files(tmp_path) == [blobs.path(ACME, known.id)]
