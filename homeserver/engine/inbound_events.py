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
from collections.abc import Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import CancelledError, Deferred

from homeserver.background import Background
from homeserver.core.errors import MissingEvent
from homeserver.core.events import Event
from homeserver.core.identifiers import RoomID
from homeserver.core.json_types import JsonObject
from homeserver.engine.auth_chains import TooFarToWalk
from homeserver.engine.event_placing import EventPlacing, Outcome
from homeserver.engine.missing_events import MissingEvents
from homeserver.engine.pdu_checks import PDUChecks
from homeserver.engine.remote_server import CountedServer, RemoteFailure, RemoteServer
from homeserver.engine.room_writer import RoomWriter
from homeserver.errors import NotFound, ServiceUnavailable

logger = logging.getLogger(__name__)

_MAX_WAITING = 1_000
_MAX_RUN = 50
"""Events that share a commit."""
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
        return await self._enqueue(room_id, [_Arrival(source, event)])[0].answer

    async def receive_all(
        self, source: RemoteServer, room_id: RoomID, pdus: Sequence[JsonObject]
    ) -> list[Outcome | Exception]:
        """As `receive`, for events in the order in which they came; each has its own answer.

        Events that simply follow each other share a commit.
        """
        try:
            room = await self._writer.find_room(room_id)
        except NotFound as unknown:
            return [unknown for _ in pdus]
        checked = await self._checks.check_each(room, pdus)
        arrivals = {
            place: _Arrival(source, found)
            for place, found in enumerate(checked)
            if isinstance(found, Event)
        }
        try:
            self._enqueue(room_id, list(arrivals.values()))
        except ServiceUnavailable as error:
            return [error for _ in pdus]
        answers: list[Outcome | Exception] = []
        for place, found in enumerate(checked):
            if isinstance(found, Event):
                try:
                    answers.append(await arrivals[place].answer)
                except CancelledError:
                    raise
                except Exception as error:  # noqa: BLE001 - carried to whoever asked for them all
                    answers.append(error)
            else:
                answers.append(found)
        return answers

    def _enqueue(self, room_id: RoomID, arrivals: Sequence[_Arrival]) -> Sequence[_Arrival]:
        queue = self._queues.get(room_id)
        if queue is not None:
            if len(queue) + len(arrivals) > _MAX_WAITING:
                raise ServiceUnavailable("Too many events of this room wait", retry_after_ms=5000)
            queue.extend(arrivals)
        elif arrivals:
            queue = self._queues[room_id] = deque(arrivals)
            self._background.run("inbound events", self._drain(room_id, queue))
        return arrivals

    async def _drain(self, room_id: RoomID, queue: deque[_Arrival]) -> None:
        run: list[_Arrival] = []
        try:
            while queue:
                run = _take_run(queue)
                if not await self._answer_run(room_id, run):
                    for arrival in run:
                        await self._answer(room_id, arrival)
        finally:
            del self._queues[room_id]
            for waiting in (*queue, *run):
                if not waiting.answer.called:
                    waiting.answer.cancel()
                    waiting.answer.addErrback(lambda _: None)  # nobody may have come to await it

    async def _answer_run(self, room_id: RoomID, run: Sequence[_Arrival]) -> bool:
        """Return False, with nothing done, when each must be looked at by itself."""
        try:
            source = CountedServer(run[0].source, _MAX_REQUESTS)
            events = [arrival.event for arrival in run]
            outcomes = await self._placing.place_run(room_id, source, events)
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - carried to whoever awaits it
            if len(run) == 1:
                if not run[0].answer.called:
                    run[0].answer.errback(error)
                return True
            logger.info("Events not placed together room=%s: %s", room_id, error)
            return False
        if outcomes is None:
            return False
        for arrival, outcome in zip(run, outcomes, strict=True):
            if not arrival.answer.called:
                arrival.answer.callback(outcome)
        return True

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


def _take_run(queue: deque[_Arrival]) -> list[_Arrival]:
    """Take the next event, and those after it that simply follow each other."""
    run = [queue.popleft()]
    while queue and len(run) < _MAX_RUN:
        last, following = run[-1], queue[0]
        if last.event.is_state or following.source is not last.source:
            break
        if tuple(following.event.prev_events) != (last.event.event_id,):
            break
        run.append(queue.popleft())
    return run
