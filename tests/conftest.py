"""Fixtures for every test: real database servers, started once a session when first asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from config.dev import databases


@pytest.fixture(scope="session")
def postgres() -> Iterator[databases.Postgres]:
    """A PostgreSQL server with an empty database; a test makes what it needs under names of its own."""
    with databases.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[databases.MariaDB]:
    """A MariaDB server with an empty database; a test makes what it needs under names of its own."""
    with databases.mariadb() as server:
        yield server
