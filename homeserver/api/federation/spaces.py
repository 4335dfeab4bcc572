"""Spaces of this server's rooms, for other servers.

spec: server-server-api/#spaces, v1.19.
"""

from homeserver.core.identifiers import RoomID, ServerName
from homeserver.core.json_types import JsonObject
from homeserver.services.federation.served_spaces import ServedSpaces
from homeserver.transport.endpoint import Auth, endpoint


class FederationSpacesAPI:
    def __init__(self, spaces: ServedSpaces) -> None:
        self._spaces = spaces

    @endpoint(
        "getSpaceHierarchy", "GET", "/_matrix/federation/v1/hierarchy/{roomId}",
        auth=Auth.FEDERATION,
    )  # fmt: skip
    async def get_space_hierarchy(
        self, origin: ServerName, room_id: RoomID, *, suggested_only: bool = False
    ) -> JsonObject:
        return await self._spaces.get_hierarchy(origin, room_id, suggested_only=suggested_only)
