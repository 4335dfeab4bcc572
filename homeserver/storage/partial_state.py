"""Rooms whose state lacks members, because they were left out of the answer to a join."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import RoomID, ServerName
from homeserver.storage.events import HISTORICAL, OUTLIER
from homeserver.storage.query import Txn, execute, find_row, list_rows


@dataclass(frozen=True, slots=True)
class Partial:
    """Says that a room's state lacks members: what a join was answered left them out."""

    join_nid: int
    servers: Sequence[ServerName]
    """In the room at the join; the first one answered it."""


@dataclass(frozen=True, slots=True)
class PartialRow:
    room_id: RoomID
    room_version: str
    join_id: bytes
    join_nid: int
    servers: list[ServerName]


@dataclass(frozen=True, slots=True)
class PlacedNumber:
    event_nid: int
    prev_events: list[int]
    is_in_line: bool
    is_historical: bool
    """It is old, or was known before its place was."""


def insert_partial_room(
    txn: Txn, room_nid: int, join_nid: int, servers: Sequence[ServerName]
) -> None:
    execute(
        txn,
        """
        INSERT INTO partial_state_rooms (room_nid, join_nid, servers) VALUES (%s, %s, %s)
        ON CONFLICT (room_nid) DO UPDATE
           SET join_nid = excluded.join_nid, servers = excluded.servers, whole_nid = NULL""",
        (room_nid, join_nid, list(servers)),
    )


def delete_partial_room(txn: Txn, room_nid: int) -> None:
    execute(txn, "DELETE FROM partial_state_rooms WHERE room_nid = %s", (room_nid,))


def update_whole(txn: Txn, room_nid: int, whole_nid: int) -> None:
    execute(
        txn,
        "UPDATE partial_state_rooms SET whole_nid = %s WHERE room_nid = %s",
        (whole_nid, room_nid),
    )


def find_partial_room(txn: Txn, room_nid: int) -> PartialRow | None:
    return find_row(
        txn,
        PartialRow,
        """
        SELECT room_id, room_version, event_id, join_nid, servers
          FROM partial_state_rooms AS p JOIN rooms USING (room_nid)
          JOIN events AS e ON e.room_nid = p.room_nid AND e.event_nid = p.join_nid
         WHERE p.room_nid = %s AND whole_nid IS NULL""",
        (room_nid,),
    )


def list_partial_rooms(txn: Txn) -> list[PartialRow]:
    return list_rows(
        txn,
        PartialRow,
        """
        SELECT room_id, room_version, event_id, join_nid, servers
          FROM partial_state_rooms AS p JOIN rooms USING (room_nid)
          JOIN events AS e ON e.room_nid = p.room_nid AND e.event_nid = p.join_nid
         WHERE whole_nid IS NULL ORDER BY join_nid""",
    )


def list_placed_from(txn: Txn, room_nid: int, join_nid: int) -> list[PlacedNumber]:
    """Return the events from the join on that have come in since, in their order."""
    return list_rows(
        txn,
        PlacedNumber,
        """
        SELECT event_nid, prev_events, room_state IS NULL, flags & %s <> 0 FROM events
         WHERE room_nid = %s AND event_nid >= %s AND flags & %s = 0
         ORDER BY event_nid""",
        (HISTORICAL, room_nid, join_nid, OUTLIER),
    )
