"""Events as clients read them, from their ready-made JSON.

spec: client-server-api/#room-event-format, v1.19.
"""

from collections.abc import Iterable, Mapping

import orjson

from homeserver.core.identifiers import RoomID
from homeserver.core.json_types import JsonObject
from homeserver.engine.timeline_event import TimelineEvent, with_room_id
from homeserver.requester import Requester

Bundles = Mapping[int, bytes]
"""Event number -> JSON of its `m.relations`; events without are left out."""
NO_BUNDLES: Bundles = {}


def render_event(
    event: TimelineEvent, requester: Requester, room_id: RoomID, bundles: Bundles = NO_BUNDLES
) -> bytes:
    """Return the JSON of one event, with its room id."""
    relations = bundles.get(event.event_nid)
    json = event.json_for(requester.user_id, requester.device_id, relations)
    return with_room_id(json, room_id)


def render_events(
    events: Iterable[TimelineEvent],
    requester: Requester,
    room_id: RoomID,
    bundles: Bundles = NO_BUNDLES,
) -> bytes:
    """Return a JSON array."""
    return (
        b"["
        + b",".join(render_event(event, requester, room_id, bundles) for event in events)
        + b"]"
    )


def client_content(event: TimelineEvent) -> JsonObject:
    """Return the content as clients see it: without what a redaction has taken."""
    content: JsonObject = orjson.loads(event.json)["content"]
    return content
