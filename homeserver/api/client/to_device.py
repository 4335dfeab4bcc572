"""Messages from device to device.

spec: client-server-api/#send-to-device-messaging, v1.19.
"""

from dataclasses import dataclass

from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject
from homeserver.requester import Requester
from homeserver.services.to_device import ToDevice
from homeserver.transport.endpoint import EMPTY, Auth, endpoint


@dataclass(frozen=True)
class Messages:
    messages: dict[UserID, dict[str, JsonObject]]


class ToDeviceAPI:
    """What devices tell each other past all rooms."""

    def __init__(self, to_device: ToDevice) -> None:
        self._to_device = to_device

    @endpoint(
        "sendToDevice", "PUT", "/_matrix/client/v3/sendToDevice/{eventType}/{txnId}",
        auth=Auth.CLIENT,
    )  # fmt: skip
    async def send_to_device(
        self, requester: Requester, event_type: str, txn_id: str, body: Messages
    ) -> JsonObject:
        await self._to_device.send(requester, event_type, txn_id, body.messages)
        return EMPTY
