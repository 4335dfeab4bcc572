"""The event graph: reading it by ids and numbers, and the parents that are not known yet.

Owns `missing_parents` and `waiting_redactions`; `events` belongs to storage/events.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.storage.query import Txn, execute, fetch_value, insert_many, list_rows, list_values


@dataclass(frozen=True, slots=True)
class GraphEvent:
    event_nid: int
    event_id: bytes
    flags: int
    state_before: int | None
    state_after: int | None
    prev_events: list[int]
    auth_events: list[int]
    pdu: bytes


@dataclass(frozen=True, slots=True)
class StatePlace:
    event_id: bytes
    event_nid: int
    slot_nid: int | None
    flags: int


@dataclass(frozen=True, slots=True)
class Citation:
    event_nid: int
    auth_events: list[int]


@dataclass(frozen=True, slots=True)
class MissingParent:
    room_nid: int
    event_nid: int
    parent_id: bytes


@dataclass(frozen=True, slots=True)
class WaitingRedaction:
    """An accepted redaction whose target has not been seen."""

    room_nid: int
    target_id: bytes
    redaction_nid: int


def list_by_id(txn: Txn, room_nid: int, event_ids: Sequence[bytes]) -> list[GraphEvent]:
    """In no order; unknown ids are left out."""
    return list_rows(
        txn,
        GraphEvent,
        """
        SELECT e.event_nid, e.event_id, e.flags, e.state_before, e.state_after, e.prev_events,
               e.auth_events, b.pdu
          FROM events AS e JOIN event_bytes AS b USING (room_nid, event_nid)
         WHERE e.room_nid = %s AND e.event_id = ANY(%s::bytea[])""",
        (room_nid, list(event_ids)),
    )


def list_by_number(txn: Txn, room_nid: int, event_nids: Sequence[int]) -> list[GraphEvent]:
    """In no order; unknown numbers are left out."""
    return list_rows(
        txn,
        GraphEvent,
        """
        SELECT e.event_nid, e.event_id, e.flags, e.state_before, e.state_after, e.prev_events,
               e.auth_events, b.pdu
          FROM events AS e JOIN event_bytes AS b USING (room_nid, event_nid)
         WHERE e.room_nid = %s AND e.event_nid = ANY(%s::bigint[])""",
        (room_nid, list(event_nids)),
    )


def list_state_places(txn: Txn, room_nid: int, event_ids: Sequence[bytes]) -> list[StatePlace]:
    """In no order; unknown ids are left out."""
    return list_rows(
        txn,
        StatePlace,
        "SELECT event_id, event_nid, slot_nid, flags FROM events"
        " WHERE room_nid = %s AND event_id = ANY(%s::bytea[])",
        (room_nid, list(event_ids)),
    )


def list_ids_elsewhere(txn: Txn, room_nid: int, event_ids: Sequence[bytes]) -> list[bytes]:
    """Return those of the ids that are events of other rooms."""
    return list_values(
        txn,
        bytes,
        "SELECT event_id FROM events WHERE event_id = ANY(%s::bytea[]) AND room_nid <> %s",
        (list(event_ids), room_nid),
    )


def list_citations(
    txn: Txn, room_nid: int, event_nids: Sequence[int], above: int, limit: int
) -> list[Citation]:
    """Return what these events cite, and what those cite, down to the number `above`.

    At most `limit` rows; the events named come first.
    """
    return list_rows(
        txn,
        Citation,
        """
        WITH RECURSIVE chain (event_nid) AS (
            SELECT unnest(%(wanted)s::bigint[])
            UNION
            SELECT cited FROM chain
              JOIN events AS e ON e.room_nid = %(room)s AND e.event_nid = chain.event_nid
             CROSS JOIN LATERAL unnest(e.auth_events) AS cited
             WHERE cited >= %(above)s)
        SELECT e.event_nid, e.auth_events
          FROM (SELECT event_nid FROM chain LIMIT %(limit)s) AS walked
          JOIN events AS e ON e.room_nid = %(room)s AND e.event_nid = walked.event_nid""",
        {"room": room_nid, "wanted": list(event_nids), "above": above, "limit": limit},
    )


def insert_missing_parents(txn: Txn, rows: Sequence[MissingParent]) -> None:
    insert_many(
        txn,
        "INSERT INTO missing_parents (room_nid, event_nid, parent_id) VALUES %s"
        " ON CONFLICT DO NOTHING",
        [(row.room_nid, row.event_nid, row.parent_id) for row in rows],
    )


def list_waiting_children(txn: Txn, room_nid: int, parent_id: bytes) -> list[int]:
    """Return the numbers of the events that name this parent and were there before it."""
    return list_values(
        txn,
        int,
        "SELECT event_nid FROM missing_parents WHERE parent_id = %s AND room_nid = %s",
        (parent_id, room_nid),
    )


def is_any_known(txn: Txn, room_nid: int, event_ids: Sequence[bytes]) -> bool:
    """Tell whether one of the events is stored, or awaited by its child or its redaction."""
    return fetch_value(
        txn,
        bool,
        """
        SELECT EXISTS (SELECT FROM events
                        WHERE event_id = ANY(%(ids)s::bytea[]) AND room_nid = %(room)s)
            OR EXISTS (SELECT FROM missing_parents
                        WHERE parent_id = ANY(%(ids)s::bytea[]) AND room_nid = %(room)s)
            OR EXISTS (SELECT FROM waiting_redactions
                        WHERE room_nid = %(room)s AND target_id = ANY(%(ids)s::bytea[]))""",
        {"room": room_nid, "ids": list(event_ids)},
    )


def delete_missing_parent(txn: Txn, room_nid: int, parent_id: bytes) -> list[int]:
    """The parent is known: return the numbers of its children."""
    return list_values(
        txn,
        int,
        "DELETE FROM missing_parents WHERE parent_id = %s AND room_nid = %s RETURNING event_nid",
        (parent_id, room_nid),
    )


def insert_waiting_redactions(txn: Txn, rows: Sequence[WaitingRedaction]) -> None:
    insert_many(
        txn,
        "INSERT INTO waiting_redactions (room_nid, target_id, redaction_nid) VALUES %s"
        " ON CONFLICT DO NOTHING",
        [(row.room_nid, row.target_id, row.redaction_nid) for row in rows],
    )


def list_waiting_redactions(txn: Txn, room_nid: int, target_id: bytes) -> list[int]:
    """Return the numbers of the redactions of this event, the first one first."""
    return list_values(
        txn,
        int,
        "SELECT redaction_nid FROM waiting_redactions"
        " WHERE room_nid = %s AND target_id = %s ORDER BY redaction_nid",
        (room_nid, target_id),
    )


def delete_waiting_redactions(txn: Txn, room_nid: int, target_id: bytes) -> None:
    execute(
        txn,
        "DELETE FROM waiting_redactions WHERE room_nid = %s AND target_id = %s",
        (room_nid, target_id),
    )
