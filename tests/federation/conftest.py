"""Fixtures: servers a.test, b.test and c.test on one network, and a user of each."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest

from homeserver.core.identifiers import ServerName
from homeserver.services.appservices import Appservice
from homeserver.storage.migrations import migrate
from tests.conftest import Connect
from tests.database import InlineDatabase
from tests.federation.hostile_server import Stage
from tests.federation.network import MemoryNetwork
from tests.federation.partial_rooms import Scene, enter_partially
from tests.homeserver import DEFAULT_CONFIG, Homeserver, User

MakeServer = Callable[..., Homeserver]


@pytest.fixture(scope="session")
def server_urls(postgres_url: str) -> dict[str, str]:
    """URLs of migrated databases, by server name."""
    urls = {}
    for name in ("a.test", "b.test", "c.test"):
        database = name.replace(".", "_")
        connection = psycopg2.connect(postgres_url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {database}")
        connection.close()
        urls[name] = urlunsplit(urlsplit(postgres_url)._replace(path=f"/{database}"))
        migrate(urls[name], name)
    return urls


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


@pytest.fixture
def make_server(
    network: MemoryNetwork, server_urls: dict[str, str], tmp_path: Path, connect: Connect
) -> Iterator[MakeServer]:
    """Make the server of a name; what it stores is rolled back after the test.

    Further arguments are sections of its configuration.
    """
    made: list[Homeserver] = []

    def make(
        name: str, version: str = "11", *, appservices: Sequence[Appservice] = (), **sections: Any
    ) -> Homeserver:
        section = dataclasses.replace(
            DEFAULT_CONFIG.server, name=ServerName(name), default_room_version=version
        )
        config = dataclasses.replace(
            DEFAULT_CONFIG, server=section, directory=tmp_path / name, **sections
        )
        database = InlineDatabase(connect(server_urls[name]))
        server = Homeserver(database, config, appservices, network=network)
        made.append(server)
        return network.add(server)

    yield make
    for server in made:
        network.servers[server.name].stop()


@pytest.fixture
def a(make_server: MakeServer) -> Homeserver:
    return make_server("a.test")


@pytest.fixture
def b(make_server: MakeServer) -> Homeserver:
    return make_server("b.test")


@pytest.fixture
def c(make_server: MakeServer) -> Homeserver:
    return make_server("c.test")


@pytest.fixture
def alice(a: Homeserver) -> User:
    return a.register("alice")


@pytest.fixture
def bob(b: Homeserver) -> User:
    return b.register("bob")


@pytest.fixture
def carol(c: Homeserver) -> User:
    return c.register("carol")


@pytest.fixture
def scene(network: MemoryNetwork, a: Homeserver, b: Homeserver, c: Homeserver) -> Scene:
    return enter_partially(network, a, b, c)


@pytest.fixture
def stage(network: MemoryNetwork, a: Homeserver) -> Stage:
    return Stage(network, a)
