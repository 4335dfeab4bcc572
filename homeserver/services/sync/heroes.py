"""Who stands for a room that has no name, and how many are in it.

spec: client-server-api/#get_matrixclientv3sync (`RoomSummary`), v1.19.
"""

from collections.abc import Iterable
from heapq import nsmallest
from itertools import islice

from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.live_room import LiveRoom

_MAX_HEROES = 5
SUMMARIZED = frozenset({"m.room.member", "m.room.name", "m.room.canonical_alias"})
"""Types of the state events that a summary follows from."""


def find_heroes(room: LiveRoom, user_id: UserID) -> list[UserID]:
    """The first members beside the user in the order they came or were invited; else those gone."""
    heroes = _first(room, user_id, islice(room.joined, _MAX_HEROES + 1))
    if room.invited_count:
        invited = (u for u, member in room.members.items() if member.membership == "invite")
        heroes = _first(room, user_id, (*heroes, *invited))
    if not heroes:
        gone = (u for u, m in room.members.items() if m.membership in ("leave", "ban"))
        heroes = _first(room, user_id, gone)
    return heroes


def _first(room: LiveRoom, user_id: UserID, members: Iterable[UserID]) -> list[UserID]:
    def came_at(member: UserID) -> int:
        standing = room.members[member]
        is_in = standing.membership == "join"
        return (standing.joined_nid if is_in else None) or standing.event_nid

    return nsmallest(_MAX_HEROES, (m for m in members if m != user_id), key=came_at)


def summarize(room: LiveRoom, user_id: UserID) -> JsonObject:
    summary: JsonObject = {
        "m.joined_member_count": len(room.joined),
        "m.invited_member_count": room.invited_count,
    }
    name = room.find_content("m.room.name").get("name")
    alias = room.find_content("m.room.canonical_alias").get("alias")
    if not name and not alias:
        summary["m.heroes"] = list(find_heroes(room, user_id))
    return summary
