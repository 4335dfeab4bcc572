"""Identity keys of devices, as their owners signed them."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import DeviceID, UserID
from homeserver.storage.query import Txn, execute, find_value, list_rows, list_tuples


@dataclass(frozen=True, slots=True)
class DeviceKeys:
    user_nid: int
    device_id: DeviceID
    keys: bytes
    display_name: str | None


def find_device_keys(txn: Txn, user_nid: int, device_id: DeviceID) -> bytes | None:
    keys = find_value(
        txn,
        memoryview,
        "SELECT keys FROM device_keys WHERE user_nid = %s AND device_id = %s",
        (user_nid, device_id),
    )
    return None if keys is None else bytes(keys)


def list_device_keys(txn: Txn, user_nids: Sequence[int]) -> list[DeviceKeys]:
    """Every device with keys of these users, with the name its owner gave it."""
    return list_rows(
        txn,
        DeviceKeys,
        """
        SELECT user_nid, device_id, keys, display_name
          FROM device_keys JOIN devices USING (user_nid, device_id)
         WHERE user_nid = ANY(%s) ORDER BY device_id""",
        (list(user_nids),),
    )


def list_accounts(txn: Txn, user_ids: Sequence[UserID]) -> dict[UserID, int]:
    """Return the numbers of those who have an account here."""
    rows = list_tuples(
        txn,
        """
        SELECT user_id, user_nid FROM users JOIN accounts USING (user_nid)
         WHERE user_id = ANY(%s)""",
        (list(user_ids),),
    )
    return dict(rows)


def upsert_device_keys(txn: Txn, user_nid: int, device_id: DeviceID, keys: bytes) -> None:
    execute(
        txn,
        """
        INSERT INTO device_keys (user_nid, device_id, keys) VALUES (%s, %s, %s)
        ON CONFLICT (user_nid, device_id) DO UPDATE SET keys = excluded.keys""",
        (user_nid, device_id, keys),
    )


def delete_for_devices(txn: Txn, user_nid: int, device_ids: Sequence[DeviceID]) -> bool:
    """Return whether any of the devices had keys."""
    return bool(
        execute(
            txn,
            "DELETE FROM device_keys WHERE user_nid = %s AND device_id = ANY(%s::text[])",
            (user_nid, list(device_ids)),
        )
    )


def has_device_keys(txn: Txn, user_nid: int, device_ids: Sequence[DeviceID]) -> bool:
    return bool(
        find_value(
            txn,
            bool,
            """
            SELECT EXISTS (
                SELECT FROM device_keys WHERE user_nid = %s AND device_id = ANY(%s::text[]))""",
            (user_nid, list(device_ids)),
        )
    )
