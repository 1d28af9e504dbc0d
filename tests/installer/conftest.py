"""The frozen program, built once for all who test it."""

from __future__ import annotations

from pathlib import Path

import pytest

from installer import cached
from tests.waiting import BUILD_S


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each test wait for the build, whichever is the first."""
    for item in items:
        if "frozen" in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(BUILD_S))


@pytest.fixture(scope="session")
def frozen() -> Path:
    """The folder of the frozen agent, built from this tree; its program is ``outhaul-agent`` in it."""
    return cached.frozen()
