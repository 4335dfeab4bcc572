"""Fixtures of the API tests."""

import dataclasses
from collections.abc import Iterator

import pytest

from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, Homeserver, User


@pytest.fixture(params=["11", "12"])
def both_versions(request: pytest.FixtureRequest, database: InlineDatabase) -> Iterator[Homeserver]:
    """A homeserver whose new rooms have version 11, then one with 12."""
    server = dataclasses.replace(DEFAULT_CONFIG.server, default_room_version=request.param)
    homeserver = Homeserver(database, dataclasses.replace(DEFAULT_CONFIG, server=server))
    yield homeserver
    homeserver.stop()


@pytest.fixture
def alice(both_versions: Homeserver) -> User:
    return both_versions.register("alice")


@pytest.fixture
def bob(both_versions: Homeserver) -> User:
    return both_versions.register("bob")
