"""Current memberships by user and by room, derived from room state and committed with it."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import RoomID, UserID
from homeserver.storage.query import Txn, execute, find_value, insert_many, list_rows

NUMBERS = {"join": 1, "invite": 2, "leave": 3, "ban": 4, "knock": 5}
NAMES = {number: name for name, number in NUMBERS.items()}


@dataclass(frozen=True, slots=True)
class NewMembership:
    user_nid: int
    room_nid: int
    membership: int
    event_nid: int
    joined_nid: int | None
    left_nid: int | None
    stripped_state: bytes | None
    """For invites and knocks: the JSON array shown to the user."""


@dataclass(frozen=True, slots=True)
class RoomOfUser:
    room_nid: int
    room_id: RoomID
    membership: int
    event_nid: int
    joined_nid: int | None
    left_nid: int | None


@dataclass(frozen=True, slots=True)
class MemberOfRoom:
    user_id: UserID
    membership: int
    event_nid: int
    joined_nid: int | None
    left_nid: int | None


def upsert_memberships(txn: Txn, rows: Sequence[NewMembership]) -> None:
    """Write the newest membership of each (user, room); a later row of the same pair wins."""
    last = {(row.user_nid, row.room_nid): row for row in rows}
    insert_many(
        txn,
        """
        INSERT INTO room_memberships (user_nid, room_nid, membership, event_nid, joined_nid,
                                      left_nid)
        VALUES %s
        ON CONFLICT (user_nid, room_nid) DO UPDATE
           SET membership = excluded.membership, event_nid = excluded.event_nid,
               joined_nid = excluded.joined_nid, left_nid = excluded.left_nid,
               forgotten = false""",
        [
            (r.user_nid, r.room_nid, r.membership, r.event_nid, r.joined_nid, r.left_nid)
            for r in last.values()
        ],
    )
    insert_many(
        txn,
        """
        INSERT INTO invite_states (user_nid, room_nid, state) VALUES %s
        ON CONFLICT (user_nid, room_nid) DO UPDATE SET state = excluded.state""",
        [
            (r.user_nid, r.room_nid, r.stripped_state)
            for r in last.values()
            if r.stripped_state is not None
        ],
    )


def update_forgotten(txn: Txn, user_id: UserID, room_nid: int) -> None:
    execute(
        txn,
        """
        UPDATE room_memberships SET forgotten = true
         WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = %s) AND room_nid = %s""",
        (user_id, room_nid),
    )


def list_rooms_of_user(txn: Txn, user_id: UserID) -> list[RoomOfUser]:
    """Every room with a membership that is not forgotten."""
    return list_rows(
        txn,
        RoomOfUser,
        """
        SELECT room_nid, room_id, membership, event_nid, joined_nid, left_nid
          FROM room_memberships JOIN rooms USING (room_nid)
         WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = %s) AND NOT forgotten""",
        (user_id,),
    )


def list_members(txn: Txn, room_nid: int) -> list[MemberOfRoom]:
    return list_rows(
        txn,
        MemberOfRoom,
        """
        SELECT user_id, membership, event_nid, joined_nid, left_nid
          FROM room_memberships JOIN users USING (user_nid) WHERE room_nid = %s""",
        (room_nid,),
    )


def find_stripped_state(txn: Txn, user_id: UserID, room_nid: int) -> bytes | None:
    value = find_value(
        txn,
        memoryview,
        """
        SELECT state FROM invite_states
         WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = %s) AND room_nid = %s""",
        (user_id, room_nid),
    )
    return None if value is None else bytes(value)
