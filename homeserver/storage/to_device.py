"""Messages that wait for devices.

Invariant: a device has at most one message a position, so positions order what it receives.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import DeviceID, ServerName, UserID
from homeserver.storage.query import Txn, execute, fetch_value, list_rows


@dataclass(frozen=True, slots=True)
class Outgoing:
    user_id: UserID
    device_id: DeviceID | None
    """None: every device of the user."""
    message: bytes
    """JSON as the device will see it."""


@dataclass(frozen=True, slots=True)
class Recipient:
    user_id: UserID
    device_id: DeviceID


@dataclass(frozen=True, slots=True)
class Waiting:
    position: int
    message: bytes


def insert_transaction(
    txn: Txn, user_nid: int, device_id: str, txn_hash: bytes, created_ts: int
) -> bool:
    """Return False when the device has made this transaction already."""
    return bool(
        execute(
            txn,
            """
            INSERT INTO to_device_transactions (user_nid, device_id, txn_hash, created_ts)
            VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING""",
            (user_nid, device_id, txn_hash, created_ts),
        )
    )


def delete_old_transactions(txn: Txn, before_ts: int) -> int:
    return execute(txn, "DELETE FROM to_device_transactions WHERE created_ts < %s", (before_ts,))


def insert_received(txn: Txn, origin: ServerName, id_hash: bytes, now_ms: int) -> bool:
    """Return False when the other server has sent this message before."""
    return bool(
        execute(
            txn,
            """
            INSERT INTO received_to_device (origin, id_hash, received_ts)
            VALUES (%s, %s, %s) ON CONFLICT DO NOTHING""",
            (origin, id_hash, now_ms),
        )
    )


def delete_old_received(txn: Txn, before_ts: int) -> int:
    return execute(txn, "DELETE FROM received_to_device WHERE received_ts < %s", (before_ts,))


def insert_messages(txn: Txn, position: int, outgoing: Sequence[Outgoing]) -> list[Recipient]:
    """Store messages for the devices that exist, and return those.

    A message to one device goes before one to all devices of its user.
    """
    return list_rows(
        txn,
        Recipient,
        """
        WITH sent AS (
            SELECT DISTINCT ON (user_nid, devices.device_id)
                   user_nid, user_id, devices.device_id, outgoing.message
              FROM unnest(%s::text[], %s::text[], %s::bytea[])
                   AS outgoing (user_id, device_id, message)
              JOIN users USING (user_id)
              JOIN devices USING (user_nid)
             WHERE outgoing.device_id IS NULL OR outgoing.device_id = devices.device_id
             ORDER BY user_nid, devices.device_id, outgoing.device_id NULLS LAST),
        stored AS (
            INSERT INTO to_device_messages (user_nid, device_id, position, message)
            SELECT user_nid, device_id, %s, message FROM sent)
        SELECT user_id, device_id FROM sent""",
        (
            [m.user_id for m in outgoing],
            [m.device_id for m in outgoing],
            [m.message for m in outgoing],
            position,
        ),
    )


def list_messages(
    txn: Txn, user_id: UserID, device_id: DeviceID, after: int, up_to: int, limit: int
) -> list[Waiting]:
    """Messages in (after, up_to], in order."""
    return list_rows(
        txn,
        Waiting,
        """
        SELECT position, message FROM to_device_messages
         WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = %s) AND device_id = %s
           AND position > %s AND position <= %s
         ORDER BY position LIMIT %s""",
        (user_id, device_id, after, up_to, limit),
    )


def last_position(txn: Txn, user_id: UserID, device_id: DeviceID) -> int:
    """Return the position of the newest message that waits for the device; 0: there is none."""
    return fetch_value(
        txn,
        int,
        """
        SELECT coalesce(max(position), 0) FROM to_device_messages
         WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = %s) AND device_id = %s""",
        (user_id, device_id),
    )


def delete_messages(txn: Txn, user_id: UserID, device_id: DeviceID, up_to: int) -> int:
    return execute(
        txn,
        """
        DELETE FROM to_device_messages
         WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = %s) AND device_id = %s
           AND position <= %s""",
        (user_id, device_id, up_to),
    )


def delete_for_devices(txn: Txn, user_nid: int, device_ids: Sequence[DeviceID]) -> None:
    """Forget what deleted devices have sent: a later device of that id begins anew.

    Messages for them go with their rows in devices.
    """
    execute(
        txn,
        """
        DELETE FROM to_device_transactions
         WHERE user_nid = %s AND device_id = ANY(%s::text[])""",
        (user_nid, list(device_ids)),
    )
