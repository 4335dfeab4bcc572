"""Account data, global and for one room.

spec: client-server-api/#client-config, v1.19.
"""

from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.errors import Forbidden
from homeserver.requester import Requester
from homeserver.services.account_data import GLOBAL, AccountData
from homeserver.transport.endpoint import EMPTY, Auth, endpoint

_OF_USER = "/_matrix/client/v3/user/{userId}/account_data/{type}"
_OF_ROOM = "/_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}"


class AccountDataAPI:
    """What users keep on the server for their own devices."""

    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    @endpoint("getAccountData", "GET", _OF_USER, auth=Auth.CLIENT)
    async def get_account_data(
        self,
        requester: Requester,
        user_id: UserID,
        type: str,  # noqa: A002 - the specification's name
    ) -> JsonObject:
        _check_own(requester, user_id)
        return await self._account_data.get(user_id, GLOBAL, type)

    @endpoint("setAccountData", "PUT", _OF_USER, auth=Auth.CLIENT)
    async def set_account_data(
        self,
        requester: Requester,
        user_id: UserID,
        type: str,  # noqa: A002 - the specification's name
        body: JsonObject,
    ) -> JsonObject:
        _check_own(requester, user_id)
        await self._account_data.set(user_id, GLOBAL, type, body)
        return EMPTY

    @endpoint("getAccountDataPerRoom", "GET", _OF_ROOM, auth=Auth.CLIENT)
    async def get_account_data_per_room(
        self,
        requester: Requester,
        user_id: UserID,
        room_id: RoomID,
        type: str,  # noqa: A002 - the specification's name
    ) -> JsonObject:
        _check_own(requester, user_id)
        return await self._account_data.get(user_id, room_id, type)

    @endpoint("setAccountDataPerRoom", "PUT", _OF_ROOM, auth=Auth.CLIENT)
    async def set_account_data_per_room(
        self,
        requester: Requester,
        user_id: UserID,
        room_id: RoomID,
        type: str,  # noqa: A002 - the specification's name
        body: JsonObject,
    ) -> JsonObject:
        _check_own(requester, user_id)
        await self._account_data.set(user_id, room_id, type, body)
        return EMPTY


def _check_own(requester: Requester, user_id: UserID) -> None:
    if user_id != requester.user_id:
        raise Forbidden("Account data is only for its own user")
