"""Devices and keys of local users, for other servers.

spec: server-server-api/#device-management, #end-to-end-encryption, v1.19.
"""

from dataclasses import dataclass

from homeserver.core.identifiers import ServerName, UserID
from homeserver.core.json_types import JsonObject
from homeserver.services.e2e_keys import E2EKeys
from homeserver.transport.endpoint import Auth, endpoint


@dataclass(frozen=True)
class UserKeysQuery:
    device_keys: dict[UserID, list[str]]


@dataclass(frozen=True)
class UserKeysClaim:
    one_time_keys: dict[UserID, dict[str, str]]


class UserDevicesAPI:
    """Whom other servers' users encrypt for."""

    def __init__(self, e2e_keys: E2EKeys) -> None:
        self._e2e_keys = e2e_keys

    @endpoint(
        "getUserDevices", "GET", "/_matrix/federation/v1/user/devices/{userId}",
        auth=Auth.FEDERATION,
    )  # fmt: skip
    async def get_user_devices(self, origin: ServerName, user_id: UserID) -> JsonObject:
        del origin  # keys are for everybody
        return await self._e2e_keys.list_devices_for_server(user_id)

    @endpoint(
        "queryUserEncryptionKeys", "POST", "/_matrix/federation/v1/user/keys/query",
        auth=Auth.FEDERATION,
    )  # fmt: skip
    async def query_keys(self, origin: ServerName, body: UserKeysQuery) -> JsonObject:
        del origin  # as above
        return await self._e2e_keys.query_for_server(body.device_keys)

    @endpoint(
        "claimUserEncryptionKeys", "POST", "/_matrix/federation/v1/user/keys/claim",
        auth=Auth.FEDERATION,
    )  # fmt: skip
    async def claim_keys(self, origin: ServerName, body: UserKeysClaim) -> JsonObject:
        del origin  # as above
        return await self._e2e_keys.claim_for_server(body.one_time_keys)
