"""Devices of a user, and how they go: with their sessions, keys and waiting messages.

spec: client-server-api/#device-management, v1.19
Invariant: a device and everything that belongs to it are deleted in one transaction.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict

from homeserver.core.identifiers import DeviceID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.errors import NotFound
from homeserver.services.sessions import Sessions, check_device_id, check_device_name
from homeserver.storage import accounts, device_keys, device_lists, device_updates, devices
from homeserver.storage.accounts import Account
from homeserver.storage.database import Database
from homeserver.storage.devices import Device
from homeserver.storage.query import Txn

DeleteForDevices = Callable[[Txn, int, Sequence[DeviceID]], object]
"""Deletes what one feature keeps for devices of a user (by number), in the same transaction."""
DevicesChanged = Callable[[UserID, Sequence[DeviceID]], Awaitable[object]]
"""Told after the commit that devices of a user are gone or renamed."""


class Devices:
    def __init__(
        self,
        database: Database,
        sessions: Sessions,
        *,
        device_data: Sequence[DeleteForDevices],
        changed: DevicesChanged,
    ) -> None:
        self._db = database
        self._sessions = sessions
        self._device_data = device_data
        self._changed = changed

    async def list_devices(self, user_id: UserID) -> list[Device]:
        account = await self._find_account(user_id)
        if account is None:
            return []
        return await self._db.read(devices.list_devices, account.user_nid)

    async def get_device(self, user_id: UserID, device_id: DeviceID) -> Device:
        """Raises NotFound."""
        account = await self._find_account(user_id)
        if account is not None and "\0" not in device_id:
            device = await self._db.read(devices.find_device, account.user_nid, device_id)
            if device is not None:
                return device
        raise NotFound("There is no such device")

    async def rename(self, user_id: UserID, device_id: DeviceID, display_name: str) -> None:
        """Raises NotFound."""
        check_device_name(display_name)
        account = await self._find_account(user_id)
        if (
            account is None
            or "\0" in device_id
            or not await self._db.run(_rename, account.user_nid, device_id, display_name)
        ):
            raise NotFound("There is no such device")
        await self._changed(user_id, [device_id])

    async def create_or_rename(
        self, user_id: UserID, device_id: DeviceID, display_name: str | None
    ) -> bool:
        """Make a device without a session, as application services may; True: it is a new one."""
        device = Device(check_device_id(device_id), check_device_name(display_name))
        account = await self._find_account(user_id)
        if account is None:
            raise NotFound("There is no such user")
        if await self._db.run(devices.upsert_device, account.user_nid, device):
            return True
        if display_name is not None:
            await self.rename(user_id, device_id, display_name)
        return False

    async def delete(self, user_id: UserID, device_ids: Sequence[DeviceID]) -> None:
        """Delete the devices and end their sessions; those that do not exist are no error."""
        known = [device_id for device_id in device_ids if "\0" not in device_id]
        await self._delete(user_id, known, None)

    async def delete_all(self, user_id: UserID, *, keep: DeviceID | None = None) -> None:
        await self._delete(user_id, None, keep)

    async def _delete(
        self, user_id: UserID, device_ids: Sequence[DeviceID] | None, keep: DeviceID | None
    ) -> None:
        account = await self._find_account(user_id)
        if account is None:
            return
        try:
            gone = await self._db.run(
                delete_devices, account.user_nid, device_ids, keep, self._device_data
            )
        finally:
            self._sessions.forget(account.user_nid, None)
        if gone:
            await self._changed(user_id, gone)

    async def _find_account(self, user_id: UserID) -> Account | None:
        return await self._db.read(accounts.find_account, user_id)


def device_body(device: Device) -> JsonObject:
    """Return what clients are told of a device."""
    return {key: value for key, value in asdict(device).items() if value is not None}


def _rename(txn: Txn, user_nid: int, device_id: DeviceID, display_name: str) -> bool:
    """Return False when there is no such device."""
    if not devices.update_display_name(txn, user_nid, device_id, display_name):
        return False
    if device_keys.has_device_keys(txn, user_nid, [device_id]):
        device_lists.mark_pending(txn, user_nid)
        device_updates.mark(txn, user_nid, [device_id])
    return True


def delete_devices(
    txn: Txn,
    user_nid: int,
    device_ids: Sequence[DeviceID] | None,
    keep: DeviceID | None,
    device_data: Sequence[DeleteForDevices],
) -> list[DeviceID]:
    """Delete devices (None: all but `keep`) with all that is kept for them; return those gone."""
    if device_ids is None:
        known = devices.list_devices(txn, user_nid)
        device_ids = [device.device_id for device in known if device.device_id != keep]
    gone = devices.delete_devices(txn, user_nid, device_ids)
    if gone:
        for delete_for_devices in device_data:
            delete_for_devices(txn, user_nid, gone)
    return gone
