"""Events and states of shared rooms, for other servers.

spec: server-server-api/#retrieving-events, #backfilling-and-retrieving-missing-events, v1.19.
"""

from dataclasses import dataclass

from homeserver.core.identifiers import EventID, RoomID, ServerName
from homeserver.core.json_types import JsonObject
from homeserver.errors import InvalidParam
from homeserver.services.federation.served_rooms import ServedRooms
from homeserver.transport.endpoint import Auth, RawJSON, endpoint

_V1 = "/_matrix/federation/v1"


@dataclass(frozen=True)
class MissingEventsQuery:
    latest_events: list[EventID]
    earliest_events: list[EventID]
    limit: int = 10
    min_depth: int = 0


class EventsAPI:
    def __init__(self, rooms: ServedRooms) -> None:
        self._rooms = rooms

    @endpoint("getEvent", "GET", f"{_V1}/event/{{eventId}}", auth=Auth.FEDERATION)
    async def get_event(self, origin: ServerName, event_id: EventID) -> RawJSON:
        return RawJSON(await self._rooms.get_event(origin, event_id))

    @endpoint(
        "getEventAuth", "GET", f"{_V1}/event_auth/{{roomId}}/{{eventId}}", auth=Auth.FEDERATION
    )
    async def get_event_auth(
        self, origin: ServerName, room_id: RoomID, event_id: EventID
    ) -> RawJSON:
        return RawJSON(await self._rooms.get_event_auth(origin, room_id, event_id))

    @endpoint("getRoomState", "GET", f"{_V1}/state/{{roomId}}", auth=Auth.FEDERATION)
    async def get_room_state(
        self, origin: ServerName, room_id: RoomID, *, event_id: EventID
    ) -> RawJSON:
        return RawJSON(await self._rooms.get_state(origin, room_id, event_id))

    @endpoint("getRoomStateIds", "GET", f"{_V1}/state_ids/{{roomId}}", auth=Auth.FEDERATION)
    async def get_room_state_ids(
        self, origin: ServerName, room_id: RoomID, *, event_id: EventID
    ) -> JsonObject:
        return await self._rooms.get_state_ids(origin, room_id, event_id)

    @endpoint("backfillRoom", "GET", f"{_V1}/backfill/{{roomId}}", auth=Auth.FEDERATION)
    async def backfill_room(
        self, origin: ServerName, room_id: RoomID, *, v: list[EventID], limit: int
    ) -> RawJSON:
        return RawJSON(await self._rooms.backfill(origin, room_id, v, limit))

    @endpoint(
        "getMissingPreviousEvents",
        "POST",
        f"{_V1}/get_missing_events/{{roomId}}",
        auth=Auth.FEDERATION,
    )
    async def get_missing_previous_events(
        self, origin: ServerName, room_id: RoomID, body: MissingEventsQuery
    ) -> RawJSON:
        answer = await self._rooms.get_missing_events(
            origin,
            room_id,
            earliest=body.earliest_events,
            latest=body.latest_events,
            limit=body.limit,
            min_depth=body.min_depth,
        )
        return RawJSON(answer)

    @endpoint(
        "getEventByTimestamp",
        "GET",
        f"{_V1}/timestamp_to_event/{{roomId}}",
        auth=Auth.FEDERATION,
        wire={"direction": "dir"},
    )
    async def get_event_by_timestamp(
        self, origin: ServerName, room_id: RoomID, *, ts: int, direction: str
    ) -> JsonObject:
        if direction not in ("f", "b"):
            raise InvalidParam("dir is f or b")
        return await self._rooms.get_event_at(origin, room_id, ts, backwards=direction == "b")
