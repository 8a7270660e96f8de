"""Databases for the tests of jobs: SQLite in a file, and a real PostgreSQL server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres import Postgres


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """A database of the test's own."""
    return postgres.create_database()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url
