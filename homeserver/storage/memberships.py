"""Current memberships by user and by room, derived from room state and committed with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from homeserver.core.canonical_json import decode_json
from homeserver.core.identifiers import RoomID, UserID
from homeserver.storage.query import (
    Txn,
    array_of,
    execute,
    find_value,
    insert_columns,
    insert_many,
    list_rows,
    list_tuples,
    list_values,
)

NUMBERS = {"join": 1, "invite": 2, "leave": 3, "ban": 4, "knock": 5}
NAMES = {number: name for name, number in NUMBERS.items()}


class NewMembership(NamedTuple):
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
    is_forgotten: bool
    whole_nid: int | None
    """Position at which the members came that a join had been answered without."""


@dataclass(frozen=True, slots=True)
class MemberOfRoom:
    user_id: UserID
    membership: int
    event_nid: int
    joined_nid: int | None
    left_nid: int | None


@dataclass(frozen=True, slots=True)
class Profile:
    """How a member event calls the member."""

    display_name: str | None = None
    avatar_url: str | None = None


def upsert_memberships(txn: Txn, rows: Sequence[NewMembership]) -> None:
    """Write the newest membership of each (user, room); a later row of the same pair wins."""
    last = {(row.user_nid, row.room_nid): row for row in rows}
    insert_columns(
        txn,
        """
        INSERT INTO room_memberships (user_nid, room_nid, membership, event_nid, joined_nid,
                                      left_nid)
        SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::smallint[], %s::bigint[],
                             %s::bigint[], %s::bigint[])
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
    """The stay that ended is forgotten too: no later ban or invitation brings it back."""
    execute(
        txn,
        """
        UPDATE room_memberships SET forgotten = true, joined_nid = NULL, left_nid = NULL
         WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = %s) AND room_nid = %s
           AND membership <> %s""",
        (user_id, room_nid, NUMBERS["join"]),
    )


def list_rooms_of_user(txn: Txn, user_id: UserID) -> list[RoomOfUser]:
    return list_rows(
        txn,
        RoomOfUser,
        """
        SELECT room_nid, room_id, membership, event_nid, joined_nid, left_nid, forgotten, whole_nid
          FROM room_memberships JOIN rooms USING (room_nid)
          LEFT JOIN partial_state_rooms USING (room_nid)
         WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = %s)""",
        (user_id,),
    )


def list_members(txn: Txn, room_nid: int) -> list[MemberOfRoom]:
    """In the order in which they came."""
    return list_rows(
        txn,
        MemberOfRoom,
        """
        SELECT user_id, membership, event_nid, joined_nid, left_nid
          FROM room_memberships JOIN users USING (user_nid) WHERE room_nid = %s
         ORDER BY coalesce(joined_nid, event_nid)""",
        (room_nid,),
    )


def list_profiles(txn: Txn, room_nid: int, event_nids: Sequence[int]) -> dict[int, Profile]:
    """Return what member events say of names, by event number; redacted ones say nothing."""
    asked = (room_nid, array_of(event_nids))
    rows = list_tuples(
        txn,
        """
        SELECT event_nid, convert_from(pdu, 'UTF8') FROM event_bytes
         WHERE room_nid = %s AND event_nid = ANY(%s::bigint[])""",
        asked,
    )
    redacted = list_values(
        txn,
        int,
        """
        SELECT event_nid FROM events
         WHERE room_nid = %s AND event_nid = ANY(%s::bigint[]) AND redacted_by IS NOT NULL""",
        asked,
    )
    return {nid: _profile(pdu) for nid, pdu in rows} | dict.fromkeys(redacted, Profile())


def _profile(pdu: str) -> Profile:
    content = cast("dict[str, dict[str, object]]", decode_json(pdu))["content"]
    name, avatar = content.get("displayname"), content.get("avatar_url")
    return Profile(
        name if isinstance(name, str) else None, avatar if isinstance(avatar, str) else None
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
