"""Forgetting rooms that one has left.

spec: client-server-api/#leaving-rooms, v1.19.
"""

from homeserver.core.identifiers import RoomID, UserID
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.user_rooms import UserRooms
from homeserver.errors import BadRequest, NotFound


class ForgottenRooms:
    def __init__(self, live_rooms: LiveRooms, user_rooms: UserRooms) -> None:
        self._live_rooms = live_rooms
        self._user_rooms = user_rooms

    async def forget(self, user_id: UserID, room_id: RoomID) -> None:
        """Raises NotFound, and BadRequest unless the user has left."""
        room = await self._live_rooms.find(room_id)
        if room is None or room.membership_of(user_id) is None:
            raise NotFound("Unknown room")
        if room.membership_of(user_id) not in ("leave", "ban"):
            raise BadRequest("Leave the room before forgetting it", errcode="M_UNKNOWN")
        await self._user_rooms.forget(user_id, room)
