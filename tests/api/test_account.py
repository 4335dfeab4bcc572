"""The password and the end of an account, and the interactive authentication they ask for."""

import re
from typing import Any
from urllib.parse import quote

from homeserver.transport.endpoint import Auth
from tests.database import InlineDatabase
from tests.homeserver import PASSWORD, Homeserver, Reply, User

WHOAMI = "/_matrix/client/v3/account/whoami"


def login(server: Homeserver, user: str = "alice", password: str = PASSWORD, **more: Any) -> Reply:
    body = {"type": "m.login.password", "user": user, "password": password, **more}
    return server.request("POST", "/_matrix/client/v3/login", body)


def test_password_change_needs_the_old_one_and_logs_others_out(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    other = alice.login_again()
    body = {"new_password": "another-password"}

    asked = alice.post("/account/password", body)
    done = alice.post(
        "/account/password", {**body, "auth": alice.proof(session=asked.json["session"])}
    )

    assert asked.json["flows"] == [{"stages": ["m.login.password"]}]
    assert done.status == 200
    assert alice.get("/account/whoami").status == 200
    assert other.get("/account/whoami").status == 401
    assert login(homeserver).status == 403
    assert login(homeserver, password="another-password").status == 200


def test_password_change_can_leave_other_sessions(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    other = alice.login_again()
    body = {"new_password": "another-password", "logout_devices": False, "auth": alice.proof()}

    assert alice.post("/account/password", body).status == 200

    assert other.get("/account/whoami").status == 200


def test_wrong_password_in_interactive_authentication_may_be_corrected(
    homeserver: Homeserver,
) -> None:
    alice = homeserver.register("alice")
    body = {"new_password": "another-password"}

    wrong = alice.post("/account/password", {**body, "auth": alice.proof("wrong")})
    right = alice.proof(session=wrong.json["session"])

    assert (wrong.status, wrong.errcode) == (401, "M_FORBIDDEN")
    assert alice.post("/account/password", {**body, "auth": right}).status == 200


def test_interactive_session_confusion_a_stage_counts_for_its_own_operation_only(
    homeserver: Homeserver,
) -> None:
    alice = homeserver.register("alice")
    session = alice.post("/account/password", {"new_password": "another"}).json["session"]
    auth = alice.proof(session=session)

    other_operation = alice.post("/account/deactivate", {"auth": auth})
    other_body = alice.post("/account/password", {"new_password": "stolen", "auth": auth})

    assert (other_operation.status, other_body.status) == (403, 403)
    assert login(homeserver).status == 200


def test_interactive_session_confusion_a_session_belongs_to_its_user(
    homeserver: Homeserver,
) -> None:
    alice = homeserver.register("alice")
    mallory = homeserver.register("mallory")
    session = alice.post("/account/deactivate", {}).json["session"]

    theirs = mallory.post("/account/deactivate", {"auth": mallory.proof(session=session)})
    as_other = alice.post("/account/deactivate", {"auth": mallory.proof(session=session)})

    assert (theirs.status, as_other.status) == (403, 403)
    assert alice.get("/account/whoami").status == 200


def test_dummy_stage_is_no_password(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    reply = alice.post("/account/deactivate", {"auth": {"type": "m.login.dummy"}})

    assert reply.status == 400
    assert alice.get("/account/whoami").status == 200


# --- deactivation


def deactivate(user: User, **more: Any) -> None:
    reply = user.post("/account/deactivate", {"auth": user.proof(), **more})
    assert reply.json == {"id_server_unbind_result": "success"}


def test_deactivated_user_is_refused_everywhere(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    session = login(homeserver, refresh_token=True).json

    deactivate(alice)

    assert alice.get("/account/whoami").errcode == "M_UNKNOWN_TOKEN"
    assert homeserver.request("GET", WHOAMI, token=session["access_token"]).status == 401
    assert homeserver.request("POST", "/_matrix/client/v3/refresh", session).status == 401
    assert login(homeserver).status == 403
    assert homeserver.request("GET", f"/_matrix/client/v3/profile/{alice.user_id}").status == 404


def test_token_of_a_deactivated_user_opens_no_operation_at_all(
    homeserver: Homeserver,
) -> None:
    alice = homeserver.register("alice")
    alice.get("/account/whoami")
    deactivate(alice)
    guarded = [r.declaration for r in homeserver.server.routes if r.declaration.auth is Auth.CLIENT]
    assert len(guarded) > 10

    for declaration in guarded:
        path = re.sub(r"\{[^}]*\}", quote(alice.user_id), declaration.path)
        reply = alice.request(declaration.method, path, {})
        assert (reply.status, reply.errcode) == (401, "M_UNKNOWN_TOKEN"), declaration


def test_session_that_slips_in_beside_a_deactivation_is_refused(
    homeserver: Homeserver, database: InlineDatabase
) -> None:
    alice = homeserver.register("alice")
    other = alice.login_again()
    cursor = database._connection.cursor()
    cursor.execute("UPDATE accounts SET deactivated_ts = 1")  # and its devices are still there

    assert other.get("/account/whoami").status == 401


def test_erasing_forgets_the_profile(homeserver: Homeserver, database: InlineDatabase) -> None:
    alice = homeserver.register("alice")
    alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})

    deactivate(alice, erase=True)

    cursor = database._connection.cursor()
    cursor.execute("SELECT count(*) FROM profile_fields")
    assert cursor.fetchone() == (0,)
