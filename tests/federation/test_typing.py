"""Typing notifications across servers. spec: server-server-api/#typing-notifications, v1.19."""

from urllib.parse import quote

from tests.federation.meeting import ephemeral, meet
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User


def type_in(user: User, room_id: str, *, typing: bool, timeout: int = 30_000) -> None:
    path = f"/rooms/{quote(room_id)}/typing/{quote(user.user_id)}"
    body = {"typing": True, "timeout": timeout} if typing else {"typing": False}
    assert user.put(path, body).status == 200
    user.homeserver.settle()


def typists(user: User, room_id: str) -> list[str]:
    content = ephemeral(user, room_id, "m.typing")
    return [] if content is None else list(content["user_ids"])


def test_typing_is_seen_on_the_other_server_until_it_ends(alice: User, bob: User) -> None:
    room_id = meet(alice, bob)

    type_in(alice, room_id, typing=True)
    during = typists(bob, room_id)
    type_in(alice, room_id, typing=False)

    assert during == [alice.user_id]
    assert typists(bob, room_id) == []


def test_a_waiting_sync_is_woken_by_typing_elsewhere(alice: User, bob: User) -> None:
    room_id = meet(alice, bob)
    since = bob.sync()["next_batch"]
    waiting = bob.start_request("GET", "/sync", query={"since": since, "timeout": 30_000})

    type_in(alice, room_id, typing=True)

    events = waiting.reply().json["rooms"]["join"][room_id]["ephemeral"]["events"]
    assert events == [{"type": "m.typing", "content": {"user_ids": [alice.user_id]}}]


def test_who_goes_on_typing_is_told_of_again_before_the_others_give_up(
    network: MemoryNetwork, alice: User, bob: User
) -> None:
    room_id = meet(alice, bob)

    type_in(alice, room_id, typing=True, timeout=110_000)
    for _ in range(10):
        network.advance(10)
    during = typists(bob, room_id)
    network.advance(20)

    assert during == [alice.user_id]
    assert typists(bob, room_id) == []


def test_typing_of_a_server_that_is_not_heard_of_again_ends(
    network: MemoryNetwork, a: Homeserver, alice: User, bob: User
) -> None:
    room_id = meet(alice, bob)
    type_in(alice, room_id, typing=True, timeout=110_000)
    network.cut_off(a.name)
    assert typists(bob, room_id) == [alice.user_id]

    network.advance(61)

    assert typists(bob, room_id) == []


def test_typing_is_told_to_the_servers_of_its_room_alone(
    b: Homeserver, alice: User, bob: User, carol: User, network: MemoryNetwork
) -> None:
    room_id = meet(alice, bob)
    meet(alice, carol)
    network.requests.clear()

    type_in(alice, room_id, typing=True)

    assert {to for _, to, _, _ in network.requests} == {b.name}
