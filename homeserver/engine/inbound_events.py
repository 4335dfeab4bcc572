"""Events of other servers: the checks on receipt, one queue a room.

spec: server-server-api/#checks-performed-on-receipt-of-a-pdu, #rejection, #soft-failure, v1.19.

1 format, 2 signatures, 3 content hash (`pdu_checks`); 4 the auth events allow it
(`authorizing_events`); 5 the state before it allows it (`event_placing`, over gaps
`missing_events`); 6 the current state allows it (`received_events`, in the commit loop); 7 the
room's policy server has signed it (`policy_checks`, asked before the room's queue).

Invariants: a room's events are processed one after another; the answer comes after the commit; a
rejected or soft-failed event is never shown and never built upon. No server is waited for in the
queue: events of which something is missing step aside until their server has answered, and those
of others go on.
"""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from twisted.internet.defer import CancelledError, Deferred

from homeserver.background import Background
from homeserver.core.errors import MissingEvent
from homeserver.core.events import Event
from homeserver.core.identifiers import EventID, RoomID
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.policy_servers import POLICY_KEY_ID, PolicyServer, add_policy_signature
from homeserver.engine.auth_chains import TooFarToWalk
from homeserver.engine.event_placing import EventPlacing, Outcome
from homeserver.engine.kept_answers import KeptAnswers
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.missing_events import MissingEvents
from homeserver.engine.pdu_checks import PDUChecks
from homeserver.engine.policy_checks import Judged, Opinion, PolicyChecks, policy_server_of
from homeserver.engine.recorded_server import RecordedServer, Unanswered
from homeserver.engine.remote_server import RemoteFailure, RemoteServer
from homeserver.engine.room_writer import RoomWriter
from homeserver.errors import NotFound, ServiceUnavailable

logger = logging.getLogger(__name__)

_MAX_WAITING = 1_000
"""Events in line in one room."""
_MAX_ASIDE = 5_000
"""Events of one room that have stepped aside: more than one server has under way in all."""
_MAX_RUN = 50
"""Events that share a commit."""
_MAX_REQUESTS = 100
"""What the source may be asked for the sake of one event."""


class CannotDecide(Exception):
    """What an event builds upon cannot be had now: it is dropped, and may be sent again."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What a policy server says of an event, to be kept without the event itself."""

    opinion: Opinion
    server: PolicyServer
    signature: JsonValue
    """None: the event had it, or it has none."""


@dataclass(eq=False, slots=True)
class _Arrival:
    source: RecordedServer
    event: Event
    is_unwanted: bool = False
    is_alone: bool = False
    """It is not placed together with those after it."""
    judged: dict[EventID, _Verdict] = field(default_factory=dict)
    """Of events between it and what is known."""
    answered: Deferred[Outcome | Exception] = field(default_factory=Deferred)
    """Failures too are its results: nobody may ever come to await it."""

    def answer(self, answer: Outcome | Exception) -> None:
        self.source.forget()
        if not self.answered.called:
            self.answered.callback(answer)

    async def wait(self) -> Outcome | Exception:
        """Return the answer. Raises CancelledError when the event was given up."""
        answer = await self.answered
        if isinstance(answer, CancelledError):
            raise answer
        return answer


_Lane = deque[_Arrival]
"""Events that came together, in their order."""


@dataclass(eq=False, slots=True)
class _Queue:
    lanes: deque[_Lane] = field(default_factory=deque)
    """Those whose turn will come."""
    waiting: int = 0
    """Events in all lanes, also in those that have stepped aside."""
    aside: int = 0
    is_served: bool = False


class InboundEvents:
    def __init__(
        self,
        checks: PDUChecks,
        missing: MissingEvents,
        placing: EventPlacing,
        writer: RoomWriter,
        policy: PolicyChecks,
        background: Background,
    ) -> None:
        self._checks = checks
        self._policy = policy
        self._missing = missing
        self._placing = placing
        self._writer = writer
        self._background = background
        self._queues: dict[RoomID, _Queue] = {}
        self.kept = KeptAnswers()
        """Of the servers of all events that have no answer yet."""

    async def receive(self, source: RemoteServer, room_id: RoomID, pdu: JsonObject) -> Outcome:
        """Check one event and take it in. `source` is asked for what is missing.

        Raises EventMalformed and SignatureInvalid for an event that is dropped, CannotDecide,
        NotFound for an unknown room, ServiceUnavailable when too much waits for this room.
        """
        room = await self._writer.find_room(room_id)
        event = await self._checks.check(room, pdu)  # 1, 2, 3
        arrival = self._arrive(source, room_id, event)
        if policy_server_of(room) is not None:
            await self._judge(room, [arrival])
        self._enqueue(room_id, [arrival])
        answer = await arrival.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer

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
            place: self._arrive(source, room_id, found)
            for place, found in enumerate(checked)
            if isinstance(found, Event)
        }
        if policy_server_of(room) is not None:
            await self._judge(room, list(arrivals.values()))
        try:
            self._enqueue(room_id, list(arrivals.values()))
        except ServiceUnavailable as error:
            return [error for _ in pdus]
        answers: list[Outcome | Exception] = []
        for place, found in enumerate(checked):
            if isinstance(found, Event):
                answers.append(await arrivals[place].wait())
            else:
                answers.append(found)
        return answers

    def _arrive(self, source: RemoteServer, room_id: RoomID, event: Event) -> _Arrival:
        return _Arrival(RecordedServer(source, room_id, _MAX_REQUESTS, self.kept), event)

    async def _judge(self, room: LiveRoom, arrivals: Sequence[_Arrival]) -> None:
        judged = await self._policy.judge(room, [arrival.event for arrival in arrivals])
        for arrival, found in zip(arrivals, judged, strict=True):
            arrival.event = found.event
            arrival.is_unwanted = found.opinion is not Opinion.RECOMMENDED
            arrival.is_alone = arrival.is_unwanted

    def _enqueue(self, room_id: RoomID, arrivals: Sequence[_Arrival]) -> None:
        if self._background.is_stopped:
            raise ServiceUnavailable("The server is stopping", retry_after_ms=5000)
        queue = self._queues.get(room_id)
        if queue is not None and queue.waiting - queue.aside + len(arrivals) > _MAX_WAITING:
            raise ServiceUnavailable("Too many events of this room wait", retry_after_ms=5000)
        if arrivals:
            if queue is None:
                queue = self._queues[room_id] = _Queue()
            queue.waiting += len(arrivals)
            self._line_up(room_id, queue, deque(arrivals))

    def _line_up(self, room_id: RoomID, queue: _Queue, lane: _Lane) -> None:
        queue.lanes.append(lane)
        if not queue.is_served:
            queue.is_served = True
            self._background.run("inbound events", self._serve(room_id, queue))

    async def _serve(self, room_id: RoomID, queue: _Queue) -> None:
        try:
            while queue.lanes:
                await self._serve_lane(room_id, queue, queue.lanes[0])
                queue.lanes.popleft()  # it is at its end, or has stepped aside
        finally:
            queue.is_served = False
            left, queue.lanes = queue.lanes, deque()
            for lane in left:
                self._give_up(room_id, queue, lane)

    async def _serve_lane(self, room_id: RoomID, queue: _Queue, lane: _Lane) -> None:
        """Take in events until there are no more, or one that its server must be asked about."""
        while lane:
            try:
                count = await self._answer_some(room_id, _first_run(lane))
            except Unanswered as question:
                if self._background.is_stopped:
                    self._give_up(room_id, queue, lane)
                    return
                if queue.aside + len(lane) <= _MAX_ASIDE:
                    asking = self._ask(room_id, queue, lane, question)
                    self._background.run("inbound events", asking)
                    return
                lane[0].answer(CannotDecide("too many events wait for what is missing"))
                count = 1
            self._strike_off(room_id, queue, lane, count)

    async def _ask(self, room_id: RoomID, queue: _Queue, lane: _Lane, question: Unanswered) -> None:
        count = len(lane)
        queue.aside += count
        try:
            await question.ask()
        except CancelledError:
            self._give_up(room_id, queue, lane)
            raise
        except Exception as error:  # noqa: BLE001 - carried to whoever awaits it
            lane[0].answer(error)
            self._strike_off(room_id, queue, lane, 1)
        finally:
            queue.aside -= count
        if lane:
            self._line_up(room_id, queue, lane)

    def _strike_off(self, room_id: RoomID, queue: _Queue, lane: _Lane, count: int) -> None:
        for _ in range(count):
            lane.popleft()
        queue.waiting -= count
        if not queue.waiting:
            del self._queues[room_id]

    def _give_up(self, room_id: RoomID, queue: _Queue, lane: _Lane) -> None:
        for arrival in lane:
            arrival.answer(CancelledError())
        if lane:
            self._strike_off(room_id, queue, lane, len(lane))

    async def _answer_some(self, room_id: RoomID, run: Sequence[_Arrival]) -> int:
        """Take in a run together or, when that cannot be, its first event; return how many.

        Raises Unanswered, with nothing answered.
        """
        first = run[0]
        if not first.is_alone:
            try:
                outcomes = await self._placing.place_run(
                    room_id, first.source, [arrival.event for arrival in run]
                )
            except (CancelledError, Unanswered):
                raise
            except Exception as error:  # noqa: BLE001 - carried to whoever awaits it
                if len(run) == 1:
                    first.answer(error)
                    return 1
                logger.info("Events not placed together room=%s: %s", room_id, error)
                outcomes = None
            if outcomes is not None:
                for arrival, outcome in zip(run, outcomes, strict=True):
                    arrival.answer(outcome)
                return len(run)
        for arrival in run:
            arrival.is_alone = True
        try:
            first.answer(await self._process(room_id, first))
        except (CancelledError, Unanswered):
            raise
        except (MissingEvent, RemoteFailure, TooFarToWalk) as error:
            logger.info("Event not decided event=%s: %s", first.event.event_id, error)
            first.answer(CannotDecide(str(error)))
        except Exception as error:  # noqa: BLE001 - carried to whoever awaits it
            first.answer(error)
        return 1

    async def _process(self, room_id: RoomID, arrival: _Arrival) -> Outcome:
        """Take in an event, first those between it and what is known (4, 5, 6 for each)."""
        event, source = arrival.event, arrival.source
        room = await self._writer.find_room(room_id)
        if await self._missing.list_unknown(room, [event.event_id]):
            ancestors = await self._missing.fetch(room, source, event)
            for found in await self._judge_ancestors(room, arrival, ancestors):
                ancestor, is_unwanted = found.event, found.opinion is not Opinion.RECOMMENDED
                try:
                    await self._placing.place(room_id, source, ancestor, is_unwanted=is_unwanted)
                except (MissingEvent, RemoteFailure, TooFarToWalk) as error:
                    logger.info("Event not decided event=%s: %s", ancestor.event_id, error)
        return await self._placing.place(room_id, source, event, is_unwanted=arrival.is_unwanted)

    async def _judge_ancestors(
        self, room: LiveRoom, arrival: _Arrival, ancestors: Sequence[Event]
    ) -> list[Judged]:
        server = policy_server_of(room)
        if server is None:
            return [Judged(ancestor, Opinion.RECOMMENDED) for ancestor in ancestors]
        judged = arrival.judged
        new = [ancestor for ancestor in ancestors if ancestor.event_id not in judged]

        async def ask() -> None:
            for ancestor, found in zip(new, await self._policy.judge(room, new), strict=True):
                is_signed = found.event is not ancestor
                signature = _policy_signature(found.event, server) if is_signed else None
                judged[ancestor.event_id] = _Verdict(found.opinion, server, signature)

        if new:
            raise Unanswered(ask)
        return [_judged(ancestor, judged[ancestor.event_id]) for ancestor in ancestors]


def _policy_signature(event: Event, server: PolicyServer) -> JsonValue:
    signatures = event.pdu.get("signatures")
    by_server = signatures.get(server.name) if isinstance(signatures, dict) else None
    return by_server.get(POLICY_KEY_ID) if isinstance(by_server, dict) else None


def _judged(event: Event, verdict: _Verdict) -> Judged:
    if isinstance(verdict.signature, str):
        event = add_policy_signature(event, verdict.server, verdict.signature)
    return Judged(event, verdict.opinion)


def _first_run(lane: _Lane) -> list[_Arrival]:
    """Return the first event, and those after it that simply follow each other."""
    run = [lane[0]]
    for following in islice(lane, 1, _MAX_RUN):
        last = run[-1]
        if last.event.is_state or last.is_alone or following.is_alone:
            break
        if tuple(following.event.prev_events) != (last.event.event_id,):
            break
        run.append(following)
    return run
