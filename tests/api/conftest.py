"""Fixtures of the API tests."""

import dataclasses
from collections.abc import Iterator

import pytest

from homeserver.config import Config
from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, Homeserver, User


@pytest.fixture
def config() -> Config:
    """Of `both_versions`; tests of what is off by default have their own."""
    return DEFAULT_CONFIG


@pytest.fixture(params=["11", "12"])
def both_versions(
    request: pytest.FixtureRequest, database: InlineDatabase, config: Config
) -> Iterator[Homeserver]:
    """A homeserver whose new rooms have version 11, then one with 12."""
    server = dataclasses.replace(config.server, default_room_version=request.param)
    homeserver = Homeserver(database, dataclasses.replace(config, server=server))
    yield homeserver
    homeserver.stop()


@pytest.fixture
def alice(both_versions: Homeserver) -> User:
    return both_versions.register("alice")


@pytest.fixture
def bob(both_versions: Homeserver) -> User:
    return both_versions.register("bob")


@pytest.fixture
def room_id(alice: User, bob: User) -> str:
    """A public room of alice's that bob is in."""
    return alice.meet(bob)
