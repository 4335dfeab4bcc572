"""Which rooms another server may ask about: the only door to them.

spec: server-server-api/#server-access-control-lists-acls, v1.19. Invariant: a server that a room's
access control list denies learns nothing of the room and tells nothing into it.
"""

from collections import OrderedDict

from homeserver.core.identifiers import EventID, RoomID, ServerName
from homeserver.core.server_acl import ServerACL, parse_server_acl
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.errors import Forbidden, MatrixError, NotFound

_SERVER_ACL = ("m.room.server_acl", "")
_MAX_KEPT = 1_000


class RoomGuard:
    def __init__(self, live_rooms: LiveRooms) -> None:
        self._live_rooms = live_rooms
        self._parsed: OrderedDict[EventID, ServerACL] = OrderedDict()

    async def access_room(self, origin: ServerName, room_id: RoomID) -> LiveRoom:
        """Return the room for a server that its list allows. Raises NotFound, Forbidden."""
        room = await self._live_rooms.find(room_id)
        if room is None:
            raise NotFound("Unknown room")
        if not self.allows(room, origin):
            raise Forbidden("Your server is not allowed in this room")
        return room

    async def access_shared_room(self, origin: ServerName, room_id: RoomID) -> LiveRoom:
        """Return the room for a server that is in it, too. Raises NotFound, Forbidden."""
        room = await self.access_room(origin, room_id)
        if origin not in room.servers and origin not in room.list_servers():
            raise Forbidden("Your server is not in this room")
        return room

    async def access_whole_room(self, origin: ServerName, room_id: RoomID) -> LiveRoom:
        """As `access_shared_room`; refuse as long as the room's state lacks members.

        The code is that of MSC3895: the specification has none for it.
        """
        room = await self.access_shared_room(origin, room_id)
        if room.is_partial:
            raise MatrixError(
                "This server does not know the members of the room yet",
                errcode="M_UNABLE_DUE_TO_PARTIAL_STATE",
                status=403,
            )
        return room

    def allows(self, room: LiveRoom, server: ServerName) -> bool:
        found = room.state_events.get(_SERVER_ACL)
        if found is None:
            return True
        acl = self._parsed.get(found.event.event_id)
        if acl is None or found.is_redacted:
            acl = parse_server_acl(found.shown.content)
            self._parsed[found.event.event_id] = acl
            while len(self._parsed) > _MAX_KEPT:
                self._parsed.popitem(last=False)
        return acl.allows(server)
