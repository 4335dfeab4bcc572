"""Application services: their users, and acting as them."""

from collections.abc import Iterator
from typing import Any

import pytest

from homeserver.appservice_registrations import Namespace, Namespaces, Registration
from homeserver.core.identifiers import ServerName
from homeserver.services.appservices import Appservice
from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, Homeserver, Reply

WHOAMI = "/_matrix/client/v3/account/whoami"
REGISTER = "/_matrix/client/v3/register"
LOGIN = "/_matrix/client/v3/login"
TOKEN = "as-token"
GHOST = "@_irc_alice:hs.test"


BRIDGE = Registration(
    id="irc",
    as_token=TOKEN,
    hs_token="hs-token",
    sender_localpart="ircbot",
    namespaces=Namespaces(users=[Namespace("@_irc_.*:hs\\.test", exclusive=True)]),
)


@pytest.fixture
def server(database: InlineDatabase) -> Iterator[Homeserver]:
    """A homeserver that knows one bridge."""
    bridge = Appservice(BRIDGE, ServerName("hs.test"))
    homeserver = Homeserver(database, DEFAULT_CONFIG, [bridge])
    yield homeserver
    homeserver.stop()


def register(server: Homeserver, username: str, token: str | None = TOKEN, **more: Any) -> Reply:
    body = {"type": "m.login.application_service", "username": username, **more}
    return server.request("POST", REGISTER, body, token=token)


def login(server: Homeserver, user: str, token: str | None = TOKEN) -> Reply:
    body = {
        "type": "m.login.application_service",
        "identifier": {"type": "m.id.user", "user": user},
    }
    return server.request("POST", LOGIN, body, token=token)


def whoami(server: Homeserver, **query: str) -> Reply:
    return server.request("GET", WHOAMI, token=TOKEN, query=query)


def test_bridge_acts_as_its_own_user(server: Homeserver) -> None:
    assert whoami(server).json == {"user_id": "@ircbot:hs.test", "is_guest": False}


def test_bridge_registers_a_user_without_password_and_acts_as_it(server: Homeserver) -> None:
    reply = register(server, "_irc_alice", inhibit_login=True)

    assert reply.json == {"user_id": GHOST}
    assert whoami(server, user_id=GHOST).json == {"user_id": GHOST, "is_guest": False}


def test_acting_as_a_user_needs_no_database_the_second_time(server: Homeserver) -> None:
    register(server, "_irc_alice")
    whoami(server, user_id=GHOST)
    server.database.statements.clear()

    assert whoami(server, user_id=GHOST).status == 200

    assert server.database.statements == []


@pytest.mark.parametrize("user_id", ["@alice:hs.test", "@_irc_alice:other.test"])
def test_masquerade_outside_the_namespace_is_refused(server: Homeserver, user_id: str) -> None:
    reply = whoami(server, user_id=user_id)

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


def test_masquerade_as_a_user_who_is_not_registered_is_refused(server: Homeserver) -> None:
    assert whoami(server, user_id=GHOST).errcode == "M_FORBIDDEN"


def test_masquerade_as_no_user_is_refused(server: Homeserver) -> None:
    assert whoami(server, user_id="").status == 400
    assert whoami(server, user_id="alice").status == 400


def test_masquerade_as_a_deactivated_user_is_refused(
    server: Homeserver, database: InlineDatabase
) -> None:
    register(server, "_irc_alice")
    database._connection.cursor().execute("UPDATE accounts SET deactivated_ts = 1")

    assert whoami(server, user_id=GHOST).errcode == "M_FORBIDDEN"


def test_ordinary_token_gives_no_other_identity(server: Homeserver) -> None:
    token = register(server, "_irc_alice").json["access_token"]
    register(server, "_irc_bob")

    reply = server.request(
        "GET", WHOAMI, token=token, query={"user_id": "@_irc_bob:hs.test", "device_id": "X"}
    )

    assert reply.json["user_id"] == GHOST


@pytest.mark.parametrize("parameter", ["device_id", "org.matrix.msc3202.device_id"])
def test_bridge_acts_as_a_device_it_has_made(server: Homeserver, parameter: str) -> None:
    register(server, "_irc_alice", inhibit_login=True)
    path = "/_matrix/client/v3/devices/BRIDGE"
    query = {"user_id": GHOST}

    unknown = whoami(server, user_id=GHOST, **{parameter: "BRIDGE"})
    made = server.request("PUT", path, {"display_name": "Bridge"}, token=TOKEN, query=query)
    again = server.request("PUT", path, {"display_name": "Portal"}, token=TOKEN, query=query)

    assert (unknown.status, unknown.errcode) == (400, "M_UNKNOWN_DEVICE")
    assert (made.status, again.status) == (201, 200)
    assert whoami(server, user_id=GHOST, **{parameter: "BRIDGE"}).json["device_id"] == "BRIDGE"
    device = server.request("GET", path, token=TOKEN, query=query).json
    assert device["display_name"] == "Portal"


def test_device_of_a_masquerade_ends_with_the_device(server: Homeserver) -> None:
    register(server, "_irc_alice", device_id="BRIDGE")
    query = {"user_id": GHOST, "device_id": "BRIDGE"}
    assert whoami(server, **query).status == 200

    path = "/_matrix/client/v3/devices/BRIDGE"
    gone = server.request("DELETE", path, {}, token=TOKEN, query={"user_id": GHOST})

    assert gone.status == 200  # and no password was asked for
    assert whoami(server, **query).errcode == "M_UNKNOWN_DEVICE"


def test_bridge_logs_in_as_its_user(server: Homeserver) -> None:
    register(server, "_irc_alice", inhibit_login=True)

    session = login(server, "_irc_alice").json

    own = server.request("GET", WHOAMI, token=session["access_token"]).json
    assert (own["user_id"], own["device_id"]) == (GHOST, session["device_id"])


def test_login_outside_the_namespace_is_refused(server: Homeserver) -> None:
    assert login(server, "alice").errcode == "M_EXCLUSIVE"
    assert login(server, "@_irc_alice:other.test").errcode == "M_EXCLUSIVE"
    assert login(server, "_irc_nobody").errcode == "M_FORBIDDEN"


def test_registration_outside_the_namespace_is_refused(server: Homeserver) -> None:
    reply = register(server, "alice")

    assert (reply.status, reply.errcode) == (400, "M_EXCLUSIVE")


def test_name_in_the_namespace_is_not_for_people(server: Homeserver) -> None:
    body = {"username": "_irc_x", "password": "a-long-password", "auth": {"type": "m.login.dummy"}}

    available = server.request("GET", f"{REGISTER}/available", query={"username": "_irc_x"})
    registered = server.request("POST", REGISTER, body)

    assert (available.status, available.errcode) == (400, "M_EXCLUSIVE")
    assert (registered.status, registered.errcode) == (400, "M_EXCLUSIVE")


def test_token_of_a_user_is_no_token_of_a_bridge(server: Homeserver) -> None:
    token = register(server, "_irc_alice").json["access_token"]

    assert register(server, "_irc_bob", token=token).errcode == "M_FORBIDDEN"
    assert login(server, "_irc_alice", token=token).errcode == "M_FORBIDDEN"


def test_login_as_a_bridge_needs_a_token(server: Homeserver) -> None:
    assert login(server, "_irc_alice", token=None).errcode == "M_MISSING_TOKEN"


def test_user_of_a_bridge_cannot_log_in_by_password(server: Homeserver) -> None:
    register(server, "_irc_alice")
    for password in ("", "x"):
        body = {"type": "m.login.password", "user": "_irc_alice", "password": password}
        assert server.request("POST", LOGIN, body).status == 403


def test_bridge_does_not_manage_accounts(server: Homeserver) -> None:
    register(server, "_irc_alice")

    reply = server.request(
        "POST",
        "/_matrix/client/v3/account/deactivate",
        {},
        token=TOKEN,
        query={"user_id": GHOST},
    )

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


def test_own_token_of_a_bridge_cannot_log_out(server: Homeserver) -> None:
    assert server.request("POST", "/_matrix/client/v3/logout", {}, token=TOKEN).status == 403
