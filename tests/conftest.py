"""Fixtures for every test: a PostgreSQL for the session, a rolled-back transaction for each."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from hypothesis import settings

from homeserver.storage.embedded import EmbeddedPostgres
from homeserver.storage.migrations import migrate
from tests.database import InlineDatabase
from tests.homeserver import Homeserver

SERVER_NAME = "hs.test"

# How long a property takes says more of the machine than of the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a migrated database that belongs to this test session."""
    # Not below pytest's folder, which each run makes root's alone: PostgreSQL runs as another user.
    with tempfile.TemporaryDirectory(prefix="countersign-tests-") as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        url = postgres.start()
        migrate(url, SERVER_NAME)
        yield url
        postgres.stop()


@pytest.fixture
def database(postgres_url: str) -> Iterator[InlineDatabase]:
    connection = psycopg2.connect(postgres_url)
    yield InlineDatabase(connection)
    connection.rollback()
    connection.close()


@pytest.fixture
def homeserver(database: InlineDatabase) -> Iterator[Homeserver]:
    """A whole server in memory with registration open and a clock that tests move."""
    server = Homeserver(database)
    yield server
    server.stop()
