"""Spaces as other servers are shown them.

spec: server-server-api/#spaces, v1.19. Invariant: a server is shown a room only if some user of
its could join it, or read it without joining; of a room that this server is not in, nothing is
said.
"""

from homeserver.core.history_visibility import HistoryVisibility
from homeserver.core.identifiers import RoomID, ServerName, server_name_of
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.errors import NotFound
from homeserver.services.federation.room_guard import RoomGuard
from homeserver.services.room_summaries import (
    allowed_rooms,
    children_of,
    find_room_id,
    join_rule_of,
    summary_of,
)

_MAX_CHILDREN = 100
"""So many rooms of a space are described; the others are left out, as if they were not known."""


class ServedSpaces:
    def __init__(self, server_name: ServerName, live_rooms: LiveRooms, guard: RoomGuard) -> None:
        self._server_name = server_name
        self._live_rooms = live_rooms
        self._guard = guard

    async def get_hierarchy(
        self, origin: ServerName, room_id: RoomID, *, suggested_only: bool
    ) -> JsonObject:
        """Return a space and its rooms. Raises NotFound, also for what is not for this server."""
        room = await self._find(room_id)
        if room is None or not await self._is_accessible(origin, room):
            raise NotFound("Unknown room")
        children: list[JsonValue] = []
        inaccessible: list[JsonValue] = []
        named = children_of(room, suggested_only=suggested_only)
        for child in named[:_MAX_CHILDREN]:
            child_id = find_room_id(child["state_key"])
            found = None if child_id is None else await self._find(child_id)
            if found is None:
                continue
            if await self._is_accessible(origin, found):
                children.append(summary_of(found))
            else:
                inaccessible.append(found.room_id)
        return {
            "room": {**summary_of(room), "children_state": list(named)},
            "children": children,
            "inaccessible_children": inaccessible,
        }

    async def _find(self, room_id: RoomID) -> LiveRoom | None:
        room = await self._live_rooms.find(room_id)
        return room if room is not None and self._server_name in room.servers else None

    async def _is_accessible(self, origin: ServerName, room: LiveRoom) -> bool:
        """Tell whether some user of a server could join a room, or read it.

        1. The server takes part, or may.   2. Anybody may join, ask to, or read.
        3. A user is in a room whose members may join.   4. A user is invited.
        """
        if origin in room.servers and self._guard.allows(room, origin):  # 1
            return True
        if not self._guard.allows(room, origin):
            return False
        if room.find_content("m.room.create").get("m.federate") is False:
            return False
        if join_rule_of(room) in ("public", "knock", "knock_restricted"):  # 2
            return True
        if room.history_visibility is HistoryVisibility.WORLD_READABLE:
            return True
        for allowed_id in allowed_rooms(room):  # 3
            allowed = await self._find(allowed_id)
            if allowed is not None and origin in allowed.servers:
                return True
        return any(  # 4
            member.membership == "invite" and server_name_of(user_id) == origin
            for user_id, member in room.members.items()
        )
