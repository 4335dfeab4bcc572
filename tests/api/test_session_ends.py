"""A session that ends while its sync waits: the wait ends too, and tells nothing."""

from collections.abc import Callable

import pytest

from tests.homeserver import Homeserver, PendingReply, Reply, User


def log_out(waiting: User, _other: User) -> Reply:
    return waiting.post("/logout", {})


def log_out_everywhere(_waiting: User, other: User) -> Reply:
    return other.post("/logout/all", {})


def delete_the_device(waiting: User, other: User) -> Reply:
    return other.request("DELETE", f"/devices/{waiting.device_id}", {"auth": other.proof()})


def change_the_password(_waiting: User, other: User) -> Reply:
    return other.post("/account/password", {"new_password": "another-one", "auth": other.proof()})


def deactivate(_waiting: User, other: User) -> Reply:
    return other.post("/account/deactivate", {"auth": other.proof()})


def log_in_as_the_same_device(waiting: User, other: User) -> Reply:
    body = {**other.proof(), "device_id": waiting.device_id}
    return waiting.homeserver.request("POST", "/_matrix/client/v3/login", body)


def sync(user: User) -> PendingReply:
    since = user.sync()["next_batch"]
    return user.start_request("GET", "/sync", query={"since": since, "timeout": 30_000})


def sliding_sync(user: User) -> PendingReply:
    path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
    pos = user.post(path, {}).json["pos"]
    return user.start_request("POST", path, {}, query={"pos": pos, "timeout": 30_000})


@pytest.mark.parametrize("begin", [sync, sliding_sync])
@pytest.mark.parametrize(
    "end",
    [
        log_out,
        log_out_everywhere,
        delete_the_device,
        change_the_password,
        deactivate,
        log_in_as_the_same_device,
    ],
)
def test_attack_11_a_wait_ends_with_its_session(
    homeserver: Homeserver,
    begin: Callable[[User], PendingReply],
    end: Callable[[User, User], Reply],
) -> None:
    waiting = homeserver.register("alice")
    other = waiting.login_again()
    poll = begin(waiting)
    assert not poll.answered

    assert end(waiting, other).status == 200

    reply = poll.reply()
    assert (reply.status, reply.errcode) == (401, "M_UNKNOWN_TOKEN")


def test_a_wait_of_another_session_goes_on(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    other = alice.login_again()
    poll = sync(alice)

    other.post("/logout", {})
    change = alice.post("/account/password", {"new_password": "another-one", "auth": alice.proof()})

    assert change.status == 200
    assert not poll.answered
    room_id = alice.create_room()
    assert room_id in poll.reply().json["rooms"]["join"]
