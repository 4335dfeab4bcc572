"""OpenID tokens: proving to a third party who one is."""

from urllib.parse import quote

from tests.homeserver import Homeserver, Reply, User


def request_token(user: User, of: User | None = None) -> Reply:
    return user.post(f"/user/{quote((of or user).user_id)}/openid/request_token", {})


def exchange(homeserver: Homeserver, token: str) -> Reply:
    path = "/_matrix/federation/v1/openid/userinfo"
    return homeserver.request("GET", path, query={"access_token": token})


def test_a_token_says_whose_it_is(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    made = request_token(alice).json
    found = exchange(homeserver, made["access_token"])

    assert (made["token_type"], made["matrix_server_name"]) == ("Bearer", "hs.test")
    assert made["expires_in"] == 3600
    assert found.json == {"sub": alice.user_id}


def test_a_token_expires_after_an_hour(homeserver: Homeserver) -> None:
    token = request_token(homeserver.register("alice")).json["access_token"]

    homeserver.advance(3599)
    assert exchange(homeserver, token).status == 200
    homeserver.advance(2)

    reply = exchange(homeserver, token)
    assert (reply.status, reply.errcode) == (401, "M_UNKNOWN_TOKEN")


def test_an_unknown_token_is_refused(homeserver: Homeserver) -> None:
    reply = exchange(homeserver, "made-up")

    assert (reply.status, reply.errcode) == (401, "M_UNKNOWN_TOKEN")


def test_nobody_gets_a_token_of_another_user(homeserver: Homeserver) -> None:
    alice, bob = homeserver.register("alice"), homeserver.register("bob")

    assert request_token(alice, bob).errcode == "M_FORBIDDEN"


def test_attack_11_an_openid_token_is_no_access_token(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    token = request_token(alice).json["access_token"]

    whoami = homeserver.request("GET", "/_matrix/client/v3/account/whoami", token=token)

    assert (whoami.status, whoami.errcode) == (401, "M_UNKNOWN_TOKEN")


def test_attack_11_an_access_token_is_no_openid_token(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")

    assert exchange(homeserver, alice.token).status == 401


def test_a_deactivated_account_is_vouched_for_no_more(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    token = request_token(alice).json["access_token"]

    assert alice.post("/account/deactivate", {"auth": alice.proof()}).status == 200

    assert exchange(homeserver, token).status == 401


def test_a_token_outlives_a_restart_and_is_not_stored_itself(homeserver: Homeserver) -> None:
    token = request_token(homeserver.register("alice")).json["access_token"]

    again = homeserver.restart()

    assert exchange(again, token).status == 200
    again.stop()
