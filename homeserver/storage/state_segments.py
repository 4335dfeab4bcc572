"""Room states as chains of changes with checkpoints in between; see the table's comments."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.storage.query import Txn, execute, fetch_value, find_row, insert_many, list_rows


@dataclass(frozen=True, slots=True)
class Segment:
    room_nid: int
    segment_nid: int
    parent_state: int | None
    base_segment: int
    checkpoint: bytes | None
    changes: bytes
    change_count: int
    since_checkpoint: int
    state_hash: bytes


@dataclass(frozen=True, slots=True)
class Growth:
    """Changes appended to the end of an existing segment."""

    room_nid: int
    segment_nid: int
    changes: bytes
    count_before: int
    change_count: int
    """The count afterwards."""
    state_hash: bytes


class SegmentMoved(Exception):
    """Somebody else has written to the room: what memory has of it is out of date."""


def insert_segments(txn: Txn, segments: Sequence[Segment]) -> None:
    insert_many(
        txn,
        """
        INSERT INTO state_segments (room_nid, segment_nid, parent_state, base_segment, checkpoint,
                                    changes, change_count, since_checkpoint, state_hash)
        VALUES %s""",
        [
            (
                s.room_nid, s.segment_nid, s.parent_state, s.base_segment, s.checkpoint,
                s.changes, s.change_count, s.since_checkpoint, s.state_hash,
            )
            for s in segments
        ],
    )  # fmt: skip


def append_changes(txn: Txn, growths: Sequence[Growth]) -> None:
    """Raises SegmentMoved when a segment does not end where memory says."""
    for growth in growths:
        touched = execute(
            txn,
            "UPDATE state_segments SET changes = changes || %s, change_count = %s, state_hash = %s"
            " WHERE room_nid = %s AND segment_nid = %s AND change_count = %s",
            (
                growth.changes, growth.change_count, growth.state_hash, growth.room_nid,
                growth.segment_nid, growth.count_before,
            ),
        )  # fmt: skip
        if touched != 1:
            raise SegmentMoved(f"segment {growth.segment_nid} of room {growth.room_nid}")


def max_segment_nid(txn: Txn) -> int:
    """As `max_event_nid`, one step into the primary key a room."""
    return fetch_value(
        txn,
        int,
        """
        SELECT coalesce(max(last), 0)::bigint
          FROM rooms CROSS JOIN LATERAL
               (SELECT segment_nid AS last FROM state_segments AS s
                 WHERE s.room_nid = rooms.room_nid ORDER BY segment_nid DESC LIMIT 1) AS newest""",
    )


def find_segment(txn: Txn, room_nid: int, segment_nid: int) -> Segment | None:
    return find_row(
        txn,
        Segment,
        """
        SELECT room_nid, segment_nid, parent_state, base_segment, checkpoint, changes, change_count,
               since_checkpoint, state_hash
          FROM state_segments WHERE room_nid = %s AND segment_nid = %s""",
        (room_nid, segment_nid),
    )


def list_chain(txn: Txn, room_nid: int, segment_nid: int) -> list[Segment]:
    """Return this segment and those it goes on from, back to the one with the checkpoint."""
    return list_rows(
        txn,
        Segment,
        """
        WITH RECURSIVE chain (segment_nid, parent_state) AS (
            SELECT segment_nid, parent_state FROM state_segments
             WHERE room_nid = %(room)s AND segment_nid = %(segment)s
            UNION ALL
            SELECT s.segment_nid, s.parent_state
              FROM chain JOIN state_segments AS s
                ON s.room_nid = %(room)s AND s.segment_nid = chain.parent_state >> 7)
        SELECT room_nid, segment_nid, s.parent_state, base_segment, checkpoint, changes,
               change_count, since_checkpoint, state_hash
          FROM chain JOIN state_segments AS s USING (segment_nid) WHERE s.room_nid = %(room)s""",
        {"room": room_nid, "segment": segment_nid},
    )
