"""One ERP and one lab for the tests that leave both whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.erp import Erp, erp
from tests.faults.site import Lab, lab


@pytest.fixture(scope="session")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Erp]:
    """The four legacy systems."""
    with erp(tmp_path_factory.mktemp("erp") / "edi") as made:
        yield made


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory, systems: Erp) -> Iterator[Lab]:
    """Both programs, at work."""
    with lab(tmp_path_factory.mktemp("lab"), systems) as made:
        yield made
