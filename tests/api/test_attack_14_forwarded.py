"""Class 14: who a request is from, when a proxy in front says so and when anybody could."""

import dataclasses
import ssl
from collections.abc import Iterator

import pytest

from homeserver.config import ListenSection
from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, Homeserver, User
from tests.wire import Wire, parse_answer

FORGED = "198.51.100.7"


@pytest.fixture
def alice(database: InlineDatabase) -> Iterator[User]:
    """A user of a server that has a proxy in front, and for other servers a port with TLS."""
    listen = ListenSection(address="127.0.0.1", trust_forwarded_headers=True)
    homeserver = Homeserver(database, dataclasses.replace(DEFAULT_CONFIG, listen=listen))
    yield homeserver.register("alice")
    homeserver.stop()


def last_seen(alice: User, wire: Wire) -> str | None:
    wire.send(
        f"GET /_matrix/client/v3/account/whoami HTTP/1.1\r\nHost: hs.test\r\n"
        f"Authorization: Bearer {alice.token}\r\nX-Forwarded-For: {FORGED}\r\n\r\n".encode()
    )
    assert parse_answer(bytes(wire.received)) is not None
    (device,) = alice.get("/devices").json["devices"]
    found: str | None = device["last_seen_ip"]
    return found


def test_the_proxy_in_front_says_who_the_client_is(alice: User) -> None:
    assert last_seen(alice, Wire(alice.homeserver.http_server)) == FORGED


def test_attack_14_who_comes_over_tls_itself_is_not_believed(alice: User) -> None:
    """Else limits by address could be had anew with each request."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    wire = Wire(alice.homeserver.http_server, sslcontext=context)

    assert last_seen(alice, wire) == "127.0.0.1"
