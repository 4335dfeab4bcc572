"""Profiles of local users, for other servers.

spec: server-server-api/#querying-for-information, v1.19.
"""

from homeserver.core.identifiers import ServerName, UserID
from homeserver.core.json_types import JsonObject
from homeserver.services.profiles import Profiles
from homeserver.transport.endpoint import Auth, endpoint


class ProfileQueriesAPI:
    def __init__(self, profiles: Profiles) -> None:
        self._profiles = profiles

    @endpoint(
        "queryProfile", "GET", "/_matrix/federation/v1/query/profile", auth=Auth.FEDERATION
    )  # fmt: skip
    async def query_profile(
        self, origin: ServerName, *, user_id: UserID, field: str | None = None
    ) -> JsonObject:
        del origin  # profiles are for everybody
        profile = await self._profiles.get_local(user_id)
        if field is None:
            return profile
        return {field: profile[field]} if field in profile else {}
