"""Joins by being in another room: who may, and who vouches for it.

spec: rooms/v8/#authorization-rules, client-server-api/#restricted-rooms, v1.19. Invariant: of a
room that this server is not in, it says nothing about who its members are.
"""

from dataclasses import dataclass
from enum import Enum

from homeserver.core.identifiers import RoomID, ServerName, UserID, server_name_of
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms

_MAX_ROOMS = 50
"""Of those that a room lists, so many are looked at."""


class JoinCheck(Enum):
    NOT_NEEDED = "the room is not restricted, or the user is invited or in it"
    ALLOWED = "the user is in one of the rooms"
    NOT_ALLOWED = "the user is in none of them"
    UNKNOWN = "the user is in none that this server knows, but there are others"


@dataclass(frozen=True, slots=True)
class RestrictedJoin:
    outcome: JoinCheck
    authorizer: UserID | None = None
    """Who vouches for an allowed one; None: nobody of this server may invite."""


class RestrictedJoins:
    def __init__(self, server_name: ServerName, live_rooms: LiveRooms) -> None:
        self._server_name = server_name
        self._live_rooms = live_rooms

    async def check(self, room: LiveRoom, user_id: UserID) -> RestrictedJoin:
        rules = room.find_content("m.room.join_rules")
        if (
            not room.version.restricted_join
            or rules.get("join_rule") not in ("restricted", "knock_restricted")
            or room.membership_of(user_id) in ("invite", "join")
        ):
            return RestrictedJoin(JoinCheck.NOT_NEEDED)
        allowed = rules.get("allow")
        outcome = JoinCheck.NOT_ALLOWED
        for entry in allowed[:_MAX_ROOMS] if isinstance(allowed, list) else []:
            if not isinstance(entry, dict) or entry.get("type") != "m.room_membership":
                continue
            other_id = entry.get("room_id")
            if not isinstance(other_id, str):
                continue
            other = await self._live_rooms.find(RoomID(other_id))
            if other is None or self._server_name not in other.servers:
                outcome = JoinCheck.UNKNOWN
            elif other.membership_of(user_id) == "join":
                return RestrictedJoin(JoinCheck.ALLOWED, self._strongest_inviter(room))
            elif other.is_partial:
                outcome = JoinCheck.UNKNOWN
        return RestrictedJoin(outcome)

    def _strongest_inviter(self, room: LiveRoom) -> UserID | None:
        """Return a joined local user who may invite; the strongest, so that he stays able to."""
        levels = room.power_levels
        local = [
            member
            for member in room.joined
            if server_name_of(member) == self._server_name
            and levels.user_level(member) >= levels.invite
        ]
        return max(local, key=levels.user_level, default=None)
