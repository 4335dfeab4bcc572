"""Rooms through the API: creating, joining, speaking, reading."""

from tests.homeserver import Homeserver


def test_a_message_is_read_back_by_the_other_member(homeserver: Homeserver) -> None:
    alice = homeserver.register("alice")
    bob = homeserver.register("bob")
    room_id = alice.create_room(preset="public_chat", name="Tea")
    assert bob.join(room_id).status == 200

    event_id = alice.send(room_id, "hello")

    page = bob.get(f"/rooms/{room_id}/messages", dir="b", limit=5).json
    assert page["chunk"][0]["event_id"] == event_id
    assert page["chunk"][0]["content"]["body"] == "hello"
