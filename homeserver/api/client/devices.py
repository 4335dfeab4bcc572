"""Devices of the requester.

spec: client-server-api/#device-management, v1.19.
"""

from dataclasses import asdict, dataclass, field

from homeserver.core.identifiers import DeviceID
from homeserver.core.json_types import JsonObject
from homeserver.requester import Requester
from homeserver.services.devices import Devices, device_body
from homeserver.services.ui_auth import PASSWORD_FLOWS, UIAuth
from homeserver.transport.endpoint import EMPTY, Auth, RawJSON, endpoint


@dataclass(frozen=True)
class DeviceUpdate:
    display_name: str | None = None


@dataclass(frozen=True)
class DeviceDeletion:
    auth: JsonObject | None = field(default=None, repr=False)


@dataclass(frozen=True)
class DevicesDeletion:
    devices: list[DeviceID]
    auth: JsonObject | None = field(default=None, repr=False)


class DevicesAPI:
    """What a user is logged in with."""

    def __init__(self, devices: Devices, ui_auth: UIAuth) -> None:
        self._devices = devices
        self._ui_auth = ui_auth

    @endpoint("getDevices", "GET", "/_matrix/client/v3/devices", auth=Auth.CLIENT)
    async def get_devices(self, requester: Requester) -> JsonObject:
        devices = await self._devices.list_devices(requester.user_id)
        return {"devices": [device_body(device) for device in devices]}

    @endpoint("getDevice", "GET", "/_matrix/client/v3/devices/{deviceId}", auth=Auth.CLIENT)
    async def get_device(self, requester: Requester, device_id: DeviceID) -> JsonObject:
        return device_body(await self._devices.get_device(requester.user_id, device_id))

    @endpoint("updateDevice", "PUT", "/_matrix/client/v3/devices/{deviceId}", auth=Auth.CLIENT)
    async def update_device(
        self, requester: Requester, device_id: DeviceID, body: DeviceUpdate
    ) -> RawJSON:
        made = False
        if requester.appservice_id is not None:
            made = await self._devices.create_or_rename(
                requester.user_id, device_id, body.display_name
            )
        elif body.display_name is None:
            await self._devices.get_device(requester.user_id, device_id)
        else:
            await self._devices.rename(requester.user_id, device_id, body.display_name)
        return RawJSON(b"{}", status=201 if made else 200)

    @endpoint("deleteDevice", "DELETE", "/_matrix/client/v3/devices/{deviceId}", auth=Auth.CLIENT)
    async def delete_device(
        self, requester: Requester, device_id: DeviceID, body: DeviceDeletion
    ) -> JsonObject:
        await self._ui_auth.check(
            asdict(body), "deleteDevice", requester, PASSWORD_FLOWS, target=device_id
        )
        await self._devices.delete(requester.user_id, [device_id])
        return EMPTY

    @endpoint("deleteDevices", "POST", "/_matrix/client/v3/delete_devices", auth=Auth.CLIENT)
    async def delete_devices(self, requester: Requester, body: DevicesDeletion) -> JsonObject:
        await self._ui_auth.check(asdict(body), "deleteDevices", requester, PASSWORD_FLOWS)
        await self._devices.delete(requester.user_id, body.devices)
        return EMPTY
