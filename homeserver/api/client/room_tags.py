"""Tags that a user puts on rooms.

spec: client-server-api/#room-tagging, v1.19.
"""

from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.errors import Forbidden
from homeserver.requester import Requester
from homeserver.services.account_data import AccountData
from homeserver.transport.endpoint import EMPTY, Auth, endpoint

_TAGS = "/_matrix/client/v3/user/{userId}/rooms/{roomId}/tags"
_TAG = _TAGS + "/{tag}"


class RoomTagsAPI:
    """Favourites and the like."""

    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    @endpoint("getRoomTags", "GET", _TAGS, auth=Auth.CLIENT)
    async def get_room_tags(
        self, requester: Requester, user_id: UserID, room_id: RoomID
    ) -> JsonObject:
        _check_own(requester, user_id)
        return {"tags": await self._account_data.list_tags(user_id, room_id)}

    @endpoint("setRoomTag", "PUT", _TAG, auth=Auth.CLIENT)
    async def set_room_tag(
        self, requester: Requester, user_id: UserID, room_id: RoomID, tag: str, body: JsonObject
    ) -> JsonObject:
        _check_own(requester, user_id)
        await self._account_data.set_tag(user_id, room_id, tag, body)
        return EMPTY

    @endpoint("deleteRoomTag", "DELETE", _TAG, auth=Auth.CLIENT)
    async def delete_room_tag(
        self, requester: Requester, user_id: UserID, room_id: RoomID, tag: str
    ) -> JsonObject:
        _check_own(requester, user_id)
        await self._account_data.delete_tag(user_id, room_id, tag)
        return EMPTY


def _check_own(requester: Requester, user_id: UserID) -> None:
    if user_id != requester.user_id:
        raise Forbidden("Tags are only for their own user")
