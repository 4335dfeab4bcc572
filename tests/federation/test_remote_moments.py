"""Events found by their time of which this server has no history."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from tests.federation.history import room_with_history, walk
from tests.federation.meeting import enter, leave
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User


def by_time(user: User, room_id: str, ts: int, direction: str) -> Any:
    path = f"/_matrix/client/v1/rooms/{quote(room_id)}/timestamp_to_event"
    return user.request("GET", path, query={"ts": ts, "dir": direction})


def test_a_moment_before_the_join_is_found_through_another_server(
    network: MemoryNetwork, a: Homeserver, alice: User, bob: User
) -> None:
    room_id = alice.create_room(preset="public_chat")
    said, times = [], []
    for number in range(5):
        network.advance(10)
        said.append(alice.send(room_id, f"{number}"))
        times.append(a.clock.now_ms())
    enter(bob, room_id)

    forwards = by_time(bob, room_id, times[2] - 5, "f")
    backwards = by_time(bob, room_id, times[3] + 5, "b")

    assert forwards.json == {"event_id": said[2], "origin_server_ts": times[2]}
    assert backwards.json == {"event_id": said[3], "origin_server_ts": times[3]}
    path = f"/rooms/{quote(room_id)}/context/{quote(said[2])}"
    context = bob.request("GET", path, query={"limit": 4})
    shown = [e["event_id"] for e in context.json["events_after"]]
    assert shown == said[3:]
    assert [e["event_id"] for e in context.json["events_before"]] == said[1::-1]


def test_a_moment_before_the_join_is_found_while_members_are_still_unknown(
    network: MemoryNetwork, a: Homeserver, alice: User, bob: User
) -> None:
    room_id = alice.create_room(preset="public_chat")
    network.advance(10)
    event_id, at = alice.send(room_id, "long ago"), a.clock.now_ms()
    network.advance(10)
    network.lose("a.test", "/federation/v1/state/")
    enter(bob, room_id)

    found = by_time(bob, room_id, at - 5, "f")

    assert found.json == {"event_id": event_id, "origin_server_ts": at}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"event_id": 7, "origin_server_ts": 1},
        {"event_id": "$nonsense", "origin_server_ts": 1_700_000_000_000},
        {"event_id": "$nonsense", "origin_server_ts": True},
    ],
)
def test_attack_1_a_moment_is_not_what_another_server_says(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User, answer: JsonObject
) -> None:
    room_id, _ = room_with_history(alice, 5)
    network.advance(10)
    enter(bob, room_id)
    network.altered[ServerName("a.test"), "/timestamp_to_event/"] = lambda _: answer

    found = by_time(bob, room_id, 0, "f")

    assert found.status == 200
    assert found.json["origin_server_ts"] == b.clock.now_ms()


def test_a_moment_between_two_stays_is_found_from_either_side(
    network: MemoryNetwork, a: Homeserver, alice: User, bob: User
) -> None:
    room_id, _ = room_with_history(alice, 5, bob)
    walk(bob, room_id, 100)
    leave(bob, room_id)
    said = {}
    for number in range(5):
        network.advance(10)
        said[a.clock.now_ms()] = alice.send(room_id, f"between {number}")
    network.advance(10)
    enter(bob, room_id)

    for at, event_id in list(said.items())[1:4]:
        expected = {"event_id": event_id, "origin_server_ts": at}
        assert by_time(bob, room_id, at - 1, "f").json == expected
        assert by_time(bob, room_id, at + 1, "b").json == expected
    newest, oldest = max(said), min(said)
    assert by_time(bob, room_id, newest + 1, "b").json["event_id"] == said[newest]
    assert by_time(bob, room_id, oldest - 1, "f").json["event_id"] == said[oldest]
    assert set(said.values()) <= set(walk(bob, room_id, 10))


def test_a_moment_before_the_room_or_after_all_of_it_is_not_found(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User
) -> None:
    room_id, _ = room_with_history(alice, 5)
    network.advance(10)
    enter(bob, room_id)

    assert by_time(bob, room_id, 0, "b").status == 404
    assert by_time(bob, room_id, b.clock.now_ms() + 1, "f").status == 404
