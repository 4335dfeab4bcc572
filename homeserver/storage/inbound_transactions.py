"""What other servers have sent: answers to repetitions, and events not worked through yet."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import RoomID, ServerName
from homeserver.storage.query import (
    Txn,
    commit_lightly,
    execute,
    find_value,
    list_rows,
    list_values,
)


@dataclass(frozen=True, slots=True)
class StagedRow:
    staged_nid: int
    origin: ServerName
    room_id: RoomID
    pdu: bytes


def find_response(txn: Txn, origin: ServerName, txn_id: str) -> bytes | None:
    return find_value(
        txn,
        bytes,
        "SELECT response FROM inbound_transactions WHERE origin = %s AND txn_id = %s",
        (origin, txn_id),
    )


def insert_response(
    txn: Txn, origin: ServerName, txn_id: str, response: bytes, now_ms: int
) -> None:
    """It need not survive a crash: events that come again are known, and so are messages."""
    commit_lightly(txn)
    execute(
        txn,
        """
        INSERT INTO inbound_transactions (origin, txn_id, response, received_ts)
        VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING""",
        (origin, txn_id, response, now_ms),
    )


def delete_old_responses(txn: Txn, before_ts: int) -> int:
    return execute(txn, "DELETE FROM inbound_transactions WHERE received_ts < %s", (before_ts,))


def insert_staged(
    txn: Txn, origin: ServerName, room_id: RoomID, pdus: Sequence[bytes], now_ms: int
) -> list[int]:
    """Return the numbers of the rows."""
    return list_values(
        txn,
        int,
        """
        INSERT INTO staged_events (origin, room_id, pdu, received_ts)
        SELECT %s, %s, pdu, %s
          FROM unnest(%s::bytea[]) WITH ORDINALITY AS staged (pdu, place) ORDER BY place
        RETURNING staged_nid""",
        (origin, room_id, now_ms, list(pdus)),
    )


def list_staged(txn: Txn, after: int, limit: int) -> list[StagedRow]:
    return list_rows(
        txn,
        StagedRow,
        """
        SELECT staged_nid, origin, room_id, pdu FROM staged_events
         WHERE staged_nid > %s ORDER BY staged_nid LIMIT %s""",
        (after, limit),
    )


def delete_staged(txn: Txn, staged_nids: Sequence[int]) -> None:
    execute(txn, "DELETE FROM staged_events WHERE staged_nid = ANY(%s)", (list(staged_nids),))
