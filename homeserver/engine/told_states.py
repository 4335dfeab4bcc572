"""Whole states of rooms as another server tells them, where there is no history here.

spec: server-server-api/#joining-rooms, #retrieving-events, v1.19. Invariant: an event counts in
such a state only if its signatures are right and what it cites allows it.
"""

import logging
from collections import deque
from collections.abc import Container, Mapping, Sequence

from twisted.internet.defer import Deferred

from homeserver.background import gather
from homeserver.core.canonical_json import encode_json
from homeserver.core.errors import EventRejected, JsonInvalid
from homeserver.core.event_auth import check_event_auth
from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.core.json_types import JsonObject
from homeserver.core.state_map import State
from homeserver.engine.authorizing_events import MAX_AUTH_CHAIN, AuthorizingEvents, in_order
from homeserver.engine.event_graph import EventGraph, Node
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.pdu_checks import CHECKED_AT_ONCE, PDUChecks
from homeserver.engine.received_events import add_members
from homeserver.engine.remote_server import RemoteFailure, RemoteServer
from homeserver.engine.state_at_event import StateAtEvent
from homeserver.engine.state_store import Snapshot, StateStore
from homeserver.storage.event_graph import StatePlace
from homeserver.storage.events import REJECTED

logger = logging.getLogger(__name__)

_MAX_STATE = 500_000
_STORED_AT_ONCE = 2
"""Parts of a state that are being stored while the next one's signatures are checked."""
_CREATE = ("m.room.create", "")


class ToldStates:
    """Whole states of rooms as another server tells them."""

    def __init__(
        self,
        checks: PDUChecks,
        authorizing: AuthorizingEvents,
        graph: EventGraph,
        states: StateStore,
        state_at: StateAtEvent,
    ) -> None:
        self._checks = checks
        self._authorizing = authorizing
        self._graph = graph
        self._states = states
        self._state_at = state_at

    async def take_in(
        self,
        room: LiveRoom,
        source: RemoteServer,
        state: Sequence[JsonObject],
        auth_chain: Sequence[JsonObject],
        *,
        leaving_out: EventID,
    ) -> Snapshot:
        """Check and store the events of a state; return it, as yet unwritten.

        1. What the state cites is checked and stored.
        2. So is the state, a part at a time.
        3. What the rules refuse is left out; a state with two events in one place is refused.

        All of it is stored as outliers, in many commits.

        leaving_out  the event that the state is before: it is not stored
        Raises RemoteFailure.
        """
        if len(state) > _MAX_STATE or len(auth_chain) > MAX_AUTH_CHAIN:
            raise RemoteFailure("the state is too large")
        told = _Told(state, auth_chain)
        pool = await self._checks.check_all(room, told.chain_alone, MAX_AUTH_CHAIN)  # 1
        part = await self._checks.check_all(room, told.first, _MAX_STATE)
        of_state = _state_ids(part)
        ready, later = _split(pool | part, ())
        storing = deque([self._store(room, source, ready, leaving_out)])
        places: dict[EventID, StatePlace] = {}
        try:
            for checking in self._checks.check_in_parts(room, told.others):  # 2
                part = await checking
                of_state += _state_ids(part)
                if not places or len(storing) == _STORED_AT_ONCE:
                    places |= await storing.popleft()
                ready, rest = _split(part, places)
                later |= rest
                storing.append(self._store(room, source, ready, leaving_out))
        finally:
            for stored in await gather(storing):
                places |= stored
        if later:
            places |= await self._store(room, source, later, leaving_out)
        state_nids: State = {}
        for event_id in of_state:  # 3
            place = places.get(event_id)
            if place is None or place.slot_nid is None:
                continue  # what it cites could not be had
            if place.flags & REJECTED:
                logger.info("Event left out of a state event=%s", event_id)
            elif state_nids.setdefault(place.slot_nid, place.event_nid) != place.event_nid:
                raise RemoteFailure("the state has two events in one place")
        self._graph.make_space(room)  # what is to be done with the state may need other events
        return self._states.checkpoint(room.room_nid, state_nids)

    def _store(
        self,
        room: LiveRoom,
        source: RemoteServer,
        pool: Mapping[EventID, Event],
        leaving_out: EventID,
    ) -> Deferred[dict[EventID, StatePlace]]:
        self._graph.make_space(room)
        if leaving_out in pool:
            pool = {i: event for i, event in pool.items() if i != leaving_out}
        limit = _MAX_STATE + MAX_AUTH_CHAIN
        return Deferred.fromCoroutine(
            self._authorizing.store(room, source, pool, pool.keys(), limit=limit)
        )

    async def check_known_join(
        self, room: LiveRoom, source: RemoteServer, join_id: EventID, state: State
    ) -> None:
        """As `check_join`, for a join that is stored."""
        node = (await self._graph.load(room, [join_id]))[join_id]
        await self.check_join(room, source, node.event, state)

    async def check_join(
        self,
        room: LiveRoom,
        source: RemoteServer,
        join: Event,
        state: State,
        *,
        lacks_members: bool = False,
    ) -> Sequence[Node]:
        """Return the auth events of a join that the state before it allows, as they do.

        Raises EventRejected, MissingEvent.
        """
        cited = await self._authorizing.load(room, source, join)
        await self._authorizing.check(room, join, cited)
        auth = await self._state_at.load_authorizing(room, state, join)
        if lacks_members:
            auth = add_members(auth, cited)
        check_event_auth(join, auth)
        create = auth.get(_CREATE)
        if create is None or create.content.get("room_version", "1") != room.version.id:
            raise EventRejected("join.create", "the state has no m.room.create of this version")
        return cited


class _Told:
    """The events of a state and its auth chain, each of them once."""

    def __init__(self, state: Sequence[JsonObject], auth_chain: Sequence[JsonObject]) -> None:
        of_state = {_fingerprint(pdu): pdu for pdu in state}
        of_chain = {_fingerprint(pdu): pdu for pdu in auth_chain}
        is_small = len(of_state) <= CHECKED_AT_ONCE
        self.chain_alone = [pdu for key, pdu in of_chain.items() if key not in of_state]
        self.first: list[JsonObject] = []
        """Of the state: what others cite, as far as that can be told beforehand.

        All of a small state, which is quicker stored at once than in two parts.
        """
        self.others: list[JsonObject] = []
        for key, pdu in of_state.items():
            is_first = is_small or key in of_chain or pdu.get("type") != MEMBER
            (self.first if is_first else self.others).append(pdu)


def _fingerprint(pdu: JsonObject) -> bytes:
    """Return what only equal PDUs have in common; most of an auth chain is in the state too."""
    try:
        return encode_json(pdu)
    except JsonInvalid:
        return b"%d" % id(pdu)  # the checks will refuse it


def _state_ids(part: Mapping[EventID, Event]) -> list[EventID]:
    """Raises RemoteFailure where one is no state event."""
    if any(event.state_key is None for event in part.values()):
        raise RemoteFailure("what is no state event is in the state")
    return list(part)


def _split(
    part: Mapping[EventID, Event], stored: Container[EventID]
) -> tuple[dict[EventID, Event], dict[EventID, Event]]:
    """Return the events of which all that they cite is there, and the others."""
    ready = {event.event_id: event for event in in_order(part, stored)}
    return ready, {i: event for i, event in part.items() if i not in ready}
