"""Giving a received event its place in the room's graph: checks 4 to 6.

spec: server-server-api/#checks-performed-on-receipt-of-a-pdu, #rejection, v1.19. Invariant: what
is decided here follows from the graph alone, but for soft failure, which the current state decides
when the event is written.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum

from homeserver.core.errors import EventRejected, MissingEvent
from homeserver.core.event_auth import check_event_auth, may_apply_redaction
from homeserver.core.events import Event
from homeserver.core.identifiers import EventID, RoomID
from homeserver.core.power_levels import PowerLevels, power_levels_of
from homeserver.engine.auth_chains import TooFarToWalk
from homeserver.engine.authorizing_events import AuthorizingEvents
from homeserver.engine.event_graph import EventGraph, Node
from homeserver.engine.event_rows import will_store
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.missing_events import MissingEvents
from homeserver.engine.not_loaded import Wanted
from homeserver.engine.received_events import (
    Moved,
    ReceivedEvent,
    ReceivedEvents,
    Taken,
    add_members,
)
from homeserver.engine.remote_server import CountedServer, RemoteFailure, RemoteServer
from homeserver.engine.room_change import EventTemplate, RoomChange
from homeserver.engine.room_writer import RoomWriter
from homeserver.engine.state_at_event import StateAtEvent
from homeserver.engine.state_store import Snapshot
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.errors import ServiceUnavailable
from homeserver.storage.events import REJECTED, SOFT_FAILED
from homeserver.storage.partial_state import Partial

logger = logging.getLogger(__name__)

_MAX_MOVES = 50
_MAX_HIDDEN_PARENTS = 500
_NOBODY = CountedServer(None, 0)


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
        self._awaited: set[EventID] = set()

    @contextmanager
    def awaiting_own(self, event_id: EventID) -> Iterator[None]:
        """Leave an event to `place_own` that another server may tell before it is called.

        Placed as that server's, it would have to be made again, and be said twice.
        """
        self._awaited.add(event_id)
        try:
            yield
        finally:
            self._awaited.discard(event_id)

    async def place(
        self,
        room_id: RoomID,
        source: RemoteServer,
        event: Event,
        *,
        is_history: bool = False,
        is_unwanted: bool = False,
    ) -> Outcome:
        """Check and store an event that has passed the checks 1 to 3.

        is_history   it is old, see `ReceivedEvent`: check 6 is not for it
        is_unwanted  what check 7 has found: the room's policy server has not signed it
        Raises RemoteFailure, MissingEvent, TooFarToWalk when it cannot be decided now.
        """
        if event.event_id in self._awaited:
            return Outcome.KNOWN
        for _ in range(_MAX_MOVES):
            room = await self._writer.find_room(room_id)
            self._graph.make_space(room)
            known = (await self._graph.load(room, [event.event_id])).get(event.event_id)
            if known is not None and not known.is_outlier:
                return Outcome.KNOWN
            partial = room.partial
            received = await self._prepare(
                room, source, event, is_history=is_history, is_unwanted=is_unwanted
            )
            if received.outlier is not None and not received.outlier.is_outlier:
                return Outcome.KNOWN  # by another way, while its state was asked for
            children = await self._graph.list_waiting_children(room, event.event_id)
            try:
                taken = await self._write(room, [received], partial)
            except Moved:
                continue
            for child in children:
                numbers = (*child.prev_events, taken[0].node.event_nid)
                self._graph.add(room, replace(child, prev_events=numbers))
            return _outcome(taken[0])
        raise ServiceUnavailable("The room moves too fast", retry_after_ms=2000)

    async def place_own(
        self, room_id: RoomID, event: Event, template: EventTemplate
    ) -> TimelineEvent:
        """Store an event that was made here, upon what were the room's extremities then.

        Raises EventRejected when the room has moved on such that it must be made again.
        """
        for _ in range(_MAX_MOVES):
            room = await self._writer.find_room(room_id)
            self._graph.make_space(room)
            if await self._graph.is_any_known(room, [event.event_id]):
                raise EventRejected("own.known", "the same event is there already")
            partial = room.partial
            received = await self._prepare(room, _NOBODY, event)
            if received.outlier is not None:
                raise EventRejected("own.known", "the same event is there already")
            if received.is_rejected:
                raise EventRejected("own.moved", "the room does not allow this any more")
            try:
                taken = await self._write(room, [replace(received, template=template)], partial)
            except Moved:
                continue
            return taken[0].event
        raise ServiceUnavailable("The room moves too fast", retry_after_ms=2000)

    async def place_run(
        self, room_id: RoomID, source: RemoteServer, events: Sequence[Event]
    ) -> list[Outcome] | None:
        """Place events in one commit, each of which has the one before as its only parent.

        All but the last are no state. None, with nothing done, if it is not as simple as that:
        each is then to be placed by itself.
        """
        room = await self._writer.find_room(room_id)
        self._graph.make_space(room)
        event_ids = [event.event_id for event in events]
        if not self._awaited.isdisjoint(event_ids):
            return None
        if {tip.event_id for tip in room.tips} != set(events[0].prev_events):
            return None
        if any(event.redacts is not None for event in events):
            return None
        if await self._graph.is_any_known(room, event_ids):
            return None
        partial = room.partial
        try:
            received = [await self._prepare_next(room, source, event) for event in events]
            taken = await self._write(room, received, partial)
        except (Moved, MissingEvent, RemoteFailure, TooFarToWalk):
            return None
        return [_outcome(one) for one in taken]

    async def _write(
        self, room: LiveRoom, run: Sequence[ReceivedEvent], partial: Partial | None
    ) -> list[Taken]:
        """Raises Moved if the room is `partial` no more: what it lacked then is in no state now."""
        taken: list[Taken] = []

        def build(change: RoomChange) -> list[TimelineEvent]:
            if change.partial != partial:
                raise Moved("members")
            taken.clear()
            for received in run:
                self._check_not_taken(change, received)
                parents = [tip.event_nid for tip in change.tips]
                is_next = received.before is None
                following = replace(received, parents=parents, covered=parents)
                taken.append(self._received.take_in(change, following if is_next else received))
            return []

        try:
            await self._writer.write(room.room_id, [received.event for received in run], build)
        finally:
            room.awaited.clear()
        for one in taken:
            self._state_at.remember(room, one.states)
            self._graph.add(room, one.node)
        return taken

    def _check_not_taken(self, change: RoomChange, received: ReceivedEvent) -> None:
        """Raise Moved if the event, or a parent, has come by another way since it was prepared."""
        event_id, outlier = received.event.event_id, received.outlier
        unknown = [event_id, *received.missing_parents]
        for node in self._graph.find(change.room, unknown).values():
            is_new = node.event.event_id == event_id and outlier is None
            if is_new or not node.is_outlier:
                raise Moved("the graph")
        placed = {row.event_nid for row in change.received.placed}
        if will_store(change, unknown) or (outlier is not None and outlier.event_nid in placed):
            raise Moved("the graph")

    async def _prepare_next(
        self, room: LiveRoom, source: RemoteServer, event: Event
    ) -> ReceivedEvent:
        """Decide what can be of an event whose parent is not there yet, but will be."""
        cited, allowed = await self._check_auth_events(room, source, event)
        return ReceivedEvent(
            event,
            before=None,
            is_rejected=not allowed,
            parents=(),
            missing_parents=(),
            cited=cited,
            covered=(),
            has_child=False,
            outlier=None,
            redacted=None,
            target_is_unknown=False,
            redaction=None,
        )

    async def _prepare(
        self,
        room: LiveRoom,
        source: RemoteServer,
        event: Event,
        *,
        is_history: bool = False,
        is_unwanted: bool = False,
    ) -> ReceivedEvent:
        """Decide all that follows from the graph.

        4. The auth events allow it, or it is rejected.
        5. So does the state before it; where that is the current state, it is asked in the end.
        """
        cited, allowed = await self._check_auth_events(room, source, event)  # 4
        nodes = await self._graph.load(room, event.prev_events)
        parents = [node for node in nodes.values() if not node.is_outlier]
        missing = await self._missing.list_unknown(room, event.prev_events)
        before = None
        if is_history or is_unwanted or not _follows_tips(room, event):  # 5
            before = await self._state_before(room, source, event, parents)
        if allowed and before is not None:
            allowed = await self._is_allowed(room, event, before, cited)
        levels = room.power_levels
        if event.redacts is not None and allowed and is_history and before is not None:
            levels = await self._levels(room, before, event)
        redacted, target_is_unknown = await self._find_redacted(room, event, levels)
        # Only now: it may have come meanwhile, in the state that a server gave for a parent of it.
        outlier = (await self._graph.load(room, [event.event_id])).get(event.event_id)
        return ReceivedEvent(
            event,
            before,
            is_rejected=not allowed,
            parents=[node.event_nid for node in parents],
            missing_parents=missing,
            cited=cited,
            covered=await self._covered(room, parents),
            has_child=await self._graph.has_child(room, event.event_id),
            outlier=outlier,
            redacted=redacted,
            target_is_unknown=target_is_unknown,
            redaction=await self._find_redaction(room, event),
            is_history=is_history,
            is_unwanted=is_unwanted,
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
    ) -> Snapshot:
        if not event.prev_events:
            return self._state_at.empty(room)
        branches = [await self._state_at.after(room, parent) for parent in parents]
        known = {parent.event.event_id for parent in parents}
        branches += [
            await self._missing.state_after_unknown(room, source, parent_id)
            for parent_id in event.prev_events
            if parent_id not in known
        ]
        return await self._state_at.merge(room, branches)

    async def _is_allowed(
        self, room: LiveRoom, event: Event, before: Snapshot, cited: Sequence[Node]
    ) -> bool:
        auth = await self._state_at.load_authorizing(room, before.state, event)
        if room.is_partial:
            auth = add_members(auth, cited)
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

    async def _levels(self, room: LiveRoom, before: Snapshot, redaction: Event) -> PowerLevels:
        """Return what counted when an event was redacted: its sender may have lost it since."""
        auth = await self._state_at.load_authorizing(room, before.state, redaction)
        return power_levels_of(room.version, auth)

    async def _find_redacted(
        self, room: LiveRoom, event: Event, levels: PowerLevels
    ) -> tuple[TimelineEvent | None, bool]:
        """Return what an m.room.redaction redacts, and whether that has yet to be seen."""
        if event.redacts is None:
            return None, False
        target = (await self._graph.load(room, [event.redacts])).get(event.redacts)
        if target is None:
            return None, True
        if not may_apply_redaction(event, target.event, levels):
            return None, False
        await self._state_at.load(room, Wanted(timeline=[target.event_nid]))
        return room.awaited.get(target.event_nid), False

    async def _find_redaction(self, room: LiveRoom, event: Event) -> Node | None:
        for redaction in await self._graph.list_waiting_redactions(room, event.event_id):
            before = await self._state_at.after(room, redaction)  # it is no state itself
            levels = await self._levels(room, before, redaction.event)
            if may_apply_redaction(redaction.event, event, levels):
                return redaction
        return None


def _follows_tips(room: LiveRoom, event: Event) -> bool:
    return bool(event.prev_events) and {tip.event_id for tip in room.tips} == set(event.prev_events)


def _outcome(taken: Taken) -> Outcome:
    if taken.node.flags & REJECTED:
        return Outcome.REJECTED
    return Outcome.SOFT_FAILED if taken.node.flags & SOFT_FAILED else Outcome.ACCEPTED
