"""Filters of sync.

spec: client-server-api/#filtering, v1.19.
"""

from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject
from homeserver.errors import Forbidden
from homeserver.requester import Requester
from homeserver.services.filters import Filters
from homeserver.transport.endpoint import Auth, RawJSON, endpoint


class FiltersAPI:
    """What clients upload once to name it in every sync."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters

    @endpoint("defineFilter", "POST", "/_matrix/client/v3/user/{userId}/filter", auth=Auth.CLIENT)
    async def define_filter(
        self, requester: Requester, user_id: UserID, body: JsonObject
    ) -> JsonObject:
        _check_own(requester, user_id)
        return {"filter_id": await self._filters.define(user_id, body)}

    @endpoint(
        "getFilter", "GET", "/_matrix/client/v3/user/{userId}/filter/{filterId}", auth=Auth.CLIENT
    )
    async def get_filter(self, requester: Requester, user_id: UserID, filter_id: str) -> RawJSON:
        _check_own(requester, user_id)
        return RawJSON(await self._filters.get_definition(user_id, filter_id))


def _check_own(requester: Requester, user_id: UserID) -> None:
    if user_id != requester.user_id:
        raise Forbidden("Filters are only for their own user")
