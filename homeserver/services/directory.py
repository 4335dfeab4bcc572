"""Room aliases, and which rooms a user is in.

spec: client-server-api/#room-aliases, v1.19.
"""

from collections.abc import Iterable, Sequence

from homeserver.core.identifiers import (
    IdentifierInvalid,
    RoomAlias,
    RoomID,
    ServerName,
    UserID,
    parse_room_alias,
    parse_room_id,
    server_name_of,
)
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.user_rooms import UserRooms
from homeserver.errors import Conflict, Forbidden, InvalidParam, NotFound, ServersFailed
from homeserver.services.federation.requests import FederationRequests
from homeserver.services.room_access import RoomAccess
from homeserver.storage import aliases
from homeserver.storage.database import Database
from homeserver.transport.federation_client import ErrorAnswer
from homeserver.transport.outbound import RequestFailed

_MAX_SERVERS = 50
"""Named with an alias."""


class Directory:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        user_rooms: UserRooms,
        access: RoomAccess,
        server_name: ServerName,
        requests: FederationRequests,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._user_rooms = user_rooms
        self._access = access
        self._server_name = server_name
        self._requests = requests

    async def list_joined(self, user_id: UserID) -> Iterable[RoomID]:
        return await self._user_rooms.joined(user_id)

    async def resolve(self, room_id_or_alias: str) -> tuple[RoomID, Sequence[str]]:
        """Return the room and servers that are in it; none are named for a room id.

        Raises InvalidParam, or NotFound for an alias that names no room.
        """
        try:
            if room_id_or_alias.startswith("!"):
                return parse_room_id(room_id_or_alias), []
            alias = parse_room_alias(room_id_or_alias)
        except IdentifierInvalid as error:
            raise InvalidParam(str(error)) from error
        found = await self._db.read(aliases.find_alias, alias)
        if found is not None:
            return found, await self.list_servers(found)
        if server_name_of(alias) == self._server_name:
            raise NotFound(f"{alias} names no room")
        return await self._resolve_remote(alias)

    async def resolve_local(self, alias: RoomAlias) -> tuple[RoomID, Sequence[str]]:
        """Resolve an alias of this server, for another one. Raises NotFound."""
        found = await self._db.read(aliases.find_alias, alias)
        if found is None or server_name_of(alias) != self._server_name:
            raise NotFound(f"{alias} names no room")
        return found, await self.list_servers(found)

    async def _resolve_remote(self, alias: RoomAlias) -> tuple[RoomID, Sequence[str]]:
        server = ServerName(server_name_of(alias) or "")
        try:
            answer = await self._requests.query_directory(server, alias)
            room_id = parse_room_id(str(answer.get("room_id")))
        except ErrorAnswer as error:
            raise NotFound(f"{alias} names no room: {error}") from error
        except RequestFailed as error:
            raise ServersFailed(f"{server} cannot be asked for {alias}: {error}") from error
        except IdentifierInvalid as error:
            raise ServersFailed(f"{server} gave no room for {alias}") from error
        servers = answer.get("servers")
        named = [s for s in servers if isinstance(s, str)] if isinstance(servers, list) else []
        return room_id, [server, *(s for s in named[:_MAX_SERVERS] if s != server)]

    async def list_servers(self, room_id: RoomID) -> Sequence[str]:
        """Servers in the room, this one first."""
        room = await self._live_rooms.find(room_id)
        others = [] if room is None else [s for s in room.servers if s != self._server_name]
        return [self._server_name, *others[:_MAX_SERVERS]]

    async def list_aliases(self, user_id: UserID, room_id: RoomID) -> Iterable[str]:
        room = (await self._access.access_readable(user_id, room_id)).room
        return await self._db.read(aliases.list_aliases, room.room_nid)

    async def set_alias(self, user_id: UserID, alias: RoomAlias, room_id: RoomID) -> None:
        """Raises Forbidden, InvalidParam, or Conflict when the alias is taken."""
        if server_name_of(alias) != self._server_name:
            raise InvalidParam(f"Aliases made here end in :{self._server_name}")
        room = await self._access.access_joined(user_id, room_id)
        if not await self._db.run(aliases.insert_alias, alias, room.room_nid, user_id):
            raise Conflict(f"{alias} is taken", errcode="M_UNKNOWN")

    async def delete_alias(self, user_id: UserID, alias: RoomAlias) -> RoomID:
        """By who made it, or who may set the canonical alias of its room, which is returned."""
        room_id = await self._db.read(aliases.find_alias, alias)
        if room_id is None:
            raise NotFound(f"{alias} names no room")
        creator = await self._db.read(aliases.find_alias_creator, alias)
        room = await self._live_rooms.find(room_id)
        if creator != user_id:
            if room is None or room.membership_of(user_id) != "join":
                raise Forbidden("Somebody else made this alias")
            levels = room.power_levels
            needed = levels.event_level("m.room.canonical_alias", is_state=True)
            if levels.user_level(user_id) < needed:
                raise Forbidden("Somebody else made this alias")
        await self._db.run(aliases.delete_alias, alias)
        return room_id
