"""How the user's account data marks rooms: as direct messages, with tags.

spec: client-server-api/#direct-messaging, #room-tagging, v1.19. Clients may have written anything
there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from homeserver.core.identifiers import RoomID
from homeserver.core.json_types import JsonObject
from homeserver.services.account_data import TAG

_DIRECT = "m.direct"


@dataclass(frozen=True, slots=True)
class Marks:
    direct: frozenset[RoomID] = frozenset()
    tags: Mapping[RoomID, frozenset[str]] = field(default_factory=dict)

    def after(
        self, of_user: Iterable[JsonObject], of_rooms: Mapping[RoomID, Iterable[JsonObject]]
    ) -> "Marks":
        """Return the marks after these account data were written."""
        direct = self.direct
        tags = dict(self.tags)
        for event in of_user:
            if event["type"] == _DIRECT:
                direct = _direct_rooms(event["content"])
        for room_id, events in of_rooms.items():
            for event in events:
                if event["type"] == TAG:
                    tags[room_id] = _tags(event["content"])
        return Marks(direct, tags)


def _direct_rooms(content: object) -> frozenset[RoomID]:
    if not isinstance(content, dict):
        return frozenset()
    return frozenset(
        RoomID(room_id)
        for listed in content.values()
        if isinstance(listed, list)
        for room_id in listed
        if isinstance(room_id, str)
    )


def _tags(content: object) -> frozenset[str]:
    tags = content.get("tags") if isinstance(content, dict) else None
    return frozenset(tags) if isinstance(tags, dict) else frozenset()
