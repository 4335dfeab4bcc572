"""Events in bulk as other servers are given them: ids and bytes, nothing parsed."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import RoomID
from homeserver.storage.events import (
    AFTER_GAP,
    HIDDEN,
    HISTORICAL,
    OUTLIER,
    REJECTED,
    SOFT_FAILED,
)
from homeserver.storage.query import Txn, array_of, list_rows, list_tuples, list_values

_REFUSED_HISTORY = HISTORICAL | SOFT_FAILED | AFTER_GAP
"""Old, and not signed by the room's policy server: before it is more."""


@dataclass(frozen=True, slots=True)
class ServedRow:
    room_nid: int
    room_id: RoomID
    room_version: str
    event_nid: int
    event_id: bytes
    depth: int
    flags: int
    state_before: int | None
    pdu: bytes
    is_redacted: bool


@dataclass(frozen=True, slots=True)
class GapRow:
    event_id: bytes
    depth: int


def list_pdus(txn: Txn, room_nid: int, event_nids: Sequence[int]) -> dict[int, bytes]:
    """Return PDUs by number, as they were signed; unknown numbers are left out."""
    rows = list_tuples(
        txn,
        """
        SELECT event_nid, convert_from(pdu, 'UTF8') FROM event_bytes
         WHERE room_nid = %s AND event_nid = ANY(%s::bigint[])""",
        (room_nid, array_of(event_nids)),
    )
    # As text, bytes are half as long on their way as in hexadecimal.
    return {event_nid: pdu.encode() for event_nid, pdu in rows}


def list_redacted(txn: Txn, room_nid: int, event_nids: Sequence[int]) -> dict[int, bytes]:
    """Return the ids, by number, of those of the events that are redacted."""
    rows = list_tuples(
        txn,
        """
        SELECT event_nid, event_id FROM events
         WHERE room_nid = %s AND event_nid = ANY(%s::bigint[]) AND redacted_by IS NOT NULL""",
        (room_nid, array_of(event_nids)),
    )
    return dict(rows)


def list_ids(txn: Txn, room_nid: int, event_nids: Sequence[int]) -> list[bytes]:
    """In no order."""
    return list_values(
        txn,
        bytes,
        """
        SELECT e.event_id
          FROM unnest(%s::bigint[]) AS wanted (event_nid)
          CROSS JOIN LATERAL
               (SELECT event_id FROM events
                 WHERE room_nid = %s AND event_nid = wanted.event_nid OFFSET 0) AS e""",
        (list(event_nids), room_nid),
    )


def list_auth_chain(txn: Txn, room_nid: int, event_nids: Sequence[int], limit: int) -> list[int]:
    """Return what these events cite, and what that cites, and so on; at most `limit` events.

    1. What is wanted is gone through once: most of what it cites is the same few events.
    2. From these the walk begins.
    """
    return list_values(
        txn,
        int,
        """
        WITH RECURSIVE begun AS (
            SELECT DISTINCT unnest(e.auth_events) AS event_nid
              FROM unnest(%(wanted)s::bigint[]) AS wanted (event_nid)
              CROSS JOIN LATERAL
                   (SELECT auth_events FROM events
                     WHERE room_nid = %(room)s AND event_nid = wanted.event_nid OFFSET 0) AS e),
        chain (event_nid) AS (
            SELECT event_nid FROM begun
            UNION
            SELECT cited FROM chain
              CROSS JOIN LATERAL
                   (SELECT auth_events FROM events
                     WHERE room_nid = %(room)s AND event_nid = chain.event_nid OFFSET 0) AS e
              CROSS JOIN LATERAL unnest(e.auth_events) AS cited)
        SELECT event_nid FROM chain LIMIT %(limit)s""",
        {"room": room_nid, "wanted": list(event_nids), "limit": limit},
    )


def list_served(txn: Txn, event_ids: Sequence[bytes]) -> list[ServedRow]:
    """Return events of any room, but for rejected ones; of the same id in two rooms, both."""
    return list_rows(
        txn,
        ServedRow,
        """
        SELECT e.room_nid, room_id, room_version, e.event_nid, e.event_id, e.depth, e.flags,
               e.state_before, b.pdu, e.redacted_by IS NOT NULL
          FROM events AS e JOIN rooms USING (room_nid)
          JOIN event_bytes AS b ON b.room_nid = e.room_nid AND b.event_nid = e.event_nid
         WHERE e.event_id = ANY(%s::bytea[]) AND e.flags & %s = 0""",
        (list(event_ids), REJECTED),
    )


def list_before(
    txn: Txn, room_nid: int, event_nids: Sequence[int], stops: Sequence[int], limit: int
) -> list[ServedRow]:
    """Walk back from these events, themselves included, but not to `stops` or past them.

    The nearest come first, by the number of steps; at most `limit` are visited. Rejected events are
    walked through and left out.
    """
    return list_rows(
        txn,
        ServedRow,
        """
        WITH RECURSIVE walk (event_nid) AS (
            SELECT unnest(%(wanted)s::bigint[])
            UNION
            SELECT parent FROM walk
              CROSS JOIN LATERAL
                   (SELECT prev_events FROM events
                     WHERE room_nid = %(room)s AND event_nid = walk.event_nid OFFSET 0) AS e
              CROSS JOIN LATERAL unnest(e.prev_events) AS parent
             WHERE parent <> ALL(%(stops)s::bigint[]))
        SELECT e.room_nid, room_id, room_version, e.event_nid, e.event_id, e.depth, e.flags,
               e.state_before, b.pdu, e.redacted_by IS NOT NULL
          FROM (SELECT event_nid FROM walk LIMIT %(limit)s) AS visited
          JOIN events AS e ON e.room_nid = %(room)s AND e.event_nid = visited.event_nid
          JOIN event_bytes AS b ON b.room_nid = e.room_nid AND b.event_nid = e.event_nid
          JOIN rooms ON rooms.room_nid = e.room_nid
         WHERE e.flags & %(left_out)s = 0""",
        {
            "room": room_nid,
            "wanted": list(event_nids),
            "stops": list(stops),
            "limit": limit,
            "left_out": OUTLIER | REJECTED,
        },
    )


def list_placed_numbers(txn: Txn, room_nid: int, event_ids: Sequence[bytes]) -> list[int]:
    """Return the numbers of those of the events whose place is known."""
    return list_values(
        txn,
        int,
        "SELECT event_nid FROM events"
        " WHERE event_id = ANY(%s::bytea[]) AND room_nid = %s AND flags & %s = 0",
        (list(event_ids), room_nid, OUTLIER),
    )


def list_after_gaps(txn: Txn, room_nid: int, over: int, up_to: int, limit: int) -> list[GapRow]:
    """Return the deepest events of depths in (over, up_to] that wait for a parent."""
    return list_rows(
        txn,
        GapRow,
        """
        SELECT event_id, depth
          FROM (SELECT DISTINCT event_nid FROM missing_parents WHERE room_nid = %s) AS waiting
          JOIN events AS e ON e.room_nid = %s AND e.event_nid = waiting.event_nid
         WHERE e.depth > %s AND e.depth <= %s
           AND (e.flags & %s = 0 OR e.flags = %s)
         ORDER BY e.depth DESC, e.event_nid DESC LIMIT %s""",
        (room_nid, room_nid, over, up_to, HIDDEN, _REFUSED_HISTORY, limit),
    )


def list_without_members(
    txn: Txn, slot_nids: Sequence[int], event_nids: Sequence[int], kept: Sequence[str]
) -> list[int]:
    """Return the events of a state, given as two columns, but for members other than `kept`."""
    return list_values(
        txn,
        int,
        """
        SELECT event_nid
          FROM unnest(%s::bigint[], %s::bigint[]) AS state (slot_nid, event_nid)
          JOIN state_slots USING (slot_nid) JOIN event_types USING (type_nid)
         WHERE type <> 'm.room.member' OR state_key = ANY(%s)""",
        (list(slot_nids), list(event_nids), list(kept)),
    )


def list_members_of_server(
    txn: Txn, room_nid: int, slot_nids: Sequence[int], event_nids: Sequence[int], server: str
) -> list[bytes]:
    """Return, of a state given as two columns, the member events of a server's users."""
    return list_values(
        txn,
        bytes,
        """
        SELECT (SELECT pdu FROM event_bytes AS b
                 WHERE b.room_nid = %s AND b.event_nid = state.event_nid)
          FROM unnest(%s::bigint[], %s::bigint[]) AS state (slot_nid, event_nid)
          JOIN state_slots USING (slot_nid) JOIN event_types USING (type_nid)
         WHERE type = 'm.room.member' AND right(state_key, length(%s) + 1) = ':' || %s""",
        (room_nid, list(slot_nids), list(event_nids), server, server),
    )
