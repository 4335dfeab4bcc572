"""Finding the event nearest to a moment."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.homeserver import START_MS, Homeserver, Reply, User


def nearest(user: User, room_id: str, timestamp: int, direction: str) -> Reply:
    path = f"/_matrix/client/v1/rooms/{quote(room_id)}/timestamp_to_event"
    return user.get(path, ts=timestamp, dir=direction)


def found(user: User, room_id: str, timestamp: int, direction: str) -> Any:
    reply = nearest(user, room_id, timestamp, direction)
    assert reply.status == 200, reply.json
    return reply.json["event_id"]


def test_the_nearest_event_in_a_direction_is_found(both_versions: Homeserver, alice: User) -> None:
    room_id = alice.create_room()
    both_versions.advance(10)
    first = alice.send(room_id, "at ten seconds")
    both_versions.advance(10)
    second = alice.send(room_id, "at twenty seconds")

    between = START_MS + 15_000
    assert found(alice, room_id, between, "b") == first
    assert found(alice, room_id, between, "f") == second
    reply = nearest(alice, room_id, START_MS + 10_000, "f").json
    assert reply == {"event_id": first, "origin_server_ts": START_MS + 10_000}
    assert found(alice, room_id, START_MS + 10_000, "b") == first


def test_of_events_at_the_same_moment_the_nearest_in_order_is_found(
    both_versions: Homeserver, alice: User
) -> None:
    room_id = alice.create_room()
    both_versions.advance(10)
    first, _, last = (alice.send(room_id, f"m{number}") for number in range(3))

    assert found(alice, room_id, START_MS + 10_000, "f") == first
    assert found(alice, room_id, START_MS + 10_000, "b") == last


def test_beyond_the_ends_of_a_room_nothing_is_found(alice: User) -> None:
    room_id = alice.create_room()

    for timestamp, direction in ((START_MS + 1, "f"), (START_MS - 1, "b"), (2**62, "f")):
        reply = nearest(alice, room_id, timestamp, direction)
        assert (reply.status, reply.errcode) == (404, "M_NOT_FOUND")
    assert nearest(alice, room_id, -(2**70), "f").status == 200


def test_events_one_may_not_see_are_passed_over(both_versions: Homeserver, alice: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    path = f"/rooms/{quote(room_id)}/state/m.room.history_visibility/"
    alice.put(path, {"history_visibility": "joined"})
    both_versions.advance(10)
    for number in range(60):
        alice.send(room_id, f"hidden {number}")
    both_versions.advance(10)
    carol = both_versions.register("carol")
    carol.join(room_id)
    seen = alice.send(room_id, "seen")

    assert found(alice, room_id, START_MS + 5_000, "f") != seen
    timestamp = nearest(carol, room_id, START_MS + 5_000, "f").json["origin_server_ts"]
    assert timestamp == START_MS + 20_000
    carol.post(f"/rooms/{quote(room_id)}/leave", {})
    both_versions.advance(10)
    alice.send(room_id, "after carol")
    assert nearest(carol, room_id, START_MS + 25_000, "f").status == 404


def test_the_found_event_leads_to_its_context(both_versions: Homeserver, alice: User) -> None:
    room_id = alice.create_room()
    both_versions.advance(10)
    sent = alice.send(room_id, "here")

    event_id = found(alice, room_id, START_MS + 1, "f")

    path = f"/rooms/{quote(room_id)}/context/{quote(event_id, safe='')}"
    assert alice.get(path).json["event"]["event_id"] == sent


def test_a_stranger_learns_nothing(alice: User, bob: User) -> None:
    room_id = alice.create_room()

    reply = nearest(bob, room_id, START_MS, "f")

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize("query", [{"ts": "soon", "dir": "f"}, {"ts": 1, "dir": "x"}])
def test_a_query_without_sense_is_refused(alice: User, query: dict[str, Any]) -> None:
    room_id = alice.create_room()

    reply = alice.get(f"/_matrix/client/v1/rooms/{quote(room_id)}/timestamp_to_event", **query)

    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")
