"""Profiles.

spec: client-server-api/#profiles, v1.19.
"""

from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject
from homeserver.errors import MissingParam
from homeserver.requester import Requester
from homeserver.services.profiles import Profiles
from homeserver.transport.endpoint import EMPTY, Auth, endpoint


class ProfilesAPI:
    """What users say of themselves."""

    def __init__(self, profiles: Profiles) -> None:
        self._profiles = profiles

    @endpoint("getUserProfile", "GET", "/_matrix/client/v3/profile/{userId}", auth=Auth.NONE)
    async def get_user_profile(self, user_id: UserID) -> JsonObject:
        return await self._profiles.get(user_id)

    @endpoint(
        "getProfileField", "GET", "/_matrix/client/v3/profile/{userId}/{keyName}", auth=Auth.NONE
    )
    async def get_profile_field(self, user_id: UserID, key_name: str) -> JsonObject:
        return {key_name: await self._profiles.get_field(user_id, key_name)}

    @endpoint(
        "setProfileField", "PUT", "/_matrix/client/v3/profile/{userId}/{keyName}",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def set_profile_field(
        self, requester: Requester, user_id: UserID, key_name: str, body: JsonObject
    ) -> JsonObject:
        if key_name not in body:
            raise MissingParam(f"{key_name} is required")
        await self._profiles.set_field(requester, user_id, key_name, body[key_name])
        return EMPTY

    @endpoint(
        "deleteProfileField", "DELETE", "/_matrix/client/v3/profile/{userId}/{keyName}",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def delete_profile_field(
        self, requester: Requester, user_id: UserID, key_name: str
    ) -> JsonObject:
        await self._profiles.delete_field(requester, user_id, key_name)
        return EMPTY
