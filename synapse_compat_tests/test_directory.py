"""The directory of published rooms across servers."""

import uuid
from typing import Any

import pytest

from synapse_compat_tests.client import Refused, User, eventually
from synapse_compat_tests.conftest import Pair


def publish(user: User, **body: Any) -> tuple[str, str]:
    """Publish a room with a word in its topic that no other room has; return both."""
    word = f"word{uuid.uuid4().hex}"
    room = {"preset": "public_chat", "visibility": "public", "topic": f"About {word}", **body}
    return user.create_room(**room), word


def search(user: User, word: str, pair: Pair, **query: Any) -> list[Any]:
    wanted = {"filter": {"generic_search_term": word, **query}, "limit": 10}
    return list(user.post("/publicRooms", wanted, server=pair.here.name)["chunk"])


def test_a_published_room_is_found_from_another_server(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id, word = publish(alice, name="A room")

    found = eventually(lambda: search(bob, word.upper(), pair), "the room is listed")

    assert [room["room_id"] for room in found] == [room_id]
    assert (found[0]["name"], found[0]["join_rule"]) == ("A room", "public")
    assert found[0]["num_joined_members"] == 1


def test_rooms_of_another_server_are_found_by_their_type(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id, word = publish(alice, creation_content={"type": "m.space"})

    eventually(lambda: search(bob, word, pair, room_types=["m.space"]), "the space is listed")

    assert search(bob, word, pair, room_types=[None]) == []
    assert search(bob, word, pair)[0]["room_id"] == room_id


def test_pages_of_another_server_show_every_room(pair: Pair) -> None:
    alice, bob = pair.users()
    first, word = publish(alice)
    rooms = {first, *(publish(alice, topic=f"Also {word}")[0] for _ in range(2))}

    eventually(lambda: _list_all(bob, word, pair) == rooms, "the pages together show the rooms")


def _list_all(user: User, word: str, pair: Pair) -> set[str]:
    """Not without a search: Synapse remembers what it has been answered to that for 30 seconds."""
    found: set[str] = set()
    query: dict[str, Any] = {"limit": 2, "filter": {"generic_search_term": word}}
    while True:
        page = user.post("/publicRooms", query, server=pair.here.name)
        found |= {room["room_id"] for room in page["chunk"]}
        if "next_batch" not in page:
            return found
        query["since"] = page["next_batch"]


def test_a_room_that_is_withdrawn_is_not_found_any_more(pair: Pair) -> None:
    alice, bob = pair.users()
    room_id, word = publish(alice)
    eventually(lambda: search(bob, word, pair), "the room is listed")

    alice.put(f"/directory/list/room/{room_id}", {"visibility": "private"})

    eventually(lambda: not search(bob, word, pair), "the room is withdrawn")
    assert alice.get(f"/directory/list/room/{room_id}") == {"visibility": "private"}


def test_a_server_that_does_not_exist_gives_an_error(pair: Pair) -> None:
    alice, _ = pair.users()

    with pytest.raises(Refused):
        alice.get("/publicRooms", server="127.0.0.99:18448")
