"""What other servers read of the rooms they share with this one.

spec: server-server-api/#retrieving-events, #backfilling-and-retrieving-missing-events,
#retrieving-event-authorisation-information, v1.19. Answers are joined from the events' bytes as
they are stored. Invariant: a server reads only rooms it is in and not shut out of, and only the
redacted form of events that no user of its could read.
"""

from collections.abc import Sequence

import orjson

from homeserver.clock import Clock
from homeserver.core.identifiers import EventID, RoomID, ServerName, server_name_of
from homeserver.core.json_types import JsonObject
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.served_events import ServedEvent, ServedEvents
from homeserver.engine.server_visibility import ServerVisibility
from homeserver.errors import NotFound
from homeserver.services.federation.answer_turns import AnswerTurns
from homeserver.services.federation.room_guard import RoomGuard

MAX_EVENTS_NAMED = 100
"""In one question."""


class ServedRooms:
    def __init__(
        self,
        server_name: ServerName,
        clock: Clock,
        guard: RoomGuard,
        served: ServedEvents,
        visibility: ServerVisibility,
        turns: AnswerTurns,
    ) -> None:
        self._server_name = server_name
        self._clock = clock
        self._guard = guard
        self._served = served
        self._visibility = visibility
        self._turns = turns

    async def get_event(self, origin: ServerName, event_id: EventID) -> bytes:
        """Return a transaction with one event, redacted where no user of the server may see it.

        It is not refused: who joins with members left out needs the event before the join, to
        know what the state was. Raises NotFound, Forbidden.
        """
        found = await self._served.find_event(event_id)
        if found is None:
            raise NotFound("Unknown event")
        room = await self._guard.access_shared_room(origin, found.room_id)
        pdus = await self._tellable(origin, room, [found])
        if not pdus:
            raise NotFound("Unknown event")
        return self._transaction(pdus)

    async def get_event_auth(self, origin: ServerName, room_id: RoomID, event_id: EventID) -> bytes:
        await self._guard.access_shared_room(origin, room_id)
        chain = await self._turns.whole_rooms.make(
            origin, lambda: self._served.auth_chain(room_id, [event_id])
        )
        return b'{"auth_chain":[' + b",".join(chain) + b"]}"

    async def get_state(self, origin: ServerName, room_id: RoomID, event_id: EventID) -> bytes:
        await self._guard.access_whole_room(origin, room_id)
        found = await self._turns.whole_rooms.make(
            origin, lambda: self._served.state_before(room_id, event_id)
        )
        return (
            b'{"auth_chain":['
            + b",".join(found.auth_chain)
            + b'],"pdus":['
            + b",".join(found.state)
            + b"]}"
        )

    async def get_state_ids(
        self, origin: ServerName, room_id: RoomID, event_id: EventID
    ) -> JsonObject:
        await self._guard.access_whole_room(origin, room_id)
        found = await self._turns.whole_rooms.make(
            origin, lambda: self._served.state_ids_before(room_id, event_id)
        )
        return {"auth_chain_ids": list(found.auth_chain), "pdu_ids": list(found.state)}

    async def backfill(
        self, origin: ServerName, room_id: RoomID, before: list[EventID], limit: int
    ) -> bytes:
        room = await self._guard.access_shared_room(origin, room_id)

        async def page() -> bytes:
            found = await self._served.backfill(room_id, before[:MAX_EVENTS_NAMED], limit)
            return self._transaction(await self._tellable(origin, room, found))

        return await self._turns.pages.make(origin, page)

    async def get_missing_events(
        self,
        origin: ServerName,
        room_id: RoomID,
        *,
        earliest: list[EventID],
        latest: list[EventID],
        limit: int,
        min_depth: int,
    ) -> bytes:
        room = await self._guard.access_shared_room(origin, room_id)

        async def page() -> bytes:
            found = await self._served.missing_events(
                room_id,
                earliest=earliest[:MAX_EVENTS_NAMED],
                latest=latest[:MAX_EVENTS_NAMED],
                limit=limit,
                min_depth=min_depth,
            )
            pdus = await self._tellable(origin, room, found)
            return b'{"events":[' + b",".join(pdus) + b"]}"

        return await self._turns.pages.make(origin, page)

    async def get_event_at(
        self, origin: ServerName, room_id: RoomID, ts: int, *, backwards: bool
    ) -> JsonObject:
        """Raises NotFound, also when the nearest event is not for this server."""
        room = await self._guard.access_shared_room(origin, room_id)
        found = await self._turns.pages.make(
            origin, lambda: self._served.event_at(room_id, ts, backwards=backwards)
        )
        if (
            found is None
            or not await self._visibility.is_visible(origin, found)
            or not await self._tellable(origin, room, [found])
        ):
            raise NotFound("There is no event at that time or beyond it")
        at = orjson.loads(found.pdu).get("origin_server_ts")
        return {"event_id": found.event_id, "origin_server_ts": at}

    async def _tellable(
        self, origin: ServerName, room: LiveRoom, events: Sequence[ServedEvent]
    ) -> list[bytes]:
        """Return PDUs of events, redacted where the server may not see them.

        While the room's state lacks members, nobody knows which events of others will be refused,
        nor, where it depends on members, who may see what: such events are left out.
        """
        if not room.is_partial:
            return await self._visibility.for_server(origin, events)
        return [
            event.pdu
            for event in events
            if server_name_of(orjson.loads(event.pdu)["sender"]) == self._server_name
            and await self._visibility.is_visible(origin, event)
        ]

    def _transaction(self, pdus: Sequence[bytes]) -> bytes:
        head = orjson.dumps({"origin": self._server_name, "origin_server_ts": self._clock.now_ms()})
        return head[:-1] + b',"pdus":[' + b",".join(pdus) + b"]}"
