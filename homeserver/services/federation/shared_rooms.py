"""Which servers something concerns, by the rooms they share with this one.

spec: server-server-api/#edus, v1.19. Invariant: nobody is told of a user or a room who is in no
room with it, as far as is known here; of rooms that lack members, the servers named at the join
count.
"""

from collections.abc import Collection, Mapping

from homeserver.core.identifiers import RoomID, ServerName, UserID
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.user_rooms import UserRooms


class SharedRooms:
    def __init__(
        self, server_name: ServerName, user_rooms: UserRooms, live_rooms: LiveRooms
    ) -> None:
        self.server_name = server_name
        self._user_rooms = user_rooms
        self._live_rooms = live_rooms

    async def servers_of_room(self, room_id: RoomID) -> set[ServerName]:
        """Return the other servers that are in a room."""
        room = await self._live_rooms.find(room_id)
        if room is None:
            return set()
        return room.list_servers() - {self.server_name}

    def has_others(self, room_id: RoomID) -> bool:
        """Tell whether other servers may be in a room; surely, if it is in memory."""
        room = self._live_rooms.find_loaded(room_id)
        return room is None or not room.list_servers() <= {self.server_name}

    async def servers_of_user(self, user_id: UserID) -> set[ServerName]:
        """Return the other servers that share a room with a local user."""
        servers: set[ServerName] = set()
        for room_id in list(await self._user_rooms.joined(user_id)):
            servers |= await self.servers_of_room(room_id)
        return servers

    async def list_met(
        self, user_id: UserID, new: Mapping[RoomID, Collection[ServerName] | None]
    ) -> set[ServerName]:
        """Return the other servers that share none but these rooms with a local user.

        new  rooms; None: all servers there count as new to him, else these
        """
        met: set[ServerName] = set()
        known: set[ServerName] = set()
        for room_id in list(await self._user_rooms.joined(user_id)):
            servers = await self.servers_of_room(room_id)
            fresh = new.get(room_id, ())
            met |= servers if fresh is None else servers.intersection(fresh)
            known |= set() if fresh is None else servers.difference(fresh)
        return met - known

    async def is_seen_here(self, user_id: UserID) -> bool:
        """Tell whether a user of another server shares a room with a local one."""
        for room_id in list(await self._user_rooms.joined(user_id)):
            room = await self._live_rooms.find(room_id)
            if room is not None and self.server_name in room.servers:
                return True
        return False
