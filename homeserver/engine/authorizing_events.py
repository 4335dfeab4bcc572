"""The auth events of received events: fetched and stored where they are unknown, and checked.

spec: server-server-api/#checks-performed-on-receipt-of-a-pdu, step 4, #auth-events-selection,
v1.19. Invariant: an event is stored after its auth events, each of which has passed the same
checks; an event whose auth events cannot be had is not stored at all.
"""

from collections.abc import Collection, Mapping, Sequence

from homeserver.core.errors import EventMalformed, EventRejected, MissingEvent, SignatureInvalid
from homeserver.core.event_auth import check_auth_events_selection, check_event_auth
from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.engine.event_graph import EventGraph, Node
from homeserver.engine.event_rows import will_store
from homeserver.engine.live_rooms import LiveRoom
from homeserver.engine.pdu_checks import PDUChecks
from homeserver.engine.received_events import Moved, Outlier, ReceivedEvents
from homeserver.engine.remote_server import RemoteFailure, RemoteServer
from homeserver.engine.room_change import RoomChange
from homeserver.engine.room_writer import RoomWriter
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.errors import ServiceUnavailable

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
    ) -> dict[EventID, Node]:
        """Store those of the wanted events that are unknown, as outliers, with what they cite.

        Returns what is stored of the wanted ones now, and of what they cite.

        1. Collect the unknown ones, from the pool or one by one from the server. What nobody
           cites but all depend on, m.room.create from version 12 on, is one of them.
        2. Put each after those it cites; what cites something that cannot be had is left out.
        3. Check and store them, a part at a time.
        """
        known: dict[EventID, Node] = {}
        new: dict[EventID, Event] = {}
        pending = set(wanted)
        create_id = _create_id(room)
        if create_id is not None:
            pending.add(create_id)
        while pending and len(new) <= limit:  # 1
            known |= await self._graph.load(room, pending)
            cited: set[EventID] = set()
            for event_id in pending - known.keys():
                event = pool.get(event_id) or await self._fetch(room, source, event_id)
                if event is not None:
                    new[event_id] = event
                    cited.update(event.auth_events)
            pending = cited - known.keys() - new.keys()
        known_events = {event_id: node.event for event_id, node in known.items()}
        rejected = {event_id for event_id, node in known.items() if node.is_rejected}
        numbers = {event_id: node.event_nid for event_id, node in known.items()}
        create_key = create_id or EventID("")
        ordered = _in_order(new, known.keys())  # 2
        ordered.sort(key=lambda event: event.event_id != create_id)
        for start in range(0, len(ordered), _AT_ONCE):
            outliers = []
            for event in ordered[start : start + _AT_ONCE]:
                cited_events = [known_events[auth_id] for auth_id in event.auth_events]
                create = None if create_key in rejected else known_events.get(create_key)
                try:
                    _check(event, cited_events, rejected, create)  # 3
                except EventRejected:
                    rejected.add(event.event_id)
                known_events[event.event_id] = event
                outliers.append(Outlier(event, event.event_id in rejected))
            for node in await self._write(room, outliers, numbers):
                numbers[node.event.event_id] = node.event_nid
                known[node.event.event_id] = node
                if node.is_rejected:
                    rejected.add(node.event.event_id)
        return known

    async def _fetch(self, room: LiveRoom, source: RemoteServer, event_id: EventID) -> Event | None:
        try:
            event = await self._checks.check(room, await source.get_event(event_id))
        except (RemoteFailure, EventMalformed, SignatureInvalid):
            return None
        return event if event.event_id == event_id else None

    async def _write(
        self, room: LiveRoom, outliers: Sequence[Outlier], numbers: Mapping[EventID, int]
    ) -> list[Node]:
        """Store events, but for those that have come by another way meanwhile."""
        event_ids = [outlier.event.event_id for outlier in outliers]
        known: dict[EventID, Node] = {}
        nodes: list[Node] = []

        def build(change: RoomChange) -> list[TimelineEvent]:
            known.update(self._graph.find(room, event_ids))
            new = [outlier for outlier in outliers if outlier.event.event_id not in known]
            if will_store(change, [outlier.event.event_id for outlier in new]):
                raise Moved("events")
            cited = {**numbers, **{event_id: node.event_nid for event_id, node in known.items()}}
            nodes[:] = self._received.take_in_outliers(change, new, cited)
            return []

        for _ in range(_MAX_MOVES):
            known |= await self._graph.load(room, event_ids)
            try:
                await self._writer.write(room.room_id, [one.event for one in outliers], build)
            except Moved:
                continue
            for node in nodes:
                self._graph.add(room, node)
            return [*known.values(), *nodes]
        raise ServiceUnavailable("The room moves too fast", retry_after_ms=2000)


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


def _in_order(events: Mapping[EventID, Event], known: Collection[EventID]) -> list[Event]:
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
