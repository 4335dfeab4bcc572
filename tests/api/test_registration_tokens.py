"""Registration by token through the API."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from homeserver.config import RegistrationSection
from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, Homeserver, Reply

VALIDITY = "/_matrix/client/v1/register/m.login.registration_token/validity"


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text("spring-2026\nfor.bob\n")
    return file


@pytest.fixture
def server(database: InlineDatabase, tokens_file: Path) -> Iterator[Homeserver]:
    registration = RegistrationSection(enabled=True, tokens_file=str(tokens_file))
    homeserver = Homeserver(
        database, dataclasses.replace(DEFAULT_CONFIG, registration=registration)
    )
    yield homeserver
    homeserver.stop()


def register(homeserver: Homeserver, auth: object) -> Reply:
    body = {"username": "alice", "password": "a-long-password", "auth": auth}
    return homeserver.request("POST", "/_matrix/client/v3/register", body)


def test_who_knows_a_token_makes_an_account(server: Homeserver) -> None:
    reply = register(server, {"type": "m.login.registration_token", "token": "spring-2026"})

    assert (reply.status, reply.json["user_id"]) == (200, "@alice:hs.test")


@pytest.mark.parametrize("token", ["spring-2025", "", "spring-2026\nfor.bob", "x" * 100])
def test_a_wrong_token_makes_none(server: Homeserver, token: str) -> None:
    reply = register(server, {"type": "m.login.registration_token", "token": token})

    assert (reply.status, reply.errcode) == (401, "M_FORBIDDEN")


def test_the_dummy_stage_is_not_enough(server: Homeserver) -> None:
    assert register(server, {"type": "m.login.dummy"}).status == 400
    offered = register(server, None).json["flows"]
    assert offered == [{"stages": ["m.login.registration_token"]}]


def test_a_token_can_be_asked_about_and_withdrawn(server: Homeserver, tokens_file: Path) -> None:
    before = server.request("GET", VALIDITY, query={"token": "for.bob"}).json
    tokens_file.write_text("spring-2026\n")
    after = server.request("GET", VALIDITY, query={"token": "for.bob"}).json

    assert (before, after) == ({"valid": True}, {"valid": False})


def test_no_token_is_valid_where_none_is_needed(homeserver: Homeserver) -> None:
    assert homeserver.request("GET", VALIDITY, query={"token": "x"}).status == 403
