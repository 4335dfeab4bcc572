"""The auth events of received events: fetched and stored where they are unknown, and checked.

spec: server-server-api/#checks-performed-on-receipt-of-a-pdu, step 4, #auth-events-selection,
v1.19. Invariant: an event is stored after its auth events, each of which has passed the same
checks; an event whose auth events cannot be had is not stored at all.
"""

from collections.abc import Collection, Container, Mapping, Sequence

from twisted.internet.defer import Deferred

from homeserver.background import both
from homeserver.core.errors import EventMalformed, EventRejected, MissingEvent, SignatureInvalid
from homeserver.core.event_auth import check_auth_events_selection, check_event_auth
from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.engine.event_graph import EventGraph, Node, node_of
from homeserver.engine.event_rows import place_of, will_store
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.pdu_checks import PDUChecks
from homeserver.engine.received_events import Moved, Outlier, ReceivedEvents
from homeserver.engine.remote_server import RemoteFailure, RemoteServer
from homeserver.engine.room_change import RoomChange
from homeserver.engine.room_writer import RoomWriter
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.errors import ServiceUnavailable
from homeserver.storage.event_graph import StatePlace
from homeserver.storage.events import REJECTED, NewEvent

MAX_AUTH_CHAIN = 50_000
_AT_ONCE = 500
_MAX_MOVES = 50
_CREATE = ("m.room.create", "")


class AuthorizingEvents:
    def __init__(
        self,
        graph: EventGraph,
        checks: PDUChecks,
        received: ReceivedEvents,
        writer: RoomWriter,
    ) -> None:
        self._graph = graph
        self._checks = checks
        self._received = received
        self._writer = writer

    async def load(self, room: LiveRoom, source: RemoteServer, event: Event) -> list[Node]:
        """Return the auth events of an event, fetched if need be.

        Raises EventRejected if one is of another room, MissingEvent if one cannot be had.
        """
        known = await self._graph.load(room, event.auth_events)
        missing = [auth_id for auth_id in event.auth_events if auth_id not in known]
        if missing:
            elsewhere = await self._graph.list_elsewhere(room, missing)
            if elsewhere:
                raise EventRejected("auth_events.other_room", f"{min(elsewhere)} is elsewhere")
            try:
                pdus = await source.get_event_auth(room.room_id, event.event_id)
            except RemoteFailure:
                pdus = ()
            pool = await self._checks.check_all(room, pdus, MAX_AUTH_CHAIN)
            await self.store(room, source, pool, missing)
            known = await self._graph.load(room, event.auth_events)
            missing = [auth_id for auth_id in event.auth_events if auth_id not in known]
        if missing:
            raise MissingEvent(missing)
        return [known[auth_id] for auth_id in event.auth_events]

    async def check(self, room: LiveRoom, event: Event, cited: Sequence[Node]) -> None:
        """Raise EventRejected unless the auth events are the right ones and allow the event."""
        create = await self._create_of(room)
        rejected = {node.event.event_id for node in cited if node.is_rejected}
        _check(event, [node.event for node in cited], rejected, create)

    async def _create_of(self, room: LiveRoom) -> Event | None:
        """Return m.room.create where auth events leave it out."""
        create_id = _create_id(room)
        if create_id is None:
            return None
        node = (await self._graph.load(room, [create_id])).get(create_id)
        return None if node is None or node.is_rejected else node.event

    async def store(
        self,
        room: LiveRoom,
        source: RemoteServer,
        pool: Mapping[EventID, Event],
        wanted: Collection[EventID],
        limit: int = MAX_AUTH_CHAIN,
    ) -> dict[EventID, StatePlace]:
        """Store those of the wanted events that are unknown, as outliers, with what they cite.

        Returns the places of what is stored now of the wanted ones, and of what was stored here.

        1. Collect the unknown ones, from the pool or one by one from the server.
        2. Put each after those it cites; what cites something that cannot be had is left out.
        3. Check and store them, a part at a time.
        """
        mark = self._graph.mark(room)
        places, _ = await both(
            Deferred.fromCoroutine(self._graph.list_state_places(room, wanted)),
            Deferred.fromCoroutine(self._writer.number([pool[i] for i in wanted if i in pool])),
        )
        unknown = set(wanted) - places.keys()
        new, known = await self._collect(room, source, pool, unknown, limit)  # 1
        judged = _Judged(known, _create_id(room))
        numbers = {event_id: node.event_nid for event_id, node in known.items()}
        ordered = in_order(new, known.keys())  # 2
        ordered.sort(key=lambda event: event.event_id != judged.create_id)
        for start in range(0, len(ordered), _AT_ONCE):  # 3
            outliers = [judged.judge(event) for event in ordered[start : start + _AT_ONCE]]
            for event_id, place in (await self._write(room, outliers, numbers, mark)).items():
                places[event_id] = place
                numbers[event_id] = place.event_nid
                if place.flags & REJECTED:
                    judged.rejected.add(event_id)
        return places

    async def _collect(
        self,
        room: LiveRoom,
        source: RemoteServer,
        pool: Mapping[EventID, Event],
        unknown: Collection[EventID],
        limit: int,
    ) -> tuple[dict[EventID, Event], dict[EventID, Node]]:
        """Return events that are not stored, with what they cite, and the stored ones among that.

        What nobody cites but all depend on, m.room.create from version 12 on, counts as cited.
        """
        new: dict[EventID, Event] = {}
        known: dict[EventID, Node] = {}
        create_id = _create_id(room)
        cited: set[EventID] = set() if create_id is None else {create_id}
        pending = set(unknown)
        while (pending or cited) and len(new) <= limit:
            for event_id in pending:
                event = pool.get(event_id) or await self._fetch(room, source, event_id)
                if event is not None:
                    new[event_id] = event
                    cited.update(event.auth_events)
            cited -= new.keys() | known.keys() | pending
            known |= await self._graph.load(room, cited)
            pending, cited = cited - known.keys(), set()
        return new, known

    async def _fetch(self, room: LiveRoom, source: RemoteServer, event_id: EventID) -> Event | None:
        try:
            event = await self._checks.check(room, await source.get_event(event_id))
        except (RemoteFailure, EventMalformed, SignatureInvalid):
            return None
        return event if event.event_id == event_id else None

    async def _write(
        self,
        room: LiveRoom,
        outliers: Sequence[Outlier],
        numbers: Mapping[EventID, int],
        mark: object,
    ) -> dict[EventID, StatePlace]:
        """Store events that were unknown at a mark of the graph; return the places of all.

        Some may have come by another way meanwhile: then it is looked up which.
        """
        known: dict[EventID, StatePlace] = {}
        rows: list[NewEvent] = []
        for _ in range(_MAX_MOVES):
            new = [one for one in outliers if one.event.event_id not in known]
            new_ids = [one.event.event_id for one in new]
            cited = {**numbers, **{event_id: place.event_nid for event_id, place in known.items()}}
            seen = mark

            def build(
                change: RoomChange,
                new: Sequence[Outlier] = new,
                new_ids: Sequence[EventID] = new_ids,
                cited: Mapping[EventID, int] = cited,
                seen: object = seen,
            ) -> list[TimelineEvent]:
                if not self._graph.has_all_since(room, seen):
                    raise Moved("events")
                if self._graph.find(room, new_ids) or will_store(change, new_ids):
                    raise Moved("events")
                rows[:] = self._received.take_in_outliers(change, new, cited)
                return []

            try:
                await self._writer.write(room.room_id, [one.event for one in new], build)
            except Moved:
                mark = self._graph.mark(room)
                event_ids = [one.event.event_id for one in outliers]
                known = await self._graph.list_state_places(room, event_ids)
                continue
            for one, row in zip(new, rows, strict=True):
                self._graph.add(room, node_of(one.event, row))
                known[one.event.event_id] = place_of(row)
            return known
        raise ServiceUnavailable("The room moves too fast", retry_after_ms=2000)


class _Judged:
    """Events and what the rules say of them, each judged after those it cites."""

    def __init__(self, known: Mapping[EventID, Node], create_id: EventID | None) -> None:
        """`create_id` where auth events leave m.room.create out."""
        self.create_id = create_id
        self._events = {event_id: node.event for event_id, node in known.items()}
        self.rejected = {event_id for event_id, node in known.items() if node.is_rejected}

    def judge(self, event: Event) -> Outlier:
        cited = [self._events[auth_id] for auth_id in event.auth_events]
        create = None
        if self.create_id is not None and self.create_id not in self.rejected:
            create = self._events.get(self.create_id)
        try:
            _check(event, cited, self.rejected, create)
        except EventRejected:
            self.rejected.add(event.event_id)
        self._events[event.event_id] = event
        return Outlier(event, event.event_id in self.rejected)


def _check(
    event: Event, cited: Sequence[Event], rejected: Collection[EventID], create: Event | None
) -> None:
    check_auth_events_selection(event, cited)
    for auth_event in cited:
        if auth_event.event_id in rejected:
            raise EventRejected("auth_events.rejected", f"{auth_event.event_id} was rejected")
    auth = {(found.type, found.state_key or ""): found for found in cited}
    if create is not None:
        auth[_CREATE] = create
    check_event_auth(event, auth)


def _create_id(room: LiveRoom) -> EventID | None:
    """Return the id of m.room.create where auth events leave it out."""
    return EventID("$" + room.room_id[1:]) if room.version.room_id_is_create_hash else None


def in_order(events: Mapping[EventID, Event], known: Container[EventID]) -> list[Event]:
    """Return the events that can be reached from known ones by citations, cited ones first."""
    lacking = {
        event_id: {auth_id for auth_id in event.auth_events if auth_id not in known}
        for event_id, event in events.items()
    }
    cited_by: dict[EventID, list[EventID]] = {}
    for event_id, cited in lacking.items():
        for auth_id in cited:
            cited_by.setdefault(auth_id, []).append(event_id)
    ready = [event_id for event_id, cited in lacking.items() if not cited]
    ordered = []
    while ready:
        event_id = ready.pop()
        ordered.append(events[event_id])
        for citing in cited_by.get(event_id, ()):
            lacking[citing].discard(event_id)
            if not lacking[citing]:
                ready.append(citing)
    return ordered
