"""What filters ask of a room: its type, whether it is encrypted, the rooms of a space.

Invariant: of a room that the user is not in, nothing but what the stripped state says, or, of one
he has been in, what was so when he left.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from homeserver.core.identifiers import RoomID, UserID
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.user_rooms import RoomOfUser
from homeserver.services.sync.rooms import RoomParts

_MAX_REMEMBERED = 200_000


@dataclass(frozen=True, slots=True)
class Facts:
    at: int
    """Position they were true at."""
    room_type: str | None
    is_encrypted: bool


_NOTHING = Facts(0, None, is_encrypted=False)


class RoomFacts:
    def __init__(self, live_rooms: LiveRooms, room_parts: RoomParts) -> None:
        self._live_rooms = live_rooms
        self._room_parts = room_parts
        self._joined: OrderedDict[int, Facts] = OrderedDict()
        """By room number: a room is loaded to ask it only if it has moved since."""

    def find(self, mine: RoomOfUser, position: int) -> Facts | None:
        """Return what is known of a room that the user is in and that has not moved since."""
        known = self._joined.get(mine.room_nid) if mine.membership == "join" else None
        return known if known is not None and known.at >= position else None

    async def of(self, user_id: UserID, mine: RoomOfUser, position: int) -> Facts:
        """`position` is the room's newest event."""
        if mine.membership in ("invite", "knock"):
            return _of_stripped(await self._room_parts.stripped_state(user_id, mine))
        if mine.membership != "join":
            if mine.joined_nid is None:
                return _NOTHING
            room = await self._live_rooms.find(mine.room_id)
            return _NOTHING if room is None else _of_room(room, mine.left_nid or 0)
        known = self._joined.get(mine.room_nid)
        if known is None or known.at < position:
            room = await self._live_rooms.find(mine.room_id)
            if room is None:
                return _NOTHING
            known = self._joined[mine.room_nid] = _of_room(room, room.last_event)
            if len(self._joined) > _MAX_REMEMBERED:
                self._joined.popitem(last=False)
        self._joined.move_to_end(mine.room_nid)
        return known

    async def is_partial(self, room_id: RoomID) -> bool:
        """Tell whether the room's state lacks members as yet."""
        room = await self._live_rooms.find(room_id)
        return room is not None and room.is_partial

    async def is_ignored(self, user_id: UserID, mine: RoomOfUser) -> bool:
        """Tell whether this is an invitation by somebody whom the user ignores."""
        return await self._room_parts.is_ignored(user_id, mine)

    async def in_spaces(self, spaces: Iterable[str], joined: set[RoomID]) -> set[str]:
        """Return the rooms directly in any of these spaces that the user is joined to."""
        found = set()
        for space_id in joined.intersection(spaces):
            room = await self._live_rooms.find(space_id)
            if room is not None:
                found |= {
                    state_key
                    for (event_type, state_key), child in room.state_events.items()
                    if event_type == "m.space.child" and child.shown.content.get("via")
                }
        return found


def _of_room(room: LiveRoom, up_to: int) -> Facts:
    room_type = room.find_content("m.room.create").get("type")
    encryption = room.find_state("m.room.encryption")
    return Facts(
        room.last_event,
        room_type if isinstance(room_type, str) else None,
        is_encrypted=encryption is not None and encryption.event_nid <= up_to,
    )


def _of_stripped(stripped: bytes) -> Facts:
    room_type = None
    is_encrypted = False
    for event in orjson.loads(stripped):
        if event.get("type") == "m.room.create":
            given = event.get("content", {}).get("type")
            room_type = given if isinstance(given, str) else None
        elif event.get("type") == "m.room.encryption":
            is_encrypted = True
    return Facts(0, room_type, is_encrypted)
