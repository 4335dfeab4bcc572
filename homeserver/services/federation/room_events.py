"""Events of one room that another server has sent: who may, and what became of each.

spec: server-server-api/#pdus, #server-access-control-lists-acls, v1.19.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence

from homeserver.clock import Clock
from homeserver.core.canonical_json import JsonInvalid
from homeserver.core.errors import CoreError, EventMalformed
from homeserver.core.events import parse_event
from homeserver.core.identifiers import RoomID, ServerName
from homeserver.core.json_types import JsonObject
from homeserver.engine.event_placing import Outcome
from homeserver.engine.inbound_events import CannotDecide
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.remote_rooms import RemoteRooms
from homeserver.errors import DatabaseUnavailable, MatrixError, ServiceUnavailable
from homeserver.services.federation.remote_servers import RemoteServers
from homeserver.services.federation.room_guard import RoomGuard

logger = logging.getLogger(__name__)

_MAX_OTHERS = 3
"""Other servers that are asked for what an event builds upon."""
_MAX_HELPED = 10
"""Events of one room and transaction for which they are."""
_NOT_HELPED_SECONDS = 60.0
_MAX_REMEMBERED = 10_000


class RoomEvents:
    def __init__(
        self,
        server_name: ServerName,
        live_rooms: LiveRooms,
        rooms: RemoteRooms,
        servers: RemoteServers,
        guard: RoomGuard,
        clock: Clock,
    ) -> None:
        self._server_name = server_name
        self._live_rooms = live_rooms
        self._rooms = rooms
        self._servers = servers
        self._guard = guard
        self._clock = clock
        self._not_helped: OrderedDict[ServerName, float] = OrderedDict()
        """Until when others are not asked for what a server's events build upon."""

    async def receive(
        self, origin: ServerName, room_id: RoomID, pdus: Sequence[JsonObject]
    ) -> dict[str, str | None]:
        """Take in events in their order; return what was wrong with each, None if nothing.

        Raises DatabaseUnavailable, ServiceUnavailable: some are not taken in, and should be sent
        again.
        """
        room = await self._live_rooms.find(room_id)
        if room is None or self._server_name not in room.servers:
            return await self._receive_outside(room_id, pdus)
        if not self._guard.allows(room, origin):
            return dict.fromkeys(_ids_of(room, pdus), "Your server is not allowed in this room")
        outcomes = await self._rooms.inbound.receive_all(self._servers.get(origin), room_id, pdus)
        await self._ask_others(origin, room, pdus, outcomes)
        for outcome in outcomes:
            if isinstance(outcome, (DatabaseUnavailable, ServiceUnavailable)):
                raise outcome  # nothing is answered that is not stored; what is, is known again
        results: dict[str, str | None] = {}
        for pdu, outcome in zip(pdus, outcomes, strict=True):
            problem = _problem(outcome)
            if problem is not None:
                logger.info("Event not taken in origin=%s room=%s: %s", origin, room_id, problem)
            for event_id in _ids_of(room, [pdu]):
                results[event_id] = problem
        return results

    async def _ask_others(
        self,
        origin: ServerName,
        room: LiveRoom,
        pdus: Sequence[JsonObject],
        outcomes: list[Outcome | Exception],
    ) -> None:
        """Let other servers of the room give what some events build upon, if their origin cannot.

        One whose events the others could not help with either is not helped for a while: nobody
        makes this server ask others for events that there are not.
        """
        undecided = [n for n, one in enumerate(outcomes) if isinstance(one, CannotDecide)]
        if not undecided or not self._may_ask_for(origin):
            return
        for server in self._list_others(origin, room):
            asked = undecided[:_MAX_HELPED]
            logger.info(
                "Asking another server room=%s server=%s count=%d", room.room_id, server, len(asked)
            )
            found = await self._rooms.inbound.receive_all(
                self._servers.get(server), room.room_id, [pdus[n] for n in asked]
            )
            for n, outcome in zip(asked, found, strict=True):
                outcomes[n] = outcome
            undecided = [n for n in undecided if isinstance(outcomes[n], CannotDecide)]
            if not undecided:
                return
        self._not_helped[origin] = self._clock.monotonic() + _NOT_HELPED_SECONDS
        self._not_helped.move_to_end(origin)
        if len(self._not_helped) > _MAX_REMEMBERED:
            self._not_helped.popitem(last=False)

    def _may_ask_for(self, origin: ServerName) -> bool:
        return self._not_helped.get(origin, 0.0) <= self._clock.monotonic()

    def _list_others(self, origin: ServerName, room: LiveRoom) -> list[ServerName]:
        others = sorted(room.list_servers() - {origin, self._server_name})
        others.sort(key=lambda name: -room.servers.get(name, 0))
        return others[:_MAX_OTHERS]

    async def _receive_outside(
        self, room_id: RoomID, pdus: Sequence[JsonObject]
    ) -> dict[str, str | None]:
        """Events of a room this server is not in: only the end of an invitation concerns it."""
        for pdu in pdus:
            try:
                await self._rooms.out_of_band.receive(room_id, pdu)
            except (CoreError, MatrixError) as error:
                logger.info("Event not taken in room=%s: %s", room_id, error)
        return {}


def _problem(outcome: Outcome | Exception) -> str | None:
    """Return what the other server is told. Not whether it was shown: that is not its business."""
    if isinstance(outcome, (CoreError, MatrixError, CannotDecide)):
        return str(outcome)
    if isinstance(outcome, Exception):
        logger.error("Event failed", exc_info=outcome)
        return "Internal server error"
    return "The event was rejected" if outcome is Outcome.REJECTED else None


def _ids_of(room: LiveRoom, pdus: Sequence[JsonObject]) -> list[str]:
    ids: list[str] = []
    for pdu in pdus:
        try:
            ids.append(parse_event(room.version, pdu).event_id)
        except (EventMalformed, JsonInvalid):
            continue
    return ids
