"""Presence. spec: client-server-api/#presence, v1.19."""

from dataclasses import dataclass
from typing import Literal

from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject
from homeserver.errors import Forbidden
from homeserver.requester import Requester
from homeserver.services.presence import Presence
from homeserver.transport.endpoint import EMPTY, Auth, endpoint


@dataclass(frozen=True)
class NewPresence:
    presence: Literal["online", "offline", "unavailable"]
    status_msg: str | None = None


class PresenceAPI:
    """Who is there."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence

    @endpoint(
        "setPresence", "PUT", "/_matrix/client/v3/presence/{userId}/status",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def set_presence(
        self, requester: Requester, user_id: UserID, body: NewPresence
    ) -> JsonObject:
        if user_id != requester.user_id:
            raise Forbidden("You can set your own presence only")
        self._presence.set_own(user_id, requester.device_id, body.presence, body.status_msg)
        return EMPTY

    @endpoint("getPresence", "GET", "/_matrix/client/v3/presence/{userId}/status", auth=Auth.CLIENT)
    async def get_presence(self, requester: Requester, user_id: UserID) -> JsonObject:
        return await self._presence.get(requester.user_id, user_id)
