"""Giving a received event its place in the room's graph: checks 4 to 6.

spec: server-server-api/#checks-performed-on-receipt-of-a-pdu, #rejection, v1.19. Invariant: what
is decided here follows from the graph alone, but for soft failure, which the current state decides
when the event is written.
"""

import logging
from collections.abc import Sequence
from enum import Enum

from homeserver.core.errors import EventRejected
from homeserver.core.event_auth import check_event_auth, may_apply_redaction
from homeserver.core.events import Event
from homeserver.core.identifiers import RoomID
from homeserver.engine.authorizing_events import AuthorizingEvents
from homeserver.engine.event_graph import EventGraph, Node
from homeserver.engine.live_rooms import LiveRoom
from homeserver.engine.missing_events import MissingEvents
from homeserver.engine.not_loaded import Wanted
from homeserver.engine.received_events import Moved, ReceivedEvent, ReceivedEvents, Taken
from homeserver.engine.remote_server import RemoteServer
from homeserver.engine.room_change import RoomChange
from homeserver.engine.room_writer import RoomWriter
from homeserver.engine.state_at_event import StateAtEvent
from homeserver.engine.state_store import Snapshot
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.errors import ServiceUnavailable
from homeserver.storage.events import REJECTED, SOFT_FAILED

logger = logging.getLogger(__name__)

_MAX_MOVES = 50
_MAX_HIDDEN_PARENTS = 500


class Outcome(Enum):
    ACCEPTED = "accepted"
    SOFT_FAILED = "soft-failed"
    REJECTED = "rejected"
    KNOWN = "known"
    """It was there already."""


class EventPlacing:
    def __init__(
        self,
        graph: EventGraph,
        authorizing: AuthorizingEvents,
        missing: MissingEvents,
        state_at: StateAtEvent,
        received: ReceivedEvents,
        writer: RoomWriter,
    ) -> None:
        self._graph = graph
        self._authorizing = authorizing
        self._missing = missing
        self._state_at = state_at
        self._received = received
        self._writer = writer

    async def place(self, room_id: RoomID, source: RemoteServer, event: Event) -> Outcome:
        """Check and store an event that has passed the checks 1 to 3.

        Raises RemoteFailure, MissingEvent, TooFarToWalk when it cannot be decided now.
        """
        for _ in range(_MAX_MOVES):
            room = await self._writer.find_room(room_id)
            self._graph.make_space(room)
            known = (await self._graph.load(room, [event.event_id])).get(event.event_id)
            if known is not None and not known.is_outlier:
                return Outcome.KNOWN
            received = await self._prepare(room, source, event, known)
            try:
                taken = await self._write(room_id, received)
            except Moved:
                continue
            finally:
                room.awaited.clear()
            self._state_at.remember(room, taken.states)
            self._graph.add(room, taken.node)
            if taken.node.flags & REJECTED:
                return Outcome.REJECTED
            return Outcome.SOFT_FAILED if taken.node.flags & SOFT_FAILED else Outcome.ACCEPTED
        raise ServiceUnavailable("The room moves too fast", retry_after_ms=2000)

    async def _write(self, room_id: RoomID, received: ReceivedEvent) -> Taken:
        taken: list[Taken] = []

        def build(change: RoomChange) -> list[TimelineEvent]:
            taken[:] = [self._received.take_in(change, received)]
            return []

        await self._writer.write(room_id, [received.event], build)
        return taken[0]

    async def _prepare(
        self, room: LiveRoom, source: RemoteServer, event: Event, outlier: Node | None
    ) -> ReceivedEvent:
        """Decide all that follows from the graph.

        4. The auth events allow it, or it is rejected.
        5. So does the state before it; where that is the current state, it is asked in the end.
        """
        cited, allowed = await self._check_auth_events(room, source, event)  # 4
        nodes = await self._graph.load(room, event.prev_events)
        parents = [node for node in nodes.values() if not node.is_outlier]
        missing = await self._missing.list_unknown(room, event.prev_events)
        before = await self._state_before(room, source, event, parents)  # 5
        if allowed and before is not None:
            allowed = await self._is_allowed(room, event, before)
        redacted, target_is_unknown = await self._find_redacted(room, event)
        return ReceivedEvent(
            event,
            before,
            is_rejected=not allowed,
            parents=[node.event_nid for node in parents],
            missing_parents=missing,
            auth_events=[node.event_nid for node in cited],
            covered=await self._covered(room, parents),
            has_child=await self._graph.has_child(room, event.event_id),
            outlier=outlier,
            redacted=redacted,
            target_is_unknown=target_is_unknown,
            redaction=await self._find_redaction(room, event),
        )

    async def _check_auth_events(
        self, room: LiveRoom, source: RemoteServer, event: Event
    ) -> tuple[Sequence[Node], bool]:
        cited: Sequence[Node] = ()
        try:
            cited = await self._authorizing.load(room, source, event)
            await self._authorizing.check(room, event, cited)
        except EventRejected as refused:
            logger.info("Event rejected event=%s by its auth events: %s", event.event_id, refused)
            return cited, False
        return cited, True

    async def _state_before(
        self, room: LiveRoom, source: RemoteServer, event: Event, parents: Sequence[Node]
    ) -> Snapshot | None:
        """Return None when the parents are the extremities: then it is the current state."""
        if not event.prev_events:
            return self._state_at.empty(room)
        if {tip.event_id for tip in room.tips} == set(event.prev_events):
            return None
        branches = [await self._state_at.after(room, parent) for parent in parents]
        known = {parent.event.event_id for parent in parents}
        branches += [
            await self._missing.state_after_unknown(room, source, parent_id)
            for parent_id in event.prev_events
            if parent_id not in known
        ]
        return await self._state_at.merge(room, branches)

    async def _is_allowed(self, room: LiveRoom, event: Event, before: Snapshot) -> bool:
        auth = await self._state_at.load_authorizing(room, before.state, event)
        try:
            check_event_auth(event, auth)
        except EventRejected as refused:
            logger.info("Event rejected event=%s by the state: %s", event.event_id, refused)
            return False
        return True

    async def _covered(self, room: LiveRoom, parents: Sequence[Node]) -> set[int]:
        """Return the parents, and the parents of those that are hidden.

        A hidden event never took the place of its parents as an extremity.
        """
        covered = {parent.event_nid for parent in parents}
        pending = [parent for parent in parents if parent.is_hidden]
        while pending and len(covered) < _MAX_HIDDEN_PARENTS:
            numbers = {number for node in pending for number in node.prev_events} - covered
            found = await self._graph.load_numbers(room, numbers)
            covered.update(numbers)
            pending = [node for node in found.values() if node.is_hidden]
        return covered

    async def _find_redacted(
        self, room: LiveRoom, event: Event
    ) -> tuple[TimelineEvent | None, bool]:
        """Return what an m.room.redaction redacts, and whether that has yet to be seen."""
        if event.redacts is None:
            return None, False
        target = (await self._graph.load(room, [event.redacts])).get(event.redacts)
        if target is None:
            return None, True
        if not may_apply_redaction(event, target.event, room.power_levels):
            return None, False
        await self._state_at.load(room, Wanted(timeline=[target.event_nid]))
        return room.awaited.get(target.event_nid), False

    async def _find_redaction(self, room: LiveRoom, event: Event) -> Node | None:
        for redaction in await self._graph.list_waiting_redactions(room, event.event_id):
            if may_apply_redaction(redaction.event, event, room.power_levels):
                return redaction
        return None
