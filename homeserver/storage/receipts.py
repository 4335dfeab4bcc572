"""Read receipts: up to which event each user has read a room, or a thread of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.storage.events import decode_event_id
from homeserver.storage.query import Txn, commit_lightly, execute, list_tuples

KINDS = {"m.read": 1, "m.read.private": 2}
NAMES = {number: name for name, number in KINDS.items()}


@dataclass(frozen=True, slots=True)
class NewReceipt:
    room_nid: int
    user_id: UserID
    kind: str
    thread_id: str
    """Empty: unthreaded."""
    event_nid: int
    event_id: bytes
    """As `events.encode_event_id` gives it."""
    ts: int


@dataclass(frozen=True, slots=True)
class Receipt:
    room_id: RoomID
    user_id: UserID
    kind: str
    thread_id: str
    """Empty: unthreaded."""
    event_id: EventID
    ts: int


def upsert_receipt(txn: Txn, receipt: NewReceipt, position: int) -> bool:
    """Return False, and change nothing, when the user has read as far already.

    The commit of `txn` does not wait for the disk.
    """
    commit_lightly(txn)
    return bool(
        execute(
            txn,
            """
            INSERT INTO receipts AS known
                   (room_nid, user_nid, kind, thread_id, event_nid, event_id, ts, position)
            SELECT %s, user_nid, %s, %s, %s, %s, %s, %s FROM users WHERE user_id = %s
            ON CONFLICT (room_nid, user_nid, kind, thread_id) DO UPDATE
               SET event_nid = excluded.event_nid, event_id = excluded.event_id,
                   ts = excluded.ts, position = excluded.position
             WHERE known.event_nid < excluded.event_nid""",
            (
                receipt.room_nid, KINDS[receipt.kind], receipt.thread_id, receipt.event_nid,
                receipt.event_id, receipt.ts, position, receipt.user_id,
            ),
        )
    )  # fmt: skip


def list_receipts(
    txn: Txn,
    room_ids: Sequence[RoomID],
    reader: UserID,
    after: int = -1,
    up_to: int = 2**63 - 1,
) -> list[Receipt]:
    """Return what `reader` may see of these rooms, changed last in (after, up_to]; oldest first."""
    rows = list_tuples(
        txn,
        """
        SELECT room_id, room_version, user_id, kind, thread_id, event_id, ts
          FROM receipts JOIN rooms USING (room_nid) JOIN users USING (user_nid)
         WHERE room_id = ANY(%s) AND position > %s AND position <= %s
           AND (kind = %s OR user_id = %s)
         ORDER BY position""",
        (list(room_ids), after, up_to, KINDS["m.read"], reader),
    )
    return [
        Receipt(
            room_id, user_id, NAMES[kind], thread_id,
            decode_event_id(ROOM_VERSIONS[version], event_id), ts,
        )
        for room_id, version, user_id, kind, thread_id, event_id, ts in rows
    ]  # fmt: skip
