"""Presence across servers. spec: server-server-api/#presence, v1.19."""

from typing import Any
from urllib.parse import quote

from tests.federation.meeting import meet
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User


def set_presence(user: User, presence: str, status: str | None = None) -> None:
    body = {"presence": presence} | ({} if status is None else {"status_msg": status})
    assert user.put(f"/presence/{quote(user.user_id)}/status", body).status == 200
    user.homeserver.settle()


def seen(reader: User, user: User) -> Any:
    reply = reader.get(f"/presence/{quote(user.user_id)}/status")
    assert reply.status == 200, reply.json
    return reply.json


def test_presence_is_seen_on_the_other_server(alice: User, bob: User) -> None:
    meet(alice, bob)
    since = bob.sync(set_presence="offline")["next_batch"]

    set_presence(alice, "online", "at work")

    (event,) = bob.sync(since, set_presence="offline")["presence"]["events"]
    assert event["sender"] == alice.user_id
    assert event["content"]["presence"] == "online"
    assert event["content"]["status_msg"] == "at work"
    assert event["content"]["currently_active"] is True


def test_who_goes_is_gone_on_the_other_server(
    network: MemoryNetwork, alice: User, bob: User
) -> None:
    meet(alice, bob)
    set_presence(alice, "online")
    assert seen(bob, alice)["presence"] == "online"

    network.advance(31)
    network.advance(2)

    assert seen(bob, alice)["presence"] == "offline"


def test_who_comes_into_a_room_sees_who_is_there_and_is_seen(
    network: MemoryNetwork, alice: User, bob: User
) -> None:
    set_presence(alice, "online")
    set_presence(bob, "unavailable")

    meet(alice, bob)
    network.advance(6)

    assert seen(bob, alice)["presence"] == "online"
    assert seen(alice, bob)["presence"] == "unavailable"


def test_the_word_of_a_server_that_is_not_heard_of_again_ends(
    network: MemoryNetwork, a: Homeserver, alice: User, bob: User
) -> None:
    meet(alice, bob)
    set_presence(alice, "online")
    network.cut_off(a.name)

    network.advance(1_700)
    before = seen(bob, alice)["presence"]
    network.advance(200)

    assert before == "online"
    assert seen(bob, alice)["presence"] == "offline"


def test_servers_without_a_shared_room_are_told_nothing(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User, carol: User
) -> None:
    meet(alice, bob)
    meet(bob, carol)
    network.requests.clear()

    set_presence(alice, "online")

    assert {to for _, to, _, _ in network.requests} == {b.name}
