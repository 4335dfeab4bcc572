"""Fixtures for every test: a PostgreSQL for the session, a rolled-back transaction for each."""

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest
from hypothesis import settings
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class
from psycopg2.extensions import make_dsn

from homeserver.storage.embedded import EmbeddedPostgres
from homeserver.storage.migrations import migrate
from tests.database import InlineDatabase
from tests.homeserver import Homeserver
from tests.server_process import run_homeserver

SERVER_NAME = "hs.test"
MAX_DELAY_MS = 86_400_000
"""How long an event may be delayed at `matrix_server`."""

Connect = Callable[[str], Connection]

_STRAY_SECONDS = 5.0
_strays = pytest.StashKey[list[str]]()

# How long a property takes says more of the machine than of the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def _no_thread_is_left(pytestconfig: pytest.Config) -> Iterator[None]:
    """Python would wait for it when everything is done, for ever perhaps."""
    before = set(threading.enumerate())
    yield
    threads = [one for one in threading.enumerate() if one not in before and not one.daemon]
    for thread in threads:
        thread.join(_STRAY_SECONDS)
    left = [thread.name for thread in threads if thread.is_alive()]
    pytestconfig.stash[_strays] = left
    assert not left, "threads that nobody has ended"


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Do not wait for them: they have been named."""
    if config.stash.get(_strays, []):
        sys.stdout.flush()
        os._exit(pytest.ExitCode.TESTS_FAILED)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a migrated database that belongs to this test session."""
    # Not below pytest's folder, which each run makes root's alone: PostgreSQL runs as another user.
    with tempfile.TemporaryDirectory(prefix="countersign-tests-") as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        url = postgres.start()
        _forget_durability(url)
        migrate(url, SERVER_NAME)
        yield url
        postgres.stop()


def _forget_durability(url: str) -> None:
    """Nothing here outlives a crash of the machine."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("ALTER SYSTEM SET fsync = off")
        cursor.execute("SELECT pg_reload_conf()")


@contextmanager
def empty_database(postgres_url: str, name: str) -> Iterator[str]:
    """Give the URL of a new database in the same PostgreSQL."""
    connection = psycopg2.connect(postgres_url)
    connection.autocommit = True
    with closing(connection), connection.cursor() as cursor:
        cursor.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        try:
            yield make_dsn(postgres_url, dbname=name)
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def matrix_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Base URL of a homeserver on which anyone may register: ours, as a process of its own.

    `MATRIX_TEST_BASE_URL` names another one to use instead, a Synapse for instance.
    """
    if given := os.environ.get("MATRIX_TEST_BASE_URL"):
        yield given.rstrip("/")
        return
    with empty_database(request.getfixturevalue("postgres_url"), "matrix_server") as url:
        sections = {"database": {"url": url}, "delayed_events": {"max_delay_ms": MAX_DELAY_MS}}
        with run_homeserver(tmp_path_factory.mktemp("server"), sections) as base_url:
            yield base_url


@pytest.fixture(scope="session")
def _connections() -> Iterator[dict[str, Connection]]:
    kept: dict[str, Connection] = {}
    yield kept
    for connection in kept.values():
        connection.close()


@pytest.fixture
def connect(_connections: dict[str, Connection]) -> Iterator[Connect]:
    """Give the connection to a database by its URL, rolled back and as new after the test.

    It is the same in each test: a new one costs PostgreSQL more than most tests do.
    """
    used: list[Connection] = []

    def connect(url: str) -> Connection:
        connection = _connections.get(url)
        if connection is None or connection.closed:
            connection = _connections[url] = psycopg2.connect(url)
        used.append(connection)
        return connection

    yield connect
    for connection in used:
        if not connection.closed:
            connection.reset()


@pytest.fixture
def database(postgres_url: str, connect: Connect) -> InlineDatabase:
    return InlineDatabase(connect(postgres_url))


@pytest.fixture
def homeserver(database: InlineDatabase) -> Iterator[Homeserver]:
    """A whole server in memory with registration open and a clock that tests move."""
    server = Homeserver(database)
    yield server
    server.stop()
