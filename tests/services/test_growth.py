"""What must not grow with the number of members: what is read, and what is kept."""

import gc
import tracemalloc
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.identifiers import RoomID, UserID
from homeserver.engine import live_rooms, user_rooms
from tests.database import InlineDatabase
from tests.homeserver import Homeserver
from tests.results import result_of

LAZY = '{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":3}}}'


def homeserver_with_room(database: InlineDatabase, members: int) -> tuple[Homeserver, Any, str]:
    homeserver = Homeserver(database)
    alice = homeserver.register("alice")
    room_id = alice.create_room(preset="public_chat", name="Large")
    for number in range(members):
        user = homeserver.register(f"user{number}")
        user.put(f"/profile/{quote(user.user_id)}/displayname", {"displayname": f"User {number}"})
        user.join(room_id)
    return homeserver, alice, room_id


def test_the_estimate_of_a_room_is_what_it_takes(database: InlineDatabase) -> None:
    homeserver, alice, room_id = homeserver_with_room(database, 25)
    for number in range(40):
        alice.send(room_id, f"Message {number}")
    rooms = homeserver.server.live_rooms
    gc.collect()
    tracemalloc.start()
    rooms.drop(RoomID(room_id))

    alice.sync()  # loads it
    for number in range(60):
        alice.send(room_id, f"Message {number}")
    gc.collect()
    taken = tracemalloc.take_snapshot().filter_traces(
        [tracemalloc.Filter(True, f"*/homeserver/{part}/*") for part in ("core", "engine")]
    )
    tracemalloc.stop()

    measured = sum(trace.size for trace in taken.traces)
    assert measured / 1.3 < rooms.size < measured * 1.5
    homeserver.stop()


def test_an_initial_lazy_sync_reads_no_members_but_those_it_tells(
    database: InlineDatabase,
) -> None:
    homeserver, alice, room_id = homeserver_with_room(database, 30)
    homeserver.server.live_rooms.drop(RoomID(room_id))

    room = alice.sync(filter=LAZY)["rooms"]["join"][room_id]

    told = [e["state_key"] for e in room["state"]["events"] if e["type"] == "m.room.member"]
    types = {e["type"] for e in room["state"]["events"]}
    assert len(told) <= 8
    assert {"m.room.create", "m.room.name", "m.room.power_levels"} <= types
    loaded = homeserver.server.live_rooms.find_loaded(RoomID(room_id))
    assert loaded is not None
    assert len(loaded.member_events) <= 8
    homeserver.stop()


def test_a_lazy_sync_tells_the_state_before_the_timeline(database: InlineDatabase) -> None:
    homeserver, alice, room_id = homeserver_with_room(database, 3)
    path = f"/rooms/{quote(room_id)}/state"
    alice.put(f"{path}/m.room.topic", {"topic": "before"})
    for number in range(4):
        alice.send(room_id, f"Message {number}")
    alice.put(f"{path}/m.room.topic", {"topic": "after"})
    alice.put(f"{path}/org.example.new", {})

    room = alice.sync(filter=LAZY)["rooms"]["join"][room_id]

    topics = [e["content"] for e in room["state"]["events"] if e["type"] == "m.room.topic"]
    assert topics == [{"topic": "before"}]
    assert not [e for e in room["state"]["events"] if e["type"] == "org.example.new"]
    homeserver.stop()


def test_a_long_list_of_members_does_not_push_out_those_who_speak(
    database: InlineDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_rooms, "_MAX_REMEMBERED_AT_ONCE", 5)
    homeserver, alice, room_id = homeserver_with_room(database, 10)
    homeserver.server.live_rooms.drop(RoomID(room_id))

    assert len(alice.get(f"/rooms/{quote(room_id)}/members").json["chunk"]) == 11

    room = homeserver.server.live_rooms.find_loaded(RoomID(room_id))
    assert room is not None
    assert len(room.member_events) <= 5
    homeserver.stop()


def test_joined_members_are_told_by_name_and_a_redacted_one_without(
    database: InlineDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_rooms, "_PROFILES_A_READ", 2)
    homeserver, alice, room_id = homeserver_with_room(database, 3)
    path = f"/rooms/{quote(room_id)}"
    member = alice.get(f"{path}/state/m.room.member/@user1:hs.test?format=event").json
    assert alice.put(f"{path}/redact/{quote(member['event_id'])}/1", {}).status == 200

    joined = alice.get(f"{path}/joined_members").json["joined"]

    assert joined == {
        "@alice:hs.test": {},
        "@user0:hs.test": {"display_name": "User 0"},
        "@user1:hs.test": {},
        "@user2:hs.test": {"display_name": "User 2"},
    }
    homeserver.stop()


def test_rooms_of_users_are_bounded_by_the_rooms_too(
    database: InlineDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_rooms, "_MAX_STANDINGS", 4)
    homeserver = Homeserver(database)
    alice, bob = homeserver.register("alice"), homeserver.register("bob")
    rooms = {alice.create_room() for _ in range(3)}
    for _ in range(3):
        bob.create_room()
    known = homeserver.server.user_rooms

    for user in (alice, bob, alice, bob):
        assert user.get("/joined_rooms").status == 200
    bob.create_room()

    held = known._users
    assert known._standings == sum(map(len, held.values()))
    assert list(held) == ["@bob:hs.test"]
    assert set(result_of(known.rooms_of(UserID("@alice:hs.test")))) == rooms
    homeserver.stop()
