"""Fixtures of the storage tests."""

from collections.abc import Iterator

import psycopg2
import pytest

from homeserver.storage.query import Txn


@pytest.fixture
def txn(postgres_url: str) -> Iterator[Txn]:
    """A running transaction, rolled back after the test."""
    connection = psycopg2.connect(postgres_url)
    with connection.cursor() as cursor:
        yield Txn(cursor)
    connection.rollback()
    connection.close()
