"""What a room is called and how many are in it.

spec: MSC4186 beside v1.19, "Room results". Heroes stand for the name of a room that has none.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.services.sync.heroes import find_heroes

_Hero = tuple[UserID, str | None, str | None]
"""User, display name, avatar."""


@dataclass(frozen=True, slots=True)
class Summary:
    name: str | None
    avatar: str | None
    heroes: tuple[_Hero, ...]
    joined_count: int
    invited_count: int

    def changes(self, before: "Summary | None") -> JsonObject:
        """Return the fields that differ from what was told before; None: nothing was."""
        fields: JsonObject = {}
        if self.name != (before.name if before else None):
            fields["name"] = self.name
        if self.avatar != (before.avatar if before else None):
            fields["avatar"] = self.avatar
        if self.heroes and self.heroes != (before.heroes if before else ()):
            fields["heroes"] = [_hero(*hero) for hero in self.heroes]
        if before is None or self.joined_count != before.joined_count:
            fields["joined_count"] = self.joined_count
        if before is None or self.invited_count != before.invited_count:
            fields["invited_count"] = self.invited_count
        return fields


async def summarize(live_rooms: LiveRooms, room: LiveRoom, user_id: UserID) -> Summary:
    """Of a room the user is in, now."""
    name = _text(room.find_content("m.room.name"), "name")
    heroes: list[_Hero] = []
    if name is None:
        wanted = find_heroes(room, user_id)
        members = {
            found.event.state_key: found.shown.content
            for found in await live_rooms.list_member_events(room, wanted)
        }
        for hero in wanted:
            content = members.get(hero, {})
            heroes.append((hero, _text(content, "displayname"), _text(content, "avatar_url")))
    return Summary(
        name,
        _text(room.find_content("m.room.avatar"), "url"),
        tuple(heroes),
        len(room.joined),
        room.invited_count,
    )


def _text(content: Mapping[str, object], key: str) -> str | None:
    value = content.get(key)
    return value if isinstance(value, str) and value else None


def _hero(user_id: UserID, displayname: str | None, avatar_url: str | None) -> JsonObject:
    hero: JsonObject = {"user_id": user_id}
    if displayname is not None:
        hero["displayname"] = displayname
    if avatar_url is not None:
        hero["avatar_url"] = avatar_url
    return hero
