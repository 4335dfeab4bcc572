"""Events of other servers: the checks on receipt, one queue a room.

spec: server-server-api/#checks-performed-on-receipt-of-a-pdu, #rejection, #soft-failure, v1.19.

1 format, 2 signatures, 3 content hash (`pdu_checks`); 4 the auth events allow it
(`authorizing_events`); 5 the state before it allows it (`event_placing`, over gaps
`missing_events`); 6 the current state allows it (`received_events`, in the commit loop).
Step 7, a policy server's opinion, is not asked for.

Invariants: a room's events are processed one after another; the answer comes after the commit; a
rejected or soft-failed event is never shown and never built upon.
"""

import logging
from collections import deque
from dataclasses import dataclass, field

from twisted.internet.defer import CancelledError, Deferred

from homeserver.background import Background
from homeserver.core.errors import MissingEvent
from homeserver.core.events import Event
from homeserver.core.identifiers import RoomID
from homeserver.core.json_types import JsonObject
from homeserver.engine.auth_chains import TooFarToWalk
from homeserver.engine.authorizing_events import AuthorizingEvents
from homeserver.engine.commit_loop import CommitLoop
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.event_graph import EventGraph
from homeserver.engine.event_placing import EventPlacing, Outcome
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.missing_events import MissingEvents
from homeserver.engine.pdu_checks import PDUChecks, VerifySignatures
from homeserver.engine.received_events import ReceivedEvents
from homeserver.engine.remote_server import CountedServer, RemoteFailure, RemoteServer
from homeserver.engine.room_change import RoomChanges
from homeserver.engine.room_writer import RoomWriter
from homeserver.engine.state_at_event import StateAtEvent
from homeserver.engine.state_store import StateStore
from homeserver.errors import ServiceUnavailable
from homeserver.storage.database import Database

logger = logging.getLogger(__name__)

_MAX_WAITING = 1_000
_MAX_REQUESTS = 100
"""What the source may be asked for the sake of one event."""


class CannotDecide(Exception):
    """What an event builds upon cannot be had now: it is dropped, and may be sent again."""


@dataclass(eq=False, slots=True)
class _Arrival:
    source: RemoteServer
    event: Event
    answer: Deferred[Outcome] = field(default_factory=Deferred)


class InboundEvents:
    def __init__(
        self,
        checks: PDUChecks,
        missing: MissingEvents,
        placing: EventPlacing,
        writer: RoomWriter,
        background: Background,
    ) -> None:
        self._checks = checks
        self._missing = missing
        self._placing = placing
        self._writer = writer
        self._background = background
        self._queues: dict[RoomID, deque[_Arrival]] = {}

    async def receive(self, source: RemoteServer, room_id: RoomID, pdu: JsonObject) -> Outcome:
        """Check one event and take it in. `source` is asked for what is missing.

        Raises EventMalformed and SignatureInvalid for an event that is dropped, CannotDecide,
        NotFound for an unknown room, ServiceUnavailable when too much waits for this room.
        """
        room = await self._writer.find_room(room_id)
        event = await self._checks.check(room, pdu)  # 1, 2, 3
        queue = self._queues.get(room_id)
        arrival = _Arrival(source, event)
        if queue is not None:
            if len(queue) >= _MAX_WAITING:
                raise ServiceUnavailable("Too many events of this room wait", retry_after_ms=5000)
            queue.append(arrival)
        else:
            queue = self._queues[room_id] = deque([arrival])
            self._background.run("inbound events", self._drain(room_id, queue))
        return await arrival.answer

    async def _drain(self, room_id: RoomID, queue: deque[_Arrival]) -> None:
        arrival = None
        try:
            while queue:
                arrival = queue.popleft()
                await self._answer(room_id, arrival)
        finally:
            del self._queues[room_id]
            for waiting in (*queue, *([arrival] if arrival is not None else ())):
                if not waiting.answer.called:
                    waiting.answer.cancel()

    async def _answer(self, room_id: RoomID, arrival: _Arrival) -> None:
        try:
            outcome = await self._process(room_id, arrival)
        except CancelledError:
            raise
        except (MissingEvent, RemoteFailure, TooFarToWalk) as error:
            logger.info("Event not decided event=%s: %s", arrival.event.event_id, error)
            if not arrival.answer.called:
                arrival.answer.errback(CannotDecide(str(error)))
        except Exception as error:  # noqa: BLE001 - carried to whoever awaits it
            if not arrival.answer.called:
                arrival.answer.errback(error)
        else:
            if not arrival.answer.called:
                arrival.answer.callback(outcome)

    async def _process(self, room_id: RoomID, arrival: _Arrival) -> Outcome:
        """Take in an event, first those between it and what is known (4, 5, 6 for each)."""
        event = arrival.event
        source = CountedServer(arrival.source, _MAX_REQUESTS)
        room = await self._writer.find_room(room_id)
        if await self._missing.list_unknown(room, [event.event_id]):
            for ancestor in await self._missing.fetch(room, source, event):
                try:
                    await self._placing.place(room_id, source, ancestor)
                except (MissingEvent, RemoteFailure, TooFarToWalk) as error:
                    logger.info("Event not decided event=%s: %s", ancestor.event_id, error)
        return await self._placing.place(room_id, source, event)


def make_inbound_events(
    database: Database,
    live_rooms: LiveRooms,
    changes: RoomChanges,
    commit_loop: CommitLoop,
    dictionary: Dictionary,
    states: StateStore,
    background: Background,
    verify_signatures: VerifySignatures,
) -> InboundEvents:
    """Connect the parts of this half of the engine, which have nothing to do with others."""
    graph = EventGraph(database)
    checks = PDUChecks(verify_signatures)
    state_at = StateAtEvent(live_rooms, states, graph, dictionary)
    received = ReceivedEvents(changes, dictionary, states, state_at)
    writer = RoomWriter(live_rooms, commit_loop, dictionary, graph, state_at)
    authorizing = AuthorizingEvents(graph, checks, received, writer)
    missing = MissingEvents(graph, checks, authorizing, states, state_at)
    placing = EventPlacing(graph, authorizing, missing, state_at, received, writer)
    return InboundEvents(checks, missing, placing, writer, background)
