"""The page for a person who opens the server's address in a browser."""

import dataclasses

import pytest

from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, Homeserver


def test_a_person_is_told_what_this_is_and_what_to_do(homeserver: Homeserver) -> None:
    reply = homeserver.request("GET", "/")

    assert reply.status == 200
    assert reply.headers.getRawHeaders("content-type") == ["text/html; charset=utf-8"]
    assert b"<h1>hs.test</h1>" in reply.body
    assert b"You can make an account there." in reply.body


def test_who_may_not_register_is_not_told_that_he_can(database: InlineDatabase) -> None:
    registration = dataclasses.replace(DEFAULT_CONFIG.registration, enabled=False)
    homeserver = Homeserver(
        database, dataclasses.replace(DEFAULT_CONFIG, registration=registration)
    )

    body = homeserver.request("GET", "/").body
    homeserver.stop()

    assert b"Accounts are given by whoever runs this server." in body
    assert b"make an account" not in body


@pytest.mark.parametrize("host", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_attack_14_what_a_request_says_is_no_part_of_the_page(
    homeserver: Homeserver, host: str
) -> None:
    reply = homeserver.request("GET", "/", headers={"Host": host})

    assert host.encode() not in reply.body
    assert reply.headers.getRawHeaders("content-security-policy") == [
        "default-src 'none'; style-src 'unsafe-inline'"
    ]
