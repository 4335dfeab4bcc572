"""Creating and upgrading rooms, aliases, and which rooms a user is in.

spec: client-server-api/#creation, #room-upgrades, #room-aliases, #room-membership, v1.19.
"""

from dataclasses import dataclass

from homeserver.core.identifiers import RoomAlias, RoomID
from homeserver.core.json_types import JsonObject
from homeserver.requester import Requester
from homeserver.services.directory import Directory
from homeserver.services.messages import Messages
from homeserver.services.room_creation import RoomCreation, RoomWish
from homeserver.services.room_upgrades import RoomUpgrades, UpgradeWish
from homeserver.transport.endpoint import EMPTY, Auth, endpoint


@dataclass(frozen=True)
class AliasOf:
    room_id: RoomID


class RoomsAPI:
    """Making rooms and finding them."""

    def __init__(
        self,
        creation: RoomCreation,
        upgrades: RoomUpgrades,
        directory: Directory,
        messages: Messages,
    ) -> None:
        self._creation = creation
        self._upgrades = upgrades
        self._directory = directory
        self._messages = messages

    @endpoint("createRoom", "POST", "/_matrix/client/v3/createRoom", auth=Auth.CLIENT)
    async def create_room(self, requester: Requester, body: RoomWish) -> JsonObject:
        return {"room_id": await self._creation.create(requester.user_id, body)}

    @endpoint("upgradeRoom", "POST", "/_matrix/client/v3/rooms/{roomId}/upgrade", auth=Auth.CLIENT)
    async def upgrade_room(
        self, requester: Requester, room_id: RoomID, body: UpgradeWish
    ) -> JsonObject:
        new_id = await self._upgrades.upgrade(requester.user_id, room_id, body)
        return {"replacement_room": new_id}

    @endpoint("getJoinedRooms", "GET", "/_matrix/client/v3/joined_rooms", auth=Auth.CLIENT)
    async def get_joined_rooms(self, requester: Requester) -> JsonObject:
        return {"joined_rooms": list(await self._directory.list_joined(requester.user_id))}

    @endpoint(
        "getRoomIdByAlias", "GET", "/_matrix/client/v3/directory/room/{roomAlias}", auth=Auth.NONE
    )
    async def get_room_id_by_alias(self, room_alias: RoomAlias) -> JsonObject:
        room_id, servers = await self._directory.resolve(room_alias)
        return {"room_id": room_id, "servers": list(servers)}

    @endpoint(
        "setRoomAlias", "PUT", "/_matrix/client/v3/directory/room/{roomAlias}", auth=Auth.CLIENT
    )
    async def set_room_alias(
        self, requester: Requester, room_alias: RoomAlias, body: AliasOf
    ) -> JsonObject:
        await self._directory.set_alias(requester.user_id, room_alias, body.room_id)
        return EMPTY

    @endpoint(
        "deleteRoomAlias", "DELETE", "/_matrix/client/v3/directory/room/{roomAlias}",
        auth=Auth.CLIENT,
    )  # fmt: skip
    async def delete_room_alias(self, requester: Requester, room_alias: RoomAlias) -> JsonObject:
        room_id = await self._directory.delete_alias(requester.user_id, room_alias)
        await self._messages.withdraw_alias(requester.user_id, room_id, room_alias)
        return EMPTY

    @endpoint(
        "getLocalAliases", "GET", "/_matrix/client/v3/rooms/{roomId}/aliases",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def get_local_aliases(self, requester: Requester, room_id: RoomID) -> JsonObject:
        return {"aliases": list(await self._directory.list_aliases(requester.user_id, room_id))}
