"""Logging in and out, refreshing, passwords and the end of accounts."""

import dataclasses
import logging
from typing import Any

import pytest

from homeserver.config import RateLimitSection
from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, PASSWORD, Homeserver, Reply

LOGIN = "/_matrix/client/v3/login"
REFRESH = "/_matrix/client/v3/refresh"
WHOAMI = "/_matrix/client/v3/account/whoami"


def login(server: Homeserver, user: str = "alice", password: str = PASSWORD, **more: Any) -> Reply:
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user},
        "password": password,
        **more,
    }
    return server.request("POST", LOGIN, body)


def owner(server: Homeserver, token: str) -> Reply:
    return server.request("GET", WHOAMI, token=token)


def test_login_flows_are_told(homeserver: Homeserver) -> None:
    flows = homeserver.request("GET", LOGIN).json["flows"]

    assert {"type": "m.login.password"} in flows


@pytest.mark.parametrize("user", ["alice", "@alice:hs.test", "Alice", "@ALICE:hs.test"])
def test_login_by_localpart_or_full_id(homeserver: Homeserver, user: str) -> None:
    homeserver.register("alice")

    reply = login(homeserver, user)

    assert reply.json["user_id"] == "@alice:hs.test"
    assert (
        owner(homeserver, reply.json["access_token"]).json["device_id"] == reply.json["device_id"]
    )


def test_login_by_the_legacy_user_field(homeserver: Homeserver) -> None:
    homeserver.register("alice")
    body = {"type": "m.login.password", "user": "alice", "password": PASSWORD}

    assert homeserver.request("POST", LOGIN, body).json["user_id"] == "@alice:hs.test"


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("alice", "wrong"),
        ("alice", ""),
        ("nobody", PASSWORD),
        ("@alice:other.test", PASSWORD),
        ("not a user", PASSWORD),
        ("a\0b", PASSWORD),
        ("", PASSWORD),
    ],
)
def test_wrong_logins_are_refused_alike(homeserver: Homeserver, user: str, password: str) -> None:
    homeserver.register("alice")

    reply = login(homeserver, user, password)

    assert reply.status == 403
    assert reply.json == {"errcode": "M_FORBIDDEN", "error": "Invalid user name or password"}


def test_timing_of_unknown_and_known_users_is_one_password_check_each(
    homeserver: Homeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    homeserver.register("alice")
    checked: list[str] = []
    from argon2 import PasswordHasher

    verify = PasswordHasher.verify

    def counted(self: PasswordHasher, stored: str, password: str) -> bool:
        checked.append(stored.rsplit("$", 2)[0])
        return verify(self, stored, password)

    monkeypatch.setattr(PasswordHasher, "verify", counted)
    login(homeserver, "alice", "wrong")
    login(homeserver, "nobody", "wrong")

    assert len(checked) == 2
    assert checked[0] == checked[1]


@pytest.mark.parametrize(
    "body",
    [
        {"type": "m.login.password"},
        {"type": "m.login.password", "user": "alice"},
        {"type": "m.login.token", "token": "x"},
        {"type": "m.login.password", "identifier": {"type": "m.id.new"}, "password": "x"},
        {"type": "m.login.password", "identifier": {"type": "m.id.user"}, "password": "x"},
        {"type": "m.login.password", "identifier": "alice", "password": "x"},
        {},
    ],
)
def test_incomplete_logins_are_bad_requests(homeserver: Homeserver, body: object) -> None:
    assert homeserver.request("POST", LOGIN, body).status == 400


def test_login_as_a_known_device_ends_its_earlier_session(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    assert alice.get("/account/whoami").status == 200

    reply = login(homeserver, device_id=alice.device_id, initial_device_display_name="Other")

    assert reply.json["device_id"] == alice.device_id
    assert owner(homeserver, alice.token).errcode == "M_UNKNOWN_TOKEN"
    assert owner(homeserver, reply.json["access_token"]).status == 200


def test_logout_ends_one_session_at_once(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    other = alice.login_again()
    other.get("/account/whoami")

    assert other.post("/logout", {}).json == {}

    refused = other.get("/account/whoami")
    assert (refused.status, refused.json["soft_logout"]) == (401, False)
    assert alice.get("/account/whoami").status == 200
    devices = [d["device_id"] for d in alice.get("/devices").json["devices"]]
    assert devices == [alice.device_id]


def test_logout_everywhere_ends_every_session(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    other = alice.login_again()
    bob = homeserver.register("bob")

    assert alice.post("/logout/all", {}).status == 200

    assert alice.get("/account/whoami").status == 401
    assert other.get("/account/whoami").status == 401
    assert bob.get("/account/whoami").status == 200


def test_usual_request_does_not_read_the_session_from_the_database(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    alice.get("/account/whoami")
    homeserver.database.statements.clear()

    alice.get("/account/whoami")

    assert homeserver.database.statements == []


def test_sessions_outlive_a_restart(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    again = homeserver.restart()

    assert owner(again, alice.token).json["user_id"] == alice.user_id
    again.stop()


def test_failed_logout_leaves_the_session_and_all_of_it(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    alice.get("/account/whoami")
    homeserver.database.fail_at = 2  # the deletion, after the account was read

    assert alice.post("/logout", {}).status >= 500

    assert alice.get("/account/whoami").status == 200


def test_token_in_the_query_is_accepted_and_never_logged(
    homeserver: Homeserver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    alice = homeserver.register("alice")
    reply = login(homeserver, refresh_token=True)
    homeserver.request("POST", REFRESH, {"refresh_token": reply.json["refresh_token"]})

    reply_by_query = homeserver.request("GET", WHOAMI, query={"access_token": alice.token})

    assert reply_by_query.json["user_id"] == alice.user_id
    secrets = [alice.token, reply.json["access_token"], reply.json["refresh_token"], PASSWORD]
    assert not [s for s in secrets if s in caplog.text]


def test_database_holds_no_token_and_no_password(
    homeserver: Homeserver, database: InlineDatabase
) -> None:
    reply = login_with_refresh(homeserver)

    rows = database._connection.cursor()
    rows.execute(
        "SELECT accounts::text || access_tokens::text || refresh_tokens::text"
        " FROM accounts, access_tokens, refresh_tokens"
    )
    text = " ".join(row[0] for row in rows)
    assert "$argon2id$" in text
    assert reply["access_token"].encode().hex() not in text
    assert not [s for s in (reply["access_token"], reply["refresh_token"], PASSWORD) if s in text]


# --- rate limits


@pytest.fixture
def limited_server(database: InlineDatabase) -> Any:
    limits = RateLimitSection(enabled=True, login_per_minute=3)
    server = Homeserver(database, dataclasses.replace(DEFAULT_CONFIG, rate_limits=limits))
    yield server
    server.stop()


def test_guessing_one_account_is_limited_even_with_the_right_password_at_last(
    limited_server: Homeserver,
) -> None:
    limited_server.register("alice")
    for _ in range(3):
        assert login(limited_server, password="wrong").status == 403

    refused = login(limited_server)

    assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert refused.json["retry_after_ms"] > 0
    limited_server.advance(60)
    assert login(limited_server).status == 200


def test_one_address_cannot_try_many_accounts(limited_server: Homeserver) -> None:
    replies = [login(limited_server, f"user{n}", "wrong").status for n in range(4)]

    assert replies == [403, 403, 403, 429]


def test_guessing_by_interactive_authentication_is_limited_too(limited_server: Homeserver) -> None:
    alice = limited_server.register("alice")
    path = f"/devices/{alice.device_id}"
    for _ in range(3):
        assert alice.request("DELETE", path, {"auth": alice.proof("wrong")}).status == 401

    assert alice.request("DELETE", path, {"auth": alice.proof()}).status == 429


# --- refresh tokens


def login_with_refresh(server: Homeserver) -> Any:
    server.register("alice")
    return login(server, refresh_token=True).json


def refresh(server: Homeserver, token: str) -> Reply:
    return server.request("POST", REFRESH, {"refresh_token": token})


def test_access_token_with_a_refresh_token_expires_softly(homeserver: Homeserver) -> None:
    session = login_with_refresh(homeserver)
    assert owner(homeserver, session["access_token"]).status == 200
    homeserver.advance(session["expires_in_ms"] / 1000)

    reply = owner(homeserver, session["access_token"])

    assert (reply.status, reply.errcode, reply.json["soft_logout"]) == (
        401,
        "M_UNKNOWN_TOKEN",
        True,
    )


def test_refreshing_goes_on_with_the_same_device(homeserver: Homeserver) -> None:
    session = login_with_refresh(homeserver)
    homeserver.advance(session["expires_in_ms"] / 1000)

    fresh = refresh(homeserver, session["refresh_token"]).json

    assert owner(homeserver, fresh["access_token"]).json["device_id"] == session["device_id"]
    assert fresh["refresh_token"] != session["refresh_token"]


def test_login_without_a_wish_for_it_never_expires(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    homeserver.advance(400 * 24 * 3600)

    assert alice.get("/account/whoami").status == 200


def test_refresh_whose_answer_was_lost_can_be_repeated(homeserver: Homeserver) -> None:
    session = login_with_refresh(homeserver)
    lost = refresh(homeserver, session["refresh_token"]).json

    second = refresh(homeserver, session["refresh_token"])

    assert second.status == 200
    assert owner(homeserver, second.json["access_token"]).status == 200
    assert owner(homeserver, lost["access_token"]).status == 401


@pytest.mark.parametrize("used", ["access_token", "refresh_token"])
def test_refresh_token_reuse_ends_the_session(homeserver: Homeserver, used: str) -> None:
    session = login_with_refresh(homeserver)
    fresh = refresh(homeserver, session["refresh_token"]).json
    newest = fresh
    if used == "access_token":
        assert owner(homeserver, fresh["access_token"]).status == 200
    else:
        newest = refresh(homeserver, fresh["refresh_token"]).json

    stolen = refresh(homeserver, session["refresh_token"])

    assert (stolen.status, stolen.json["soft_logout"]) == (401, True)
    assert owner(homeserver, newest["access_token"]).json["soft_logout"] is True
    assert refresh(homeserver, newest["refresh_token"]).status == 401


def test_first_use_of_the_new_access_token_ends_the_old_one(homeserver: Homeserver) -> None:
    session = login_with_refresh(homeserver)
    assert owner(homeserver, session["access_token"]).status == 200
    fresh = refresh(homeserver, session["refresh_token"]).json
    assert owner(homeserver, session["access_token"]).status == 200

    assert owner(homeserver, fresh["access_token"]).status == 200

    assert owner(homeserver, session["access_token"]).json["soft_logout"] is True


def test_refresh_chain_goes_on_for_long(homeserver: Homeserver) -> None:
    session = login_with_refresh(homeserver)
    for _ in range(5):
        homeserver.advance(3600)
        session = refresh(homeserver, session["refresh_token"]).json
        assert owner(homeserver, session["access_token"]).status == 200


def test_unknown_refresh_token_is_refused(homeserver: Homeserver) -> None:
    reply = refresh(homeserver, "ctr_unknown")

    assert (reply.status, reply.errcode) == (401, "M_UNKNOWN_TOKEN")


def test_logout_ends_the_refresh_token(homeserver: Homeserver) -> None:
    session = login_with_refresh(homeserver)
    homeserver.request("POST", "/_matrix/client/v3/logout", {}, token=session["access_token"])

    assert refresh(homeserver, session["refresh_token"]).status == 401
