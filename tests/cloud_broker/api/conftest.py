"""One API server for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from tests.cloud_broker.api.broker import Broker, running


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    """A server of its own."""
    async with running(tmp_path) as server:
        yield server


@pytest.fixture
async def acme(broker: Broker) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that may do everything within the tenant acme."""
    async with broker.client(await broker.key("acme")) as client:
        yield client
