"""Which events other servers must be sent by this one."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import RoomID, ServerName
from homeserver.storage.query import Txn, execute, fetch_value, insert_many, list_rows, list_tuples


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    position: int
    room_nid: int
    event_nid: int
    origin: ServerName | None = None


@dataclass(frozen=True, slots=True)
class OutgoingPDU:
    position: int
    room_id: RoomID
    origin: ServerName | None
    pdu: bytes


@dataclass(frozen=True, slots=True)
class OutgoingRoom:
    """What a room has had to say since a position."""

    room_id: RoomID
    count: int
    last_position: int


@dataclass(frozen=True, slots=True)
class OutgoingPosition:
    position: int
    room_id: RoomID
    origin: ServerName | None


def insert_outgoing(txn: Txn, rows: Sequence[OutgoingEvent]) -> None:
    insert_many(
        txn,
        "INSERT INTO outgoing_events (position, room_nid, event_nid, origin) VALUES %s"
        " ON CONFLICT DO NOTHING",
        [(row.position, row.room_nid, row.event_nid, row.origin) for row in rows],
    )


def list_outgoing(txn: Txn, after: int, up_to: int, limit: int) -> list[OutgoingPDU]:
    """Return events in (after, up_to], in order; those that became hidden are left out."""
    return list_rows(
        txn,
        OutgoingPDU,
        """
        SELECT o.position, r.room_id, o.origin, b.pdu
          FROM outgoing_events o
          JOIN rooms r USING (room_nid)
          JOIN event_bytes b USING (room_nid, event_nid)
         WHERE o.position > %s AND o.position <= %s
         ORDER BY o.position
         LIMIT %s""",
        (after, up_to, limit),
    )


def list_outgoing_members(txn: Txn, after: int, limit: int) -> list[OutgoingPDU]:
    """As `list_outgoing`, member events alone."""
    return list_rows(
        txn,
        OutgoingPDU,
        """
        SELECT o.position, r.room_id, o.origin, b.pdu
          FROM outgoing_events o
          JOIN events e USING (room_nid, event_nid)
          JOIN rooms r USING (room_nid)
          JOIN event_bytes b USING (room_nid, event_nid)
         WHERE o.position > %s AND e.slot_nid IS NOT NULL
           AND e.type_nid = (SELECT type_nid FROM event_types WHERE type = 'm.room.member')
         ORDER BY o.position
         LIMIT %s""",
        (after, limit),
    )


def list_outgoing_rooms(txn: Txn, after: int) -> list[OutgoingRoom]:
    return list_rows(
        txn,
        OutgoingRoom,
        """
        SELECT r.room_id, count(*), max(o.position)
          FROM outgoing_events o JOIN rooms r USING (room_nid)
         WHERE o.position > %s
         GROUP BY r.room_id""",
        (after,),
    )


def list_positions(txn: Txn, after: int, limit: int) -> list[OutgoingPosition]:
    """Return what is to be sent, without the events themselves, in order."""
    return list_rows(
        txn,
        OutgoingPosition,
        """
        SELECT o.position, r.room_id, o.origin
          FROM outgoing_events o JOIN rooms r USING (room_nid)
         WHERE o.position > %s
         ORDER BY o.position
         LIMIT %s""",
        (after, limit),
    )


def list_times(txn: Txn, positions: Sequence[int]) -> dict[int, int]:
    """Return when the events at these positions were written (origin_server_ts)."""
    return dict(
        list_tuples(
            txn,
            """
            SELECT o.position, e.origin_server_ts
              FROM outgoing_events o JOIN events e USING (room_nid, event_nid)
             WHERE o.position = ANY(%s)""",
            (list(positions),),
        )
    )


def delete_outgoing(txn: Txn, up_to: int, limit: int) -> int:
    """Delete a part of what everybody has been told; return how many."""
    return execute(
        txn,
        """
        DELETE FROM outgoing_events
         WHERE position IN (SELECT position FROM outgoing_events
                             WHERE position <= %s ORDER BY position LIMIT %s)""",
        (up_to, limit),
    )


def delete_all_but_newest(txn: Txn, kept: int) -> int:
    """Delete what is older than the newest `kept` of its room; return how many."""
    return execute(
        txn,
        """
        DELETE FROM outgoing_events
         WHERE position IN (
               SELECT position FROM (
                      SELECT position,
                             row_number() OVER (PARTITION BY room_nid ORDER BY position DESC) AS n
                        FROM outgoing_events) AS numbered
                WHERE n > %s)""",
        (kept,),
    )


def get_progress(txn: Txn) -> int:
    return fetch_value(txn, int, "SELECT position FROM sending_progress")


def update_progress(txn: Txn, position: int) -> None:
    execute(txn, "UPDATE sending_progress SET position = greatest(position, %s)", (position,))
