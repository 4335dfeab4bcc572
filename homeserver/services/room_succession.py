"""Users' own settings follow them from a room to the one that replaces it.

spec: client-server-api/#room-upgrades (server behaviour), v1.19. Tags, the place among direct chats
and push rules about the old room are copied once its user joins the new one.
Invariant: a room is a successor only if both rooms say so, as anybody can claim a predecessor.
"""

import logging
from collections.abc import Sequence

from homeserver.background import Background
from homeserver.core.identifiers import RoomID, ServerName, UserID, server_name_of
from homeserver.engine.commit_loop import Committed
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.errors import InvalidParam, TooLarge
from homeserver.services.account_data import AccountData
from homeserver.services.push_rules import PushRules

logger = logging.getLogger(__name__)


class RoomSuccession:
    def __init__(
        self,
        live_rooms: LiveRooms,
        account_data: AccountData,
        push_rules: PushRules,
        background: Background,
        server_name: ServerName,
    ) -> None:
        self._live_rooms = live_rooms
        self._account_data = account_data
        self._push_rules = push_rules
        self._background = background
        self._server_name = server_name

    def note_committed(self, committed: Sequence[Committed]) -> None:
        for each in committed:
            event, replaced = each.event.event, each.event.replaced
            if event.type != MEMBER or event.membership != "join":
                continue
            is_new = replaced is None or replaced.membership != "join"
            if not is_new or server_name_of(event.state_key or "") != self._server_name:
                continue
            room = self._live_rooms.find_loaded(each.room_id)
            if room is not None and predecessor_of(room) is not None:
                follow = self.follow(UserID(event.state_key or ""), each.room_id)
                self._background.run("room succession", follow)

    async def follow(self, user_id: UserID, room_id: RoomID) -> None:
        """Copy the user's settings of the room that this one replaces, if he was in there."""
        room = await self._live_rooms.find(room_id)
        old_id = None if room is None else predecessor_of(room)
        old = None if old_id is None else await self._live_rooms.find(old_id)
        if old is None or successor_of(old) != room_id:
            return
        member = old.members.get(user_id)
        if member is None or member.joined_nid is None:
            return
        try:
            await self._account_data.follow_room(user_id, old.room_id, room_id)
            await self._push_rules.follow_room(user_id, old.room_id, room_id)
        except (InvalidParam, TooLarge) as error:
            logger.info("Settings do not follow room=%s: %s", room_id, error)


def predecessor_of(room: LiveRoom) -> RoomID | None:
    """Return the room that this one says it replaces."""
    named = room.find_content("m.room.create").get("predecessor")
    room_id = named.get("room_id") if isinstance(named, dict) else None
    return RoomID(room_id) if isinstance(room_id, str) else None


def successor_of(room: LiveRoom) -> RoomID | None:
    """Return the room that this one says it is replaced by."""
    room_id = room.find_content("m.room.tombstone").get("replacement_room")
    return RoomID(room_id) if isinstance(room_id, str) else None
