"""A homeserver that keeps media in the test's folder, with small limits."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.database import InlineDatabase
from tests.homeserver import Homeserver, User
from tests.media import start


@pytest.fixture
def homeserver(database: InlineDatabase, tmp_path: Path) -> Iterator[Homeserver]:
    server = start(database, tmp_path)
    yield server
    server.stop()


@pytest.fixture
def alice(homeserver: Homeserver) -> User:
    return homeserver.register("alice")
