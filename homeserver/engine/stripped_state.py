"""What an invited or knocking user is shown of a room.

spec: client-server-api/#stripped-state, v1.19.
"""

from collections.abc import Callable

from homeserver.core.canonical_json import encode_json
from homeserver.core.events import Event
from homeserver.core.json_types import JsonValue
from homeserver.engine.dictionary import Slot
from homeserver.engine.timeline_event import TimelineEvent, stripped_fields

STRIPPED_TYPES = (
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
)


def make_stripped_state(
    find_state: Callable[[Slot], TimelineEvent | None], member_event: Event
) -> bytes:
    """Return the stripped state of a room with a new member event, as a JSON array."""
    shown: list[JsonValue] = []
    for event_type in STRIPPED_TYPES:
        found = find_state((event_type, ""))
        if found is not None and not found.is_redacted:
            shown.append(stripped_fields(found.event))
    sender = find_state((member_event.type, member_event.sender))
    if sender is not None and member_event.sender != member_event.state_key:
        shown.append(stripped_fields(sender.event))
    shown.append(stripped_fields(member_event))
    return encode_json(shown)
