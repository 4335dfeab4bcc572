"""Devices of this server's users; each session belongs to one."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import DeviceID
from homeserver.storage.query import Txn, execute, fetch_value, find_row, list_rows, list_values


@dataclass(frozen=True, slots=True)
class Device:
    device_id: DeviceID
    display_name: str | None = None
    last_seen_ts: int | None = None
    last_seen_ip: str | None = None


def upsert_device(txn: Txn, user_nid: int, device: Device) -> bool:
    """Store the device; a known one keeps its name and learns when it was last seen.

    Return whether it is a new one.
    """
    return fetch_value(
        txn,
        bool,
        """
        INSERT INTO devices (user_nid, device_id, display_name, last_seen_ts, last_seen_ip)
        VALUES (%s, %s, %s, %s, %s)
        ON CONFLICT (user_nid, device_id) DO UPDATE
           SET last_seen_ts = coalesce(excluded.last_seen_ts, devices.last_seen_ts),
               last_seen_ip = coalesce(excluded.last_seen_ip, devices.last_seen_ip)
        RETURNING xmax = 0""",  # a row that was there before has been locked
        (
            user_nid,
            device.device_id,
            device.display_name,
            device.last_seen_ts,
            device.last_seen_ip,
        ),
    )


def find_device(txn: Txn, user_nid: int, device_id: DeviceID) -> Device | None:
    return find_row(
        txn,
        Device,
        """
        SELECT device_id, display_name, last_seen_ts, last_seen_ip
          FROM devices WHERE user_nid = %s AND device_id = %s""",
        (user_nid, device_id),
    )


def list_devices(txn: Txn, user_nid: int) -> list[Device]:
    return list_rows(
        txn,
        Device,
        """
        SELECT device_id, display_name, last_seen_ts, last_seen_ip
          FROM devices WHERE user_nid = %s ORDER BY device_id""",
        (user_nid,),
    )


def update_display_name(txn: Txn, user_nid: int, device_id: DeviceID, display_name: str) -> bool:
    """Return False when the user has no such device."""
    return bool(
        execute(
            txn,
            "UPDATE devices SET display_name = %s WHERE user_nid = %s AND device_id = %s",
            (display_name, user_nid, device_id),
        )
    )


def update_last_seen(
    txn: Txn, user_nid: int, device_id: DeviceID, last_seen_ts: int, last_seen_ip: str
) -> None:
    execute(
        txn,
        """
        UPDATE devices SET last_seen_ts = %s, last_seen_ip = %s
         WHERE user_nid = %s AND device_id = %s""",
        (last_seen_ts, last_seen_ip, user_nid, device_id),
    )


def delete_devices(txn: Txn, user_nid: int, device_ids: Sequence[DeviceID]) -> list[DeviceID]:
    """Delete these devices with their tokens, and return those that there were."""
    return [
        DeviceID(device_id)
        for device_id in list_values(
            txn,
            str,
            """
            DELETE FROM devices WHERE user_nid = %s AND device_id = ANY(%s::text[])
            RETURNING device_id""",
            (user_nid, list(device_ids)),
        )
    ]
