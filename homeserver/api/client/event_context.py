"""What surrounds an event, and which event is nearest to a moment.

spec: client-server-api/#event-context, v1.19.
"""

from typing import Literal

import orjson

from homeserver.core.identifiers import EventID, RoomID
from homeserver.core.json_types import JsonObject
from homeserver.requester import Requester
from homeserver.services.aggregations import Aggregations
from homeserver.services.event_context import EventContext
from homeserver.services.filters import read_room_event_filter
from homeserver.transport.endpoint import Auth, RawJSON, endpoint


class EventContextAPI:
    """Finding a place in a room's history."""

    def __init__(self, context: EventContext, aggregations: Aggregations) -> None:
        self._context = context
        self._aggregations = aggregations

    @endpoint(
        "getEventContext", "GET", "/_matrix/client/v3/rooms/{roomId}/context/{eventId}",
        auth=Auth.CLIENT, wire={"filter_": "filter"},
    )  # fmt: skip
    async def get_event_context(
        self,
        requester: Requester,
        room_id: RoomID,
        event_id: EventID,
        *,
        limit: int | None = None,
        filter_: str | None = None,
    ) -> RawJSON:
        found = await self._context.around(
            requester.user_id,
            room_id,
            event_id,
            limit=limit,
            chosen=read_room_event_filter(filter_),
        )
        shown = [*found.before, found.event, *found.after]
        jsons = await self._aggregations.render(requester, room_id, shown)
        state: list[bytes] = []
        async for some in found.state:
            state += await self._aggregations.render_state(requester, room_id, some)
        place = len(found.before)
        parts = [
            b'{"event":', jsons[place],
            b',"events_before":[', b",".join(jsons[:place]),
            b'],"events_after":[', b",".join(jsons[place + 1 :]),
            b'],"state":[', b",".join(state), b"]",
            b',"start":', orjson.dumps(found.start),
            b',"end":', orjson.dumps(found.end), b"}",
        ]  # fmt: skip
        return RawJSON(b"".join(parts))

    @endpoint(
        "getEventByTimestamp", "GET", "/_matrix/client/v1/rooms/{roomId}/timestamp_to_event",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def get_event_by_timestamp(
        self, requester: Requester, room_id: RoomID, *, ts: int, dir_: Literal["f", "b"]
    ) -> JsonObject:
        found = await self._context.find_by_timestamp(
            requester.user_id, room_id, ts, backwards=dir_ == "b"
        )
        return {
            "event_id": found.event.event_id,
            "origin_server_ts": found.event.origin_server_ts,
        }
