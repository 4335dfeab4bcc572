"""When each user's keys changed last."""

from collections.abc import Sequence

from homeserver.core.identifiers import UserID
from homeserver.storage.query import Txn, execute, list_values


def upsert_change(txn: Txn, position: int, user_nid: int) -> None:
    execute(
        txn,
        """
        INSERT INTO device_list_changes (user_nid, position) VALUES (%s, %s)
        ON CONFLICT (user_nid) DO UPDATE
           SET position = greatest(device_list_changes.position, excluded.position),
               is_pending = false""",
        (user_nid, position),
    )


def mark_pending(txn: Txn, user_nid: int) -> None:
    """Note a change in a transaction that has no position for it."""
    execute(
        txn,
        """
        INSERT INTO device_list_changes (user_nid, position, is_pending) VALUES (%s, 0, true)
        ON CONFLICT (user_nid) DO UPDATE SET is_pending = true""",
        (user_nid,),
    )


def settle_pending(txn: Txn, position: int, user_nid: int | None = None) -> bool:
    """Give pending changes (of one user, or all) a position; return whether there were any."""
    return bool(
        execute(
            txn,
            """
            UPDATE device_list_changes SET position = %s, is_pending = false
             WHERE is_pending AND (%s::bigint IS NULL OR user_nid = %s)""",
            (position, user_nid, user_nid),
        )
    )


def list_changed_since(txn: Txn, since: int, user_ids: Sequence[UserID]) -> list[UserID]:
    """Those of `user_ids` whose last change is after a position."""
    return [
        UserID(user_id)
        for user_id in list_values(
            txn,
            str,
            """
            SELECT user_id FROM device_list_changes JOIN users USING (user_nid)
             WHERE position > %s AND user_id = ANY(%s)""",
            (since, list(user_ids)),
        )
    ]
