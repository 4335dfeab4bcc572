"""Transaction ids of sends, so that a repeated one answers the first event."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import DeviceID, UserID
from homeserver.storage.query import Txn, execute, find_row, insert_many, list_rows


@dataclass(frozen=True, slots=True)
class NewTransaction:
    user_nid: int
    device_id: str
    txn_id: str
    room_nid: int
    event_nid: int
    created_ts: int


@dataclass(frozen=True, slots=True)
class KnownTransaction:
    room_nid: int
    txn_id: str
    event_id: bytes
    room_version: str


def insert_transactions(txn: Txn, rows: Sequence[NewTransaction]) -> None:
    insert_many(
        txn,
        """
        INSERT INTO client_transactions
               (user_nid, device_id, txn_id, room_nid, event_nid, created_ts)
        VALUES %s
        ON CONFLICT (user_nid, device_id, txn_id, room_nid) DO UPDATE
           SET event_nid = excluded.event_nid, created_ts = excluded.created_ts""",
        [(r.user_nid, r.device_id, r.txn_id, r.room_nid, r.event_nid, r.created_ts) for r in rows],
    )


def list_transactions(
    txn: Txn, user_id: UserID, device_id: DeviceID | str, since_ts: int, limit: int
) -> list[KnownTransaction]:
    """Return the newest, oldest first."""
    newest = list_rows(
        txn,
        KnownTransaction,
        """
        SELECT t.room_nid, t.txn_id, e.event_id, r.room_version
          FROM client_transactions AS t
          JOIN events AS e USING (room_nid, event_nid)
          JOIN rooms AS r USING (room_nid)
         WHERE t.user_nid = (SELECT user_nid FROM users WHERE user_id = %s)
           AND t.device_id = %s AND t.created_ts >= %s
         ORDER BY t.created_ts DESC, t.event_nid DESC LIMIT %s""",
        (user_id, device_id, since_ts, limit),
    )
    return newest[::-1]


def find_transaction(
    txn: Txn, user_id: UserID, device_id: DeviceID | str, room_nid: int, txn_id: str, since_ts: int
) -> KnownTransaction | None:
    return find_row(
        txn,
        KnownTransaction,
        """
        SELECT t.room_nid, t.txn_id, e.event_id, r.room_version
          FROM client_transactions AS t
          JOIN events AS e USING (room_nid, event_nid)
          JOIN rooms AS r USING (room_nid)
         WHERE t.user_nid = (SELECT user_nid FROM users WHERE user_id = %s)
           AND t.device_id = %s AND t.room_nid = %s AND t.txn_id = %s AND t.created_ts >= %s""",
        (user_id, device_id, room_nid, txn_id, since_ts),
    )


def delete_old_transactions(txn: Txn, before_ts: int) -> int:
    """Delete all that are so old, but for those of delayed events."""
    return execute(
        txn,
        r"""
        DELETE FROM client_transactions
         WHERE created_ts < %s AND device_id <> E'\x1fdelayed'""",
        (before_ts,),
    )
