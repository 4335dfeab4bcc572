"""Gaps in a room's graph: the missing events between, or else the state on the other side.

spec: server-server-api/#backfilling-and-retrieving-missing-events, v1.19. Invariant: whatever
another server answers, the number of requests, events and states that one received event can
cause is bounded.
"""

import logging
from collections.abc import Collection, Hashable, Mapping
from typing import TypeVar

from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.core.state_map import State
from homeserver.engine.authorizing_events import MAX_AUTH_CHAIN, AuthorizingEvents
from homeserver.engine.event_graph import EventGraph
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.pdu_checks import PDUChecks
from homeserver.engine.remote_server import RemoteFailure, RemoteServer
from homeserver.engine.state_at_event import StateAtEvent
from homeserver.engine.state_store import Snapshot, StateStore
from homeserver.storage.events import REJECTED

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
_MAX_ROUNDS = 10
_MAX_MISSING = 200
_EVENTS_A_ROUND = 50
_MAX_STATE = 500_000
_MAX_SINGLE_REQUESTS = 20
"""With more state events missing, the whole state is asked for."""


class MissingEvents:
    def __init__(
        self,
        graph: EventGraph,
        checks: PDUChecks,
        authorizing: AuthorizingEvents,
        states: StateStore,
        state_at: StateAtEvent,
    ) -> None:
        self._graph = graph
        self._checks = checks
        self._authorizing = authorizing
        self._states = states
        self._state_at = state_at

    async def list_unknown(self, room: LiveRoom, event_ids: Collection[EventID]) -> list[EventID]:
        """Return those of the events whose place in the graph is not known."""
        known = await self._graph.load(room, event_ids)
        return [i for i in event_ids if i not in known or known[i].is_outlier]

    async def fetch(self, room: LiveRoom, source: RemoteServer, event: Event) -> list[Event]:
        """Return missing ancestors of an event, parents first; the oldest may lack their own.

        Only what an event at hand names as its parent is taken from the answers, and only the
        first that comes with its id.
        """
        found: dict[EventID, Event] = {}
        wanted = set(await self.list_unknown(room, event.prev_events))
        latest = [event.event_id]
        for _ in range(_MAX_ROUNDS):
            if not wanted or len(found) >= _MAX_MISSING:
                break
            try:
                pdus = await source.get_missing_events(
                    room.room_id,
                    earliest=[tip.event_id for tip in room.tips],
                    latest=latest,
                    limit=_EVENTS_A_ROUND,
                )
            except RemoteFailure as failure:
                logger.info("Missing events not given reason=%s", failure)
                break
            answered = await self._checks.check_all(room, pdus, _EVENTS_A_ROUND)
            before = len(found)
            pending = list(wanted)
            while pending and len(found) < _MAX_MISSING:
                event_id = pending.pop()
                if event_id in found or event_id not in answered:
                    continue
                found[event_id] = answered[event_id]
                wanted.discard(event_id)
                parents = [p for p in answered[event_id].prev_events if p not in found]
                unknown = await self.list_unknown(room, parents)
                wanted.update(unknown)
                pending += unknown
            if len(found) == before:
                break
            latest = [
                event_id
                for event_id, one in found.items()
                if not wanted.isdisjoint(one.prev_events)
            ]
        return parents_first(found)

    async def state_after_unknown(
        self, room: LiveRoom, source: RemoteServer, event_id: EventID
    ) -> Snapshot:
        """Return the state after an event that cannot be had with its history.

        1. The server says what the state before it is.
        2. Events of it that are unknown are fetched, checked, and stored as outliers.
        3. The event itself is put on top if it is state. What is rejected is left out.

        Raises RemoteFailure.
        """
        claimed = await source.get_state_ids(room.room_id, event_id)  # 1
        if len(claimed.state) > _MAX_STATE:
            raise RemoteFailure("the state is too large")
        wanted = dict.fromkeys((*claimed.state, event_id))
        known = await self._graph.list_state_places(room, wanted.keys())
        missing = [one for one in wanted if one not in known]
        if missing:  # 2
            pool: Mapping[EventID, Event] = {}
            if len(missing) > _MAX_SINGLE_REQUESTS:
                pdus = await source.get_state(room.room_id, event_id)
                pool = await self._checks.check_all(
                    room, [*pdus.state, *pdus.auth_chain], _MAX_STATE + MAX_AUTH_CHAIN
                )
            await self._authorizing.store(room, source, pool, missing)
            known |= await self._graph.list_state_places(room, missing)
        state: State = {}
        for claimed_id in claimed.state:
            place = known.get(claimed_id)
            if place is None or place.slot_nid is None or place.flags & REJECTED:
                continue
            if state.setdefault(place.slot_nid, place.event_nid) != place.event_nid:
                raise RemoteFailure("the state has two events in one place")
        itself = known.get(event_id)
        if itself is not None and itself.slot_nid is not None and not itself.flags & REJECTED:
            state[itself.slot_nid] = itself.event_nid  # 3
        assert room.tail is not None
        current = await self._states.load_snapshot(room.room_nid, room.tail.state_nid)
        return self._state_at.store(room, [current], state)


def parents_first(events: Mapping[EventID, Event]) -> list[Event]:
    """Order events so that each comes after those it names as parents."""
    parents = {event_id: event.prev_events for event_id, event in events.items()}
    return [events[event_id] for event_id in in_graph_order(parents)]


def in_graph_order(parents: Mapping[K, Collection[K]]) -> list[K]:
    """Order what is given with its parents so that each comes after those, else as it is.

    With room versions whose ids are chosen, some may be each other's parents: one comes first.
    """
    ordered: dict[K, None] = {}
    under_way: set[K] = set()
    for first in parents:
        pending = [first]
        while pending:
            last = pending[-1]
            if last in ordered:
                pending.pop()
                continue
            lacking = [
                parent
                for parent in parents[last]
                if parent in parents and parent not in ordered and parent not in under_way
            ]
            under_way.add(last)
            if lacking:
                pending += lacking
            else:
                ordered[pending.pop()] = None
    return list(ordered)
