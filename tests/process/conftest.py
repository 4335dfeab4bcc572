"""Fixtures of the tests that run the server as a process."""

from collections.abc import Iterator

import pytest

from tests.conftest import empty_database


@pytest.fixture
def fresh_database(postgres_url: str) -> Iterator[str]:
    """URL of an empty database in the session's PostgreSQL, for a process that commits."""
    with empty_database(postgres_url, "process_test") as url:
        yield url
