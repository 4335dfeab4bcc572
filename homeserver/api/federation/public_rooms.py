"""The directory of published rooms, for other servers.

spec: server-server-api/#published-room-directory, v1.19.
"""

from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from homeserver.errors import Forbidden
from homeserver.services.public_rooms import PublicRooms, RoomsQuery
from homeserver.transport.endpoint import Auth, endpoint

_PATH = "/_matrix/federation/v1/publicRooms"


class FederationPublicRoomsAPI:
    def __init__(self, public_rooms: PublicRooms, *, is_open: bool) -> None:
        """`is_open`: other servers may ask."""
        self._public_rooms = public_rooms
        self._is_open = is_open

    @endpoint("getPublicRooms", "GET", _PATH, auth=Auth.FEDERATION)
    async def get_public_rooms(
        self,
        origin: ServerName,
        *,
        limit: int | None = None,
        since: str | None = None,
        include_all_networks: bool = False,
        third_party_instance_id: str | None = None,
    ) -> JsonObject:
        return await self._list(
            origin,
            RoomsQuery(
                limit,
                since,
                include_all_networks=include_all_networks,
                third_party_instance_id=third_party_instance_id,
            ),
        )

    @endpoint("queryPublicRooms", "POST", _PATH, auth=Auth.FEDERATION)
    async def query_public_rooms(self, origin: ServerName, body: RoomsQuery) -> JsonObject:
        return await self._list(origin, body)

    async def _list(self, origin: ServerName, query: RoomsQuery) -> JsonObject:
        del origin  # who may ask at all is shown the same
        if not self._is_open:
            raise Forbidden("The room directory of this server is not for other servers")
        return await self._public_rooms.list_page(query, for_server=True)
