"""Rooms in memory: the budget, and what must not leave."""

import dataclasses
from urllib.parse import quote

from homeserver.config import LimitsSection
from homeserver.core.identifiers import RoomID
from homeserver.engine.members import Member, next_member
from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, Homeserver

BUDGET = 300_000


def small(database: InlineDatabase, budget: int = BUDGET) -> Homeserver:
    limits = LimitsSection(live_rooms_bytes=budget)
    return Homeserver(database, dataclasses.replace(DEFAULT_CONFIG, limits=limits))


def test_the_byte_budget_is_kept_also_with_large_state_events(database: InlineDatabase) -> None:
    homeserver = small(database)
    alice = homeserver.register("alice")
    for number in range(4):
        room_id = alice.create_room()
        for key in range(6):
            path = f"/rooms/{quote(room_id)}/state/org.example.large/{number}.{key}"
            assert alice.put(path, {"text": "x" * 30_000}).status == 200

    live_rooms = homeserver.server.live_rooms

    rooms = list(live_rooms)
    assert len(rooms) == 1
    held = sum(len(e.event.pdu_bytes) + len(e.json) for e in rooms[0].state_events.values())
    assert held > BUDGET
    assert rooms[0].size > held
    assert live_rooms.size == rooms[0].size
    homeserver.stop()


def test_the_least_recently_used_room_leaves_first(database: InlineDatabase) -> None:
    homeserver = small(database)
    alice = homeserver.register("alice")
    rooms = [alice.create_room() for _ in range(3)]
    for room_id in (*rooms[1:], rooms[0]):
        assert alice.get(f"/rooms/{quote(room_id)}/state").status == 200
    for _ in range(6):
        alice.send(rooms[0], "x" * 20_000)

    live_rooms = homeserver.server.live_rooms

    assert live_rooms.find_loaded(RoomID(rooms[0])) is not None
    assert live_rooms.find_loaded(RoomID(rooms[1])) is None
    homeserver.stop()


def test_sizes_add_up_after_rooms_have_come_and_gone(database: InlineDatabase) -> None:
    homeserver = small(database)
    alice = homeserver.register("alice")
    rooms = [alice.create_room(name=f"Room {n}") for n in range(12)]
    for _ in range(3):
        for room_id in rooms:
            alice.send(room_id, "x" * 2_000)
            alice.sync()

    live_rooms = homeserver.server.live_rooms

    assert live_rooms.size == sum(room.size for room in live_rooms)
    assert live_rooms.size <= BUDGET
    homeserver.stop()


def test_a_stay_begins_with_the_join_and_ends_with_the_leave() -> None:
    invited = next_member(None, "invite", 1)
    joined = next_member(invited, "join", 2)
    renamed = next_member(joined, "join", 3)
    left = next_member(renamed, "leave", 4)
    banned = next_member(left, "ban", 5)
    back = next_member(next_member(banned, "leave", 6), "join", 7)

    assert [invited, joined, renamed] == [
        Member("invite", 1),
        Member("join", 2, 2),
        Member("join", 3, 2),
    ]
    assert [left, banned, back] == [
        Member("leave", 4, 2, 4),
        Member("ban", 5, 2, 4),
        Member("join", 7, 7),
    ]
