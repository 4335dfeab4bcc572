"""Aliases of this server, for others.

spec: server-server-api/#querying-for-information, v1.19.
"""

from homeserver.core.identifiers import RoomAlias, ServerName
from homeserver.core.json_types import JsonObject
from homeserver.services.directory import Directory
from homeserver.transport.endpoint import Auth, endpoint


class DirectoryQueriesAPI:
    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    @endpoint(
        "queryRoomDirectory", "GET", "/_matrix/federation/v1/query/directory", auth=Auth.FEDERATION
    )  # fmt: skip
    async def query_room_directory(
        self, origin: ServerName, *, room_alias: RoomAlias
    ) -> JsonObject:
        del origin  # aliases are for everybody
        room_id, servers = await self._directory.resolve_local(room_alias)
        return {"room_id": room_id, "servers": list(servers)}
