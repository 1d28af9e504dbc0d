"""A broker and its command line are two processes with one file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cloud_broker.store.sqlite import SqliteStore

COMMAND_LINE = """
import asyncio, sys
from pathlib import Path
from cloud_broker.store.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    await store.create_tenant(sys.argv[2], 0.0)
    await store.close()

asyncio.run(main())
"""


async def test_what_the_command_line_does_disturbs_no_broker_that_reads_first_and_writes_later(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "broker.db")
    await store.open()
    await store.tenants()  # a reading connection
    await store.create_tenant("acme", 0.0)  # then the writing one
    for name in ("second", "third"):
        subprocess.run([sys.executable, "-c", COMMAND_LINE, str(store.path), name], check=True)  # noqa: ASYNC221 - the broker stands still meanwhile on purpose
        await store.create_tenant(f"{name}-here", 0.0)
    seen = {tenant.name for tenant in await store.tenants()}
    await store.close()

    again = SqliteStore(store.path)
    await again.open()
    kept = {tenant.name for tenant in await again.tenants()}
    await again.close()

    assert seen == kept == {"acme", "second", "second-here", "third", "third-here"}
