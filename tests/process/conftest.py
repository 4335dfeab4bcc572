"""Fixtures of the tests that run the server as a process."""

from collections.abc import Iterator

import psycopg2
import pytest
from psycopg2.extensions import make_dsn


@pytest.fixture
def fresh_database(postgres_url: str) -> Iterator[str]:
    """URL of an empty database in the session's PostgreSQL, for a process that commits."""
    connection = psycopg2.connect(postgres_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE DATABASE process_test TEMPLATE template0"
            " ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        yield make_dsn(postgres_url, dbname="process_test")
        cursor.execute("DROP DATABASE process_test WITH (FORCE)")
    connection.close()
