"""The only doors to a room: each loads it and authorises at once.

spec: client-server-api/#room-history-visibility, v1.19. An unknown room and one the user may not
see are told apart by nobody: both are forbidden.
"""

from dataclasses import dataclass

from homeserver.core.history_visibility import HistoryVisibility
from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.partial_rooms import PartialRooms
from homeserver.engine.user_rooms import UserRooms
from homeserver.errors import Forbidden
from homeserver.storage import events
from homeserver.storage.database import Database
from homeserver.storage.events import encode_event_id


@dataclass(frozen=True, slots=True)
class ReadableRoom:
    """A room that the user may read, at least up to a point."""

    room: LiveRoom
    up_to: int | None
    """Number of the event that ended the user's membership; None: still in (or world readable)."""


class RoomAccess:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        user_rooms: UserRooms,
        partial_rooms: PartialRooms,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._user_rooms = user_rooms
        self._partial_rooms = partial_rooms

    async def access_joined(self, user_id: UserID, room_id: RoomID) -> LiveRoom:
        """Raises Forbidden unless the user is joined."""
        room = await self._live_rooms.find(room_id)
        if room is None or room.membership_of(user_id) != "join":
            raise Forbidden("You are not in this room")
        return room

    async def access_whole(self, user_id: UserID, room_id: RoomID) -> LiveRoom:
        """As `access_joined`; return when all members are known.

        Raises ServiceUnavailable if that takes long.
        """
        await self.access_joined(user_id, room_id)
        await self._partial_rooms.wait(room_id)
        return await self.access_joined(user_id, room_id)

    async def access_whole_readable(
        self, user_id: UserID, room_id: RoomID, about: UserID | None = None
    ) -> ReadableRoom:
        """As `access_readable`; return when all members are known, or what `about` is.

        Raises ServiceUnavailable if that takes long.
        """
        await self.access_readable(user_id, room_id)
        if about is None:
            await self._partial_rooms.wait(room_id)
        else:
            await self._partial_rooms.wait_for_member(room_id, about)
        return await self.access_readable(user_id, room_id)

    async def access_readable(self, user_id: UserID, room_id: RoomID) -> ReadableRoom:
        """Raises Forbidden unless the user is or was in the room, or anybody may read it."""
        room = await self._live_rooms.find(room_id)
        if room is None:
            raise Forbidden("You are not in this room")
        member = room.members.get(user_id)
        if member is not None and member.membership == "join":
            return ReadableRoom(room, None)
        if room.history_visibility is HistoryVisibility.WORLD_READABLE:
            return ReadableRoom(room, None)
        if member is None or member.left_nid is None or member.membership not in ("leave", "ban"):
            raise Forbidden("You are not in this room")
        if room_id not in await self._user_rooms.rooms_of(user_id):
            raise Forbidden("You have forgotten this room")
        return ReadableRoom(room, member.left_nid)

    async def find_event_nid(self, room: LiveRoom, event_id: EventID) -> int | None:
        for found in reversed(room.recent):
            if found.event.event_id == event_id:
                return found.event_nid
        try:
            stored_id = encode_event_id(room.version, event_id)
        except ValueError:
            return None
        return await self._db.read(events.find_event_nid, room.room_nid, stored_id)
