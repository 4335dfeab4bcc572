"""Which servers something concerns, by the rooms they share with this one.

spec: server-server-api/#edus, v1.19. Invariant: nobody is told of a user or a room who is in no
room with it, as far as is known here; of rooms that lack members, the servers named at the join
count.
"""

from homeserver.core.identifiers import RoomID, ServerName, UserID
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.partial_rooms import PartialRooms
from homeserver.engine.user_rooms import UserRooms


class SharedRooms:
    def __init__(
        self,
        server_name: ServerName,
        user_rooms: UserRooms,
        live_rooms: LiveRooms,
        partial_rooms: PartialRooms,
    ) -> None:
        self.server_name = server_name
        self._user_rooms = user_rooms
        self._live_rooms = live_rooms
        self._partial_rooms = partial_rooms

    async def servers_of_room(self, room_id: RoomID) -> set[ServerName]:
        """Return the other servers that are in a room."""
        room = await self._live_rooms.find(room_id)
        if room is None:
            return set()
        return await self._partial_rooms.list_servers(room) - {self.server_name}

    async def servers_of_user(
        self, user_id: UserID, *, but: RoomID | None = None
    ) -> set[ServerName]:
        """Return the other servers that share a room with a local user.

        but  a room that does not count
        """
        servers: set[ServerName] = set()
        for room_id in list(await self._user_rooms.joined(user_id)):
            if room_id != but:
                servers |= await self.servers_of_room(room_id)
        return servers

    async def is_seen_here(self, user_id: UserID) -> bool:
        """Tell whether a user of another server shares a room with a local one."""
        for room_id in list(await self._user_rooms.joined(user_id)):
            room = await self._live_rooms.find(room_id)
            if room is not None and self.server_name in room.servers:
                return True
        return False
