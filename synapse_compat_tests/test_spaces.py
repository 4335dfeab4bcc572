"""Spaces whose rooms are on several servers."""

from typing import Any
from urllib.parse import quote

from synapse_compat_tests.client import User, eventually
from synapse_compat_tests.conftest import Pair


def make_space(user: User, **body: Any) -> str:
    return user.create_room(
        **{"preset": "public_chat", "creation_content": {"type": "m.space"}, **body}
    )


def add(user: User, space: str, room_id: str, via: User, **content: Any) -> None:
    user.set_state(space, "m.space.child", {"via": [via.server.name], **content}, room_id)


def hierarchy(user: User, space: str, **query: Any) -> list[Any]:
    path = f"/_matrix/client/v1/rooms/{quote(space)}/hierarchy"
    rooms: list[Any] = []
    while True:
        page = user.get(path, **query)
        rooms += page["rooms"]
        if "next_batch" not in page:
            return rooms
        query["from"] = page["next_batch"]


def ids(user: User, space: str, **query: Any) -> list[str]:
    return [room["room_id"] for room in hierarchy(user, space, **query)]


def test_rooms_of_another_server_are_shown_in_a_space(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = bob.create_room(preset="public_chat", name="Over there", topic="Far")
    root = make_space(alice)
    add(alice, root, room_id, via=bob)

    rooms = hierarchy(alice, root)

    assert [room["room_id"] for room in rooms] == [root, room_id]
    assert (rooms[1]["name"], rooms[1]["topic"]) == ("Over there", "Far")
    assert rooms[1]["join_rule"] == "public"


def test_a_space_of_another_server_is_walked_through(pair: Pair) -> None:
    alice, bob = pair.users()
    root, inner = make_space(alice), make_space(alice)
    leaf = alice.create_room(preset="public_chat")
    secret = alice.create_room(preset="private_chat")
    add(alice, root, inner, via=alice, order="a")
    add(alice, root, secret, via=alice, order="b")
    add(alice, inner, leaf, via=alice)
    outer = make_space(bob)
    add(bob, outer, root, via=alice)

    assert ids(bob, outer) == [outer, root, inner, leaf]
    assert ids(bob, outer, limit=1) == [outer, root, inner, leaf]
    assert ids(bob, outer, max_depth=1) == [outer, root]


def test_a_restricted_room_is_shown_to_who_is_in_the_space(pair: Pair) -> None:
    alice, bob = pair.users()
    root = make_space(alice)
    rules = {
        "join_rule": "restricted",
        "allow": [{"type": "m.room_membership", "room_id": root}],
    }
    state = [{"type": "m.room.join_rules", "state_key": "", "content": rules}]
    inside = alice.create_room(preset="private_chat", room_version="11", initial_state=state)
    add(alice, root, inside, via=alice)

    bob.join(root, via=alice)

    found = eventually(
        lambda: [room for room in hierarchy(bob, root) if room["room_id"] == inside],
        "the restricted room is shown",
    )
    assert found[0]["join_rule"] == "restricted"
    assert found[0]["allowed_room_ids"] == [root]


def test_spaces_in_a_circle_across_servers_are_walked_once(pair: Pair) -> None:
    alice, bob = pair.users()
    here, there = make_space(alice), make_space(bob)
    add(alice, here, there, via=bob)
    add(bob, there, here, via=alice)

    assert ids(alice, here) == [here, there]
    assert ids(bob, there) == [there, here]


def test_a_room_of_another_server_is_summarized(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id = alice.create_room(preset="public_chat", name="Summarized")
    path = f"/_matrix/client/v1/room_summary/{quote(room_id)}"

    found = bob.get(path, via=alice.server.name)

    assert (found["room_id"], found["name"]) == (room_id, "Summarized")
    assert found["num_joined_members"] == 1
    bob.join(room_id, via=alice)
    assert bob.get(path)["membership"] == "join"
