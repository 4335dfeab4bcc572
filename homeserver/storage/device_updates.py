"""Changes of local devices and keys that other servers have not been told of yet."""

from collections.abc import Sequence

from homeserver.core.identifiers import UserID
from homeserver.storage.query import Txn, execute, fetch_value, find_value, list_values

CROSS_SIGNING_KEYS = ""
"""Stands for a device id where the keys of the user have changed."""


def mark(txn: Txn, user_nid: int, device_ids: Sequence[str]) -> None:
    """Note changes, in the transaction that makes them."""
    execute(
        txn,
        """
        INSERT INTO pending_device_updates (user_nid, device_id)
        SELECT %s, unnest(%s::text[]) ON CONFLICT DO NOTHING""",
        (user_nid, list(device_ids)),
    )


def list_waiting_users(txn: Txn) -> list[UserID]:
    return [
        UserID(user_id)
        for user_id in list_values(
            txn,
            str,
            """
            SELECT user_id FROM users
             WHERE user_nid IN (SELECT user_nid FROM pending_device_updates)""",
        )
    ]


def take(txn: Txn, user_nid: int) -> list[str]:
    """Delete the changes of a user, and return what has changed."""
    return sorted(
        list_values(
            txn,
            str,
            "DELETE FROM pending_device_updates WHERE user_nid = %s RETURNING device_id",
            (user_nid,),
        )
    )


def last_stream_id(txn: Txn, user_nid: int) -> int:
    """Return 0 when there has been no update."""
    found = find_value(
        txn, int, "SELECT stream_id FROM device_list_streams WHERE user_nid = %s", (user_nid,)
    )
    return found or 0


def next_stream_id(txn: Txn, user_nid: int, now_ms: int) -> int:
    """Return a new stream_id of the user.

    It is not before the time of day, so that none comes twice after a backup was restored.
    """
    return fetch_value(
        txn,
        int,
        """
        INSERT INTO device_list_streams AS known (user_nid, stream_id) VALUES (%s, %s)
        ON CONFLICT (user_nid) DO UPDATE
           SET stream_id = greatest(known.stream_id + 1, excluded.stream_id)
        RETURNING stream_id""",
        (user_nid, now_ms),
    )
