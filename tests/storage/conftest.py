"""Fixtures of the storage tests."""

from collections.abc import Iterator

import pytest

from homeserver.storage.query import Txn
from tests.conftest import Connect


@pytest.fixture
def txn(postgres_url: str, connect: Connect) -> Iterator[Txn]:
    """A running transaction, rolled back after the test."""
    with connect(postgres_url).cursor() as cursor:
        yield Txn(cursor)
