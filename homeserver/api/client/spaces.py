"""Spaces, and rooms seen from outside.

spec: client-server-api/#spaces, #room-previews, v1.19.
"""

from homeserver.core.identifiers import RoomID
from homeserver.core.json_types import JsonObject
from homeserver.requester import Requester
from homeserver.services.directory import Directory
from homeserver.services.spaces import HierarchyWish, Spaces
from homeserver.transport.endpoint import Auth, RawJSON, endpoint


class SpacesAPI:
    def __init__(self, spaces: Spaces, directory: Directory) -> None:
        self._spaces = spaces
        self._directory = directory

    @endpoint(
        "getSpaceHierarchy", "GET", "/_matrix/client/v1/rooms/{roomId}/hierarchy",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def get_space_hierarchy(
        self,
        requester: Requester,
        room_id: RoomID,
        *,
        suggested_only: bool = False,
        limit: int | None = None,
        max_depth: int | None = None,
        from_: str | None = None,
    ) -> RawJSON:
        wish = HierarchyWish(suggested_only, limit, max_depth, from_)
        return RawJSON(await self._spaces.get_hierarchy(requester.user_id, room_id, wish))

    @endpoint(
        "getRoomSummary", "GET", "/_matrix/client/v1/room_summary/{roomIdOrAlias}",
        auth=Auth.OPTIONAL,
    )  # fmt: skip
    async def get_room_summary(
        self,
        requester: Requester | None,
        room_id_or_alias: str,
        *,
        via: list[str] | None = None,
    ) -> JsonObject:
        room_id, servers = await self._directory.resolve(room_id_or_alias)
        user_id = None if requester is None else requester.user_id
        return await self._spaces.get_summary(user_id, room_id, [*(via or ()), *servers])
