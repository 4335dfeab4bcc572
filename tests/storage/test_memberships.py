"""Memberships: the newest of each user and room, and what an invited user is shown."""

from typing import Any

from homeserver.core.identifiers import RoomID, UserID
from homeserver.storage import dictionaries, memberships, rooms
from homeserver.storage.memberships import NUMBERS, NewMembership
from homeserver.storage.query import Txn

ALICE = UserID("@alice:hs.test")
BOB = UserID("@bob:hs.test")


def new_room(txn: Txn, room_id: str = "!a:hs.test") -> int:
    room_nid = rooms.insert_room(txn, RoomID(room_id), "11")
    assert room_nid is not None
    return room_nid


def row(
    txn: Txn, user_id: UserID, room_nid: int, membership: str, event_nid: int, **values: Any
) -> NewMembership:
    user_nid = dictionaries.intern_users(txn, [user_id])[user_id]
    fields: dict[str, Any] = {"joined_nid": None, "left_nid": None, "stripped_state": None}
    return NewMembership(
        user_nid=user_nid,
        room_nid=room_nid,
        membership=NUMBERS[membership],
        event_nid=event_nid,
        **{**fields, **values},
    )


def test_the_last_membership_of_a_batch_wins(txn: Txn) -> None:
    room_nid = new_room(txn)
    rows = [
        row(txn, ALICE, room_nid, "invite", 1, stripped_state=b"[]"),
        row(txn, ALICE, room_nid, "join", 2, joined_nid=2),
        row(txn, BOB, room_nid, "invite", 3, stripped_state=b"[1]"),
    ]

    memberships.upsert_memberships(txn, rows)

    found = {m.user_id: m for m in memberships.list_members(txn, room_nid)}
    assert (found[ALICE].membership, found[ALICE].event_nid) == (NUMBERS["join"], 2)
    assert (found[ALICE].joined_nid, found[ALICE].left_nid) == (2, None)
    assert found[BOB].membership == NUMBERS["invite"]


def test_a_stay_that_has_ended_is_remembered(txn: Txn) -> None:
    room_nid = new_room(txn)
    memberships.upsert_memberships(txn, [row(txn, ALICE, room_nid, "join", 5, joined_nid=5)])

    memberships.upsert_memberships(
        txn, [row(txn, ALICE, room_nid, "ban", 9, joined_nid=5, left_nid=8)]
    )

    (mine,) = memberships.list_rooms_of_user(txn, ALICE)
    assert (mine.event_nid, mine.joined_nid, mine.left_nid) == (9, 5, 8)


def test_a_room_is_forgotten_until_something_happens_there(txn: Txn) -> None:
    room_nid = new_room(txn)
    memberships.upsert_memberships(txn, [row(txn, ALICE, room_nid, "leave", 1)])

    memberships.update_forgotten(txn, ALICE, room_nid)

    (mine,) = memberships.list_rooms_of_user(txn, ALICE)
    assert mine.is_forgotten
    assert [m.user_id for m in memberships.list_members(txn, room_nid)] == [ALICE]
    memberships.upsert_memberships(txn, [row(txn, ALICE, room_nid, "invite", 2)])
    (mine,) = memberships.list_rooms_of_user(txn, ALICE)
    assert not mine.is_forgotten


def test_forgetting_is_of_one_user_and_one_room(txn: Txn) -> None:
    first, second = new_room(txn), new_room(txn, "!b:hs.test")
    memberships.upsert_memberships(
        txn,
        [row(txn, user, room, "leave", 1) for user in (ALICE, BOB) for room in (first, second)],
    )

    memberships.update_forgotten(txn, ALICE, first)

    mine = memberships.list_rooms_of_user(txn, ALICE)
    assert {m.room_nid: m.is_forgotten for m in mine} == {first: True, second: False}
    assert not any(m.is_forgotten for m in memberships.list_rooms_of_user(txn, BOB))


def test_the_newest_invitation_is_the_one_shown(txn: Txn) -> None:
    room_nid = new_room(txn)
    memberships.upsert_memberships(
        txn, [row(txn, ALICE, room_nid, "invite", 1, stripped_state=b'["old"]')]
    )

    memberships.upsert_memberships(
        txn, [row(txn, ALICE, room_nid, "invite", 2, stripped_state=b'["new"]')]
    )

    assert memberships.find_stripped_state(txn, ALICE, room_nid) == b'["new"]'
    assert memberships.find_stripped_state(txn, BOB, room_nid) is None


def test_an_unknown_user_has_no_rooms(txn: Txn) -> None:
    assert memberships.list_rooms_of_user(txn, UserID("@nobody:hs.test")) == []
