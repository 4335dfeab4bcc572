"""The directory of published rooms.

spec: client-server-api/#published-room-directory, v1.19.
"""

from dataclasses import dataclass
from typing import Literal

from homeserver.core.identifiers import RoomID, ServerName
from homeserver.core.json_types import JsonObject
from homeserver.errors import Forbidden
from homeserver.requester import Requester
from homeserver.services.federation.remote_directory import RemoteDirectory
from homeserver.services.public_rooms import PublicRooms, RoomsQuery
from homeserver.transport.endpoint import EMPTY, Auth, endpoint

_Visibility = Literal["public", "private"]


@dataclass(frozen=True)
class Visibility:
    visibility: _Visibility = "public"


@dataclass(frozen=True)
class NetworkVisibility:
    visibility: _Visibility


class PublicRoomsAPI:
    def __init__(
        self, public_rooms: PublicRooms, remote: RemoteDirectory, server_name: ServerName
    ) -> None:
        self._public_rooms = public_rooms
        self._remote = remote
        self._server_name = server_name

    @endpoint("getPublicRooms", "GET", "/_matrix/client/v3/publicRooms", auth=Auth.NONE)
    async def get_public_rooms(
        self,
        *,
        limit: int | None = None,
        since: str | None = None,
        server: ServerName | None = None,
    ) -> JsonObject:
        return await self._list(server, RoomsQuery(limit, since))

    @endpoint("queryPublicRooms", "POST", "/_matrix/client/v3/publicRooms", auth=Auth.CLIENT)
    async def query_public_rooms(
        self, body: RoomsQuery, *, server: ServerName | None = None
    ) -> JsonObject:
        return await self._list(server, body)

    async def _list(self, server: ServerName | None, query: RoomsQuery) -> JsonObject:
        if server is None or server == self._server_name:
            return await self._public_rooms.list_page(query)
        return await self._remote.list_page(server, query)

    @endpoint(
        "getRoomVisibilityOnDirectory", "GET", "/_matrix/client/v3/directory/list/room/{roomId}",
        auth=Auth.NONE,
    )  # fmt: skip
    async def get_room_visibility_on_directory(self, room_id: RoomID) -> JsonObject:
        return {"visibility": await self._public_rooms.get_visibility(room_id)}

    @endpoint(
        "setRoomVisibilityOnDirectory", "PUT", "/_matrix/client/v3/directory/list/room/{roomId}",
        auth=Auth.CLIENT,
    )  # fmt: skip
    async def set_room_visibility_on_directory(
        self, requester: Requester, room_id: RoomID, body: Visibility
    ) -> JsonObject:
        await self._public_rooms.set_visibility(
            requester.user_id, room_id, is_public=body.visibility == "public"
        )
        return EMPTY

    @endpoint(
        "updateAppserviceRoomDirectoryVisibility", "PUT",
        "/_matrix/client/v3/directory/list/appservice/{networkId}/{roomId}",
        auth=Auth.APPSERVICE,
    )  # fmt: skip
    async def update_appservice_room_directory_visibility(
        self, requester: Requester, network_id: str, room_id: RoomID, body: NetworkVisibility
    ) -> JsonObject:
        if requester.appservice_id is None:
            raise Forbidden("This is for application services")
        await self._public_rooms.set_network_visibility(
            requester.appservice_id, network_id, room_id, is_public=body.visibility == "public"
        )
        return EMPTY
