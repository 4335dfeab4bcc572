"""Class 11: passwords guessed from the many addresses that one IPv6 customer has."""

import dataclasses
import json
from collections.abc import Iterator

import pytest

from homeserver.config import RateLimitSection
from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, Homeserver
from tests.wire import Wire, parse_answer


@pytest.fixture
def server(database: InlineDatabase) -> Iterator[Homeserver]:
    limits = RateLimitSection(enabled=True, login_per_minute=3)
    homeserver = Homeserver(database, dataclasses.replace(DEFAULT_CONFIG, rate_limits=limits))
    yield homeserver
    homeserver.stop()


def login_from(address: str, server: Homeserver, user: str) -> int:
    body = json.dumps(
        {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user},
            "password": "wrong",
        }
    )
    wire = Wire(server.http_server, peername=(address, 1))
    wire.send(
        "POST /_matrix/client/v3/login HTTP/1.1\r\nHost: hs.test\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    answer = parse_answer(bytes(wire.received))
    assert answer is not None
    return answer[0]


def test_attack_11_all_addresses_of_one_network_share_their_guesses(server: Homeserver) -> None:
    statuses = [login_from(f"2a00:1450:1:2::{n}", server, f"user{n}") for n in range(4)]

    assert statuses == [403, 403, 403, 429]
    assert login_from("2a00:1450:1:3::1", server, "another") == 403
