"""Registration, and interactive authentication as registration uses it."""

import dataclasses
import hashlib
import hmac
from pathlib import Path
from typing import Any

import pytest

from homeserver.config import RegistrationSection
from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, Homeserver, Reply

REGISTER = "/_matrix/client/v3/register"
ADMIN_REGISTER = "/_synapse/admin/v1/register"
DUMMY = {"type": "m.login.dummy"}
SECRET = "a shared secret"


def register(server: Homeserver, username: str | None = "alice", **more: Any) -> Reply:
    body: dict[str, Any] = {"password": "a-long-password", "auth": DUMMY, **more}
    if username is not None:
        body["username"] = username
    return server.request("POST", REGISTER, body)


def test_registering_gives_a_session(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    assert alice.get("/account/whoami").json == {
        "user_id": "@alice:hs.test",
        "device_id": alice.device_id,
        "is_guest": False,
    }


def test_registration_without_auth_asks_for_a_flow_and_its_session_completes_it(
    homeserver: Homeserver,
) -> None:
    asked = homeserver.request("POST", REGISTER, {})

    assert asked.status == 401
    assert asked.json["flows"] == [{"stages": ["m.login.dummy"]}]
    done = register(homeserver, auth={**DUMMY, "session": asked.json["session"]})
    assert done.json["user_id"] == "@alice:hs.test"


def test_authentication_session_is_good_for_one_registration(homeserver: Homeserver) -> None:
    session = homeserver.request("POST", REGISTER, {}).json["session"]
    register(homeserver, "alice", auth={**DUMMY, "session": session})

    again = register(homeserver, "bob", auth={**DUMMY, "session": session})

    assert again.status == 401
    assert again.json["session"] != session


def test_authentication_session_expires(homeserver: Homeserver) -> None:
    session = homeserver.request("POST", REGISTER, {}).json["session"]
    homeserver.advance(16 * 60)

    reply = register(homeserver, auth={**DUMMY, "session": session})

    assert reply.status == 401


def test_stage_that_is_not_offered_is_refused(homeserver: Homeserver) -> None:
    reply = register(homeserver, auth={"type": "m.login.email.identity"})

    assert (reply.status, reply.errcode) == (400, "M_UNRECOGNIZED")


@pytest.mark.parametrize("auth", [[], "m.login.dummy", 1])
def test_auth_that_is_no_object_is_refused(homeserver: Homeserver, auth: object) -> None:
    assert register(homeserver, auth=auth).status == 400


def test_registered_name_is_in_use_before_any_authentication(homeserver: Homeserver) -> None:
    homeserver.register("alice")

    reply = homeserver.request("POST", REGISTER, {"username": "alice"})

    assert (reply.status, reply.errcode) == (400, "M_USER_IN_USE")


def test_name_of_a_deactivated_account_stays_in_use(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    auth = {"type": "m.login.password", "user": "alice", "password": "a-long-password"}
    assert alice.post("/account/deactivate", {"auth": auth}).status == 200

    assert register(homeserver).errcode == "M_USER_IN_USE"


@pytest.mark.parametrize(
    "username", ["", "a b", "ä", "a:b", "a!", "a\0b", "x" * 250, "@alice:hs.test"]
)
def test_names_outside_the_grammar_are_refused(homeserver: Homeserver, username: str) -> None:
    reply = register(homeserver, username)

    assert (reply.status, reply.errcode) == (400, "M_INVALID_USERNAME")


def test_capitals_in_a_name_become_small(homeserver: Homeserver) -> None:
    assert register(homeserver, "Alice").json["user_id"] == "@alice:hs.test"
    assert register(homeserver, "ALICE").errcode == "M_USER_IN_USE"


def test_server_makes_up_a_name_when_none_is_given(homeserver: Homeserver) -> None:
    first = register(homeserver, None).json["user_id"]
    second = register(homeserver, None).json["user_id"]

    assert first.startswith("@")
    assert first != second


def test_inhibited_login_gives_an_account_and_no_session(homeserver: Homeserver) -> None:
    reply = register(homeserver, inhibit_login=True)

    assert reply.json == {"user_id": "@alice:hs.test"}
    body = {"type": "m.login.password", "user": "alice", "password": "a-long-password"}
    assert homeserver.request("POST", "/_matrix/client/v3/login", body).status == 200


def test_given_device_id_is_used_with_its_name(homeserver: Homeserver) -> None:
    reply = register(homeserver, device_id="PHONE", initial_device_display_name="My phone")

    assert reply.json["device_id"] == "PHONE"
    device = homeserver.request(
        "GET", "/_matrix/client/v3/devices/PHONE", token=reply.json["access_token"]
    ).json
    assert device["display_name"] == "My phone"


@pytest.mark.parametrize(
    "more",
    [
        {"device_id": ""},
        {"device_id": "x" * 256},
        {"device_id": "a\0b"},
        {"device_id": {}},
        {"initial_device_display_name": "x" * 101},
        {"initial_device_display_name": "a\0b"},
        {"password": ""},
        {"password": "x" * 1025},
        {"password": None},
        {"password": 12345678},
    ],
)
def test_values_no_account_can_have_are_refused(
    homeserver: Homeserver, more: dict[str, Any]
) -> None:
    assert register(homeserver, **more).status == 400
    assert register(homeserver).status == 200


def test_guest_escalation_guests_are_refused(homeserver: Homeserver) -> None:
    reply = homeserver.request("POST", REGISTER, {}, query={"kind": "guest"})

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


def test_closed_registration_is_refused_and_tells_nothing_of_names(
    homeserver: Homeserver, database: InlineDatabase
) -> None:
    homeserver.register("alice")
    closed = Homeserver(
        database,
        dataclasses.replace(DEFAULT_CONFIG, registration=RegistrationSection(enabled=False)),
    )

    assert register(closed, "alice").errcode == "M_FORBIDDEN"
    assert register(closed, "bob").errcode == "M_FORBIDDEN"
    available = closed.request("GET", f"{REGISTER}/available", query={"username": "alice"})
    assert (available.status, available.errcode) == (403, "M_FORBIDDEN")
    closed.stop()


def test_availability_of_names(homeserver: Homeserver) -> None:
    homeserver.register("alice")

    def ask(username: str) -> Reply:
        return homeserver.request("GET", f"{REGISTER}/available", query={"username": username})

    assert ask("bob").json == {"available": True}
    assert ask("alice").errcode == "M_USER_IN_USE"
    assert ask("a b").errcode == "M_INVALID_USERNAME"


def test_registration_is_all_or_nothing(homeserver: Homeserver) -> None:
    for statement in range(1, 30):
        homeserver.database.fail_at = statement
        reply = register(homeserver)
        if reply.status == 200:
            break
        assert reply.status >= 500
    else:
        raise AssertionError("it never came through")
    homeserver.database.fail_at = None

    assert statement > 3
    assert register(homeserver).errcode == "M_USER_IN_USE"


# --- by shared secret


@pytest.fixture
def secret_server(database: InlineDatabase, tmp_path: Path) -> Any:
    (tmp_path / "secret").write_text(SECRET + "\n")
    section = RegistrationSection(enabled=False, shared_secret_file="secret")
    server = Homeserver(
        database, dataclasses.replace(DEFAULT_CONFIG, registration=section, directory=tmp_path)
    )
    yield server
    server.stop()


def nonce_of(server: Homeserver) -> str:
    return str(server.request("GET", ADMIN_REGISTER).json["nonce"])


def signed(nonce: str, username: str = "root", *, secret: str = SECRET, **more: Any) -> Any:
    text = f"{nonce}\0{username}\0a-long-password\0admin"
    mac = hmac.new(secret.encode(), text.encode(), hashlib.sha1).hexdigest()
    return {
        "nonce": nonce,
        "username": username,
        "password": "a-long-password",
        "admin": True,
        "mac": mac,
        **more,
    }


def test_shared_secret_registers_an_account_with_a_name(secret_server: Homeserver) -> None:
    body = signed(nonce_of(secret_server), displayname="The root")

    reply = secret_server.request("POST", ADMIN_REGISTER, body)

    assert reply.json["user_id"] == "@root:hs.test"
    token = reply.json["access_token"]
    owner = secret_server.request("GET", "/_matrix/client/v3/account/whoami", token=token)
    assert owner.json["user_id"] == "@root:hs.test"
    profile = secret_server.request("GET", "/_matrix/client/v3/profile/%40root%3Ahs.test")
    assert profile.json == {"displayname": "The root"}


def test_shared_secret_nonce_replay_is_refused(secret_server: Homeserver) -> None:
    nonce = nonce_of(secret_server)
    secret_server.request("POST", ADMIN_REGISTER, signed(nonce, "root"))

    reply = secret_server.request("POST", ADMIN_REGISTER, signed(nonce, "second"))

    assert reply.status == 400


def test_nonce_is_spent_by_a_wrong_mac(secret_server: Homeserver) -> None:
    nonce = nonce_of(secret_server)

    guess = secret_server.request("POST", ADMIN_REGISTER, signed(nonce, secret="another"))
    again = secret_server.request("POST", ADMIN_REGISTER, signed(nonce))

    assert (guess.status, guess.errcode) == (403, "M_FORBIDDEN")
    assert again.status == 400


def test_nonce_expires(secret_server: Homeserver) -> None:
    nonce = nonce_of(secret_server)
    secret_server.advance(61)

    assert secret_server.request("POST", ADMIN_REGISTER, signed(nonce)).status == 400


def test_rights_are_part_of_what_is_signed(secret_server: Homeserver) -> None:
    body = signed(nonce_of(secret_server), admin=False)

    assert secret_server.request("POST", ADMIN_REGISTER, body).status == 403


def test_nul_cannot_move_the_border_between_signed_parts(secret_server: Homeserver) -> None:
    nonce = nonce_of(secret_server)
    body = signed(nonce, "root\0a-long-password", password="admin")

    assert secret_server.request("POST", ADMIN_REGISTER, body).status == 400


def test_nonces_are_bounded(secret_server: Homeserver) -> None:
    first = nonce_of(secret_server)
    for _ in range(1000):
        nonce_of(secret_server)

    assert secret_server.request("POST", ADMIN_REGISTER, signed(first)).status == 400


@pytest.mark.parametrize("mac", ["", "ä", "00"])
def test_strange_macs_are_refused(secret_server: Homeserver, mac: str) -> None:
    body = signed(nonce_of(secret_server), mac=mac)

    assert secret_server.request("POST", ADMIN_REGISTER, body).status == 403


def test_without_a_secret_there_is_no_nonce(homeserver: Homeserver) -> None:
    assert homeserver.request("GET", ADMIN_REGISTER).status == 400
