"""Devices of users of other servers, kept as long as they share a room with a local user."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import DeviceID, UserID
from homeserver.storage.query import (
    Txn,
    execute,
    fetch_value,
    find_row,
    insert_many,
    list_rows,
    list_tuples,
    list_values,
)


@dataclass(frozen=True, slots=True)
class DeviceList:
    user_nid: int
    stream_id: int
    needs_resync: bool
    marks: int


@dataclass(frozen=True, slots=True)
class RemoteDevice:
    device_id: DeviceID
    keys: bytes
    """Canonical JSON."""
    display_name: str | None


@dataclass(frozen=True, slots=True)
class DeviceOfUser:
    user_nid: int
    device_id: DeviceID
    keys: bytes
    display_name: str | None


def find_list(txn: Txn, user_nid: int) -> DeviceList | None:
    """The row stays locked until the transaction ends."""
    return find_row(
        txn,
        DeviceList,
        """
        SELECT user_nid, stream_id, needs_resync, marks FROM remote_device_lists
         WHERE user_nid = %s FOR UPDATE""",
        (user_nid,),
    )


def list_followed(
    txn: Txn, user_ids: Sequence[UserID], *, settled: bool = False
) -> dict[UserID, int]:
    """Return the numbers of those whose lists are kept; with `settled`, whose are up to date."""
    rows = list_tuples(
        txn,
        """
        SELECT user_id, user_nid FROM users JOIN remote_device_lists USING (user_nid)
         WHERE user_id = ANY(%s) AND NOT (%s AND needs_resync)""",
        (list(user_ids), settled),
    )
    return dict(rows)


def list_to_resync(txn: Txn) -> list[UserID]:
    return [
        UserID(user_id)
        for user_id in list_values(
            txn,
            str,
            """
            SELECT user_id FROM users JOIN remote_device_lists USING (user_nid)
             WHERE needs_resync ORDER BY user_nid""",
        )
    ]


def mark_for_resync(txn: Txn, user_nid: int) -> int:
    """Begin to keep the list of a user, or find it wanting; return the number of the mark."""
    return fetch_value(
        txn,
        int,
        """
        INSERT INTO remote_device_lists AS known (user_nid) VALUES (%s)
        ON CONFLICT (user_nid) DO UPDATE SET needs_resync = true, marks = known.marks + 1
        RETURNING marks""",
        (user_nid,),
    )


def settle(txn: Txn, user_nid: int, stream_id: int, marks: int) -> None:
    """Say that the list is that of `stream_id`, unless it was found wanting since `marks`."""
    execute(
        txn,
        """
        UPDATE remote_device_lists SET stream_id = %s, needs_resync = marks <> %s
         WHERE user_nid = %s""",
        (stream_id, marks, user_nid),
    )


def update_stream_id(txn: Txn, user_nid: int, stream_id: int) -> None:
    execute(
        txn,
        "UPDATE remote_device_lists SET stream_id = %s WHERE user_nid = %s",
        (stream_id, user_nid),
    )


def delete_lists(txn: Txn, user_ids: Sequence[UserID]) -> list[int]:
    """Forget the lists of these users with their devices; return whose there were."""
    return list_values(
        txn,
        int,
        """
        DELETE FROM remote_device_lists
         WHERE user_nid IN (SELECT user_nid FROM users WHERE user_id = ANY(%s))
        RETURNING user_nid""",
        (list(user_ids),),
    )


def list_strangers(txn: Txn, joined: int) -> list[UserID]:
    """Return those whose lists are kept although they share no room with a local user.

    joined  the number of that membership
    """
    return [
        UserID(user_id)
        for user_id in list_values(
            txn,
            str,
            """
            SELECT user_id FROM remote_device_lists AS known JOIN users USING (user_nid)
             WHERE NOT EXISTS (
                   SELECT FROM room_memberships AS theirs
                     JOIN room_memberships AS ours USING (room_nid)
                     JOIN accounts ON accounts.user_nid = ours.user_nid
                    WHERE theirs.user_nid = known.user_nid
                      AND theirs.membership = %s AND ours.membership = %s)""",
            (joined, joined),
        )
    ]


def list_devices(txn: Txn, user_nids: Sequence[int]) -> list[DeviceOfUser]:
    return list_rows(
        txn,
        DeviceOfUser,
        """
        SELECT user_nid, device_id, keys, display_name FROM remote_devices
         WHERE user_nid = ANY(%s) ORDER BY device_id""",
        (list(user_nids),),
    )


def upsert_devices(txn: Txn, user_nid: int, devices: Sequence[RemoteDevice]) -> None:
    insert_many(
        txn,
        """
        INSERT INTO remote_devices (user_nid, device_id, keys, display_name) VALUES %s
        ON CONFLICT (user_nid, device_id) DO UPDATE
           SET keys = excluded.keys, display_name = excluded.display_name""",
        [(user_nid, d.device_id, d.keys, d.display_name) for d in devices],
    )


def delete_devices(txn: Txn, user_nid: int, device_ids: Sequence[DeviceID]) -> None:
    execute(
        txn,
        "DELETE FROM remote_devices WHERE user_nid = %s AND device_id = ANY(%s::text[])",
        (user_nid, list(device_ids)),
    )
