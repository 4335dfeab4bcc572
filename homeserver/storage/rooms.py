"""Rooms and their heads: what moves with every event."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import RoomID, ServerName
from homeserver.storage.events import HISTORICAL
from homeserver.storage.query import (
    Txn,
    execute,
    find_row,
    find_value,
    insert_many,
    list_rows,
    list_values,
)


@dataclass(frozen=True, slots=True)
class RoomHead:
    room_nid: int
    room_id: RoomID
    room_version: str
    extremities: list[int]
    current_state: int
    last_event: int
    forked_at: int
    """Every event after this number is in line, but for historical ones. An outlier that found its
    place later moved the room at a position that no row remembers."""
    partial_join: int | None
    """Number of a join that was answered without members."""
    partial_servers: list[ServerName] | None
    whole_nid: int | None
    """The position at which they came; None: they are missing."""


@dataclass(frozen=True, slots=True)
class KnownRoom:
    room_nid: int
    room_version: str


@dataclass(frozen=True, slots=True)
class ListedRoom:
    room_id: RoomID
    room_nid: int
    last_event: int
    is_public: bool
    """In the directory of the server itself."""


@dataclass(frozen=True, slots=True)
class NewHead:
    room_nid: int
    extremities: Sequence[int]
    current_state: int
    last_event: int


@dataclass(frozen=True, slots=True)
class Extremity:
    event_nid: int
    event_id: bytes
    state_after: int
    pdu: bytes


def insert_room(txn: Txn, room_id: RoomID, room_version: str) -> int | None:
    """Return the new room's number, or None when the id is taken."""
    return find_value(
        txn,
        int,
        "INSERT INTO rooms (room_id, room_version) VALUES (%s, %s)"
        " ON CONFLICT DO NOTHING RETURNING room_nid",
        (room_id, room_version),
    )


def correct_version(txn: Txn, room_nid: int, room_version: str) -> bool:
    """Give a room of which no event is stored another version; return whether it is such a one."""
    return bool(
        execute(
            txn,
            """
            UPDATE rooms SET room_version = %s
             WHERE room_nid = %s
               AND NOT EXISTS (SELECT FROM room_heads AS h WHERE h.room_nid = rooms.room_nid)
               AND NOT EXISTS (SELECT FROM events AS e WHERE e.room_nid = rooms.room_nid)""",
            (room_version, room_nid),
        )
    )


def upsert_heads(txn: Txn, heads: Sequence[NewHead]) -> None:
    insert_many(
        txn,
        """
        INSERT INTO room_heads (room_nid, extremities, current_state, last_event)
        VALUES %s
        ON CONFLICT (room_nid) DO UPDATE
           SET extremities = excluded.extremities, current_state = excluded.current_state,
               last_event = excluded.last_event""",
        [(h.room_nid, list(h.extremities), h.current_state, h.last_event) for h in heads],
    )


def find_head(txn: Txn, room_id: RoomID) -> RoomHead | None:
    """None for an unknown room, and for one whose creation was never finished."""
    return find_row(
        txn,
        RoomHead,
        """
        SELECT room_nid, room_id, room_version, extremities, current_state, last_event,
               coalesce((SELECT max(CASE WHEN e.flags & %s <> 0 THEN last_event
                                         ELSE e.event_nid END)
                           FROM events AS e
                          WHERE e.room_nid = rooms.room_nid AND e.room_state IS NOT NULL), 0),
               p.join_nid, p.servers, p.whole_nid
          FROM rooms JOIN room_heads USING (room_nid)
          LEFT JOIN partial_state_rooms AS p USING (room_nid)
         WHERE room_id = %s""",
        (HISTORICAL, room_id),
    )


def find_room(txn: Txn, room_id: RoomID) -> KnownRoom | None:
    """Return a room that this server has heard of, be it in it or not."""
    return find_row(
        txn, KnownRoom, "SELECT room_nid, room_version FROM rooms WHERE room_id = %s", (room_id,)
    )


def list_extremities(txn: Txn, room_nid: int, event_nids: Sequence[int]) -> list[Extremity]:
    return list_rows(
        txn,
        Extremity,
        """
        SELECT e.event_nid, e.event_id, e.state_after,
               (SELECT pdu FROM event_bytes AS b
                 WHERE b.room_nid = e.room_nid AND b.event_nid = e.event_nid)
          FROM events AS e
         WHERE e.room_nid = %s AND e.event_nid = ANY(%s) ORDER BY e.event_nid""",
        (room_nid, list(event_nids)),
    )


def list_last_events(txn: Txn, room_nids: Sequence[int]) -> dict[int, int]:
    """Return the newest event number of each room."""
    rows = list_rows(
        txn,
        _Last,
        "SELECT room_nid, last_event FROM room_heads WHERE room_nid = ANY(%s)",
        (list(room_nids),),
    )
    return {row.room_nid: row.last_event for row in rows}


@dataclass(frozen=True, slots=True)
class _Last:
    room_nid: int
    last_event: int


def insert_public_room(txn: Txn, room_nid: int) -> None:
    """Put the room into the directory."""
    execute(
        txn, "INSERT INTO public_rooms (room_nid) VALUES (%s) ON CONFLICT DO NOTHING", (room_nid,)
    )


def delete_public_room(txn: Txn, room_nid: int) -> None:
    execute(txn, "DELETE FROM public_rooms WHERE room_nid = %s", (room_nid,))


def is_public_room(txn: Txn, room_nid: int) -> bool:
    return (
        find_value(txn, int, "SELECT 1 FROM public_rooms WHERE room_nid = %s", (room_nid,))
        is not None
    )


def list_listed_rooms(txn: Txn, limit: int) -> list[ListedRoom]:
    """Return the rooms in the directory, of the server or of a network, oldest first."""
    return list_rows(
        txn,
        ListedRoom,
        """
        SELECT room_id, room_nid, last_event,
               EXISTS (SELECT FROM public_rooms AS p WHERE p.room_nid = rooms.room_nid)
          FROM rooms JOIN room_heads USING (room_nid)
         WHERE room_nid IN (SELECT room_nid FROM public_rooms
                            UNION SELECT room_nid FROM network_rooms)
         ORDER BY room_nid LIMIT %s""",
        (limit,),
    )


def move_public_room(txn: Txn, from_room: int, to_room: int) -> None:
    """Give one room's place in the directory, if it has one, to another."""
    if execute(txn, "DELETE FROM public_rooms WHERE room_nid = %s", (from_room,)):
        insert_public_room(txn, to_room)


def list_moved_rooms(txn: Txn, after: int) -> list[RoomID]:
    """Return the rooms with an event after this number."""
    return [
        RoomID(room_id)
        for room_id in list_values(
            txn,
            str,
            "SELECT room_id FROM room_heads JOIN rooms USING (room_nid) WHERE last_event > %s",
            (after,),
        )
    ]


def list_unfinished_rooms(txn: Txn, room_nid: int | None) -> list[int]:
    """Return this room, or all of them, where nothing has ever happened."""
    return list_values(
        txn,
        int,
        """
        SELECT room_nid FROM rooms
         WHERE (%(room)s::bigint IS NULL OR room_nid = %(room)s)
           AND NOT EXISTS (SELECT FROM room_heads AS h WHERE h.room_nid = rooms.room_nid)
           AND NOT EXISTS (SELECT FROM events AS e WHERE e.room_nid = rooms.room_nid)
           AND NOT EXISTS (SELECT FROM room_memberships AS m WHERE m.room_nid = rooms.room_nid)""",
        {"room": room_nid},
    )


def delete_rooms(txn: Txn, room_nids: Sequence[int]) -> None:
    execute(txn, "DELETE FROM public_rooms WHERE room_nid = ANY(%s)", (list(room_nids),))
    execute(txn, "DELETE FROM rooms WHERE room_nid = ANY(%s)", (list(room_nids),))
