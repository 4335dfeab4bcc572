"""What other servers tell of changes of their users' devices and cross-signing keys.

spec: server-server-api/#device-management, #end-to-end-encryption, v1.19. Invariant: a server
speaks of its own users alone, and of users whom nobody here shares a room with nothing is kept.
"""

from homeserver.core.identifiers import ServerName, UserID
from homeserver.core.json_types import JsonObject
from homeserver.services.federation.device_contents import parse_device_update, parse_signing_keys
from homeserver.services.federation.device_resync import DeviceResync
from homeserver.services.federation.edu_contents import get_user_of
from homeserver.services.federation.remote_devices import RemoteDevices


class DeviceEDUs:
    def __init__(self, remote_devices: RemoteDevices, resync: DeviceResync) -> None:
        self._remote_devices = remote_devices
        self._resync = resync

    async def receive_device_list_update(self, origin: ServerName, content: JsonObject) -> None:
        update = parse_device_update(origin, content)
        if await self._remote_devices.concerns(update.user_id):
            is_in = await self._remote_devices.apply_update(update)
            self._note(origin, update.user_id, is_settled=is_in)

    async def receive_signing_key_update(self, origin: ServerName, content: JsonObject) -> None:
        user_id = get_user_of(origin, content)
        keys = parse_signing_keys(user_id, content)
        if await self._remote_devices.concerns(user_id):
            is_in = await self._remote_devices.apply_signing_keys(user_id, keys)
            self._note(origin, user_id, is_settled=is_in)

    def _note(self, origin: ServerName, user_id: UserID, *, is_settled: bool) -> None:
        if not is_settled:
            self._resync.note(user_id)
        self._resync.note_reached(origin)
