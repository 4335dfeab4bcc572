"""Whole states of rooms as another server tells them, where there is no history here.

spec: server-server-api/#joining-rooms, #retrieving-events, v1.19. Invariant: an event counts in
such a state only if its signatures are right and what it cites allows it.
"""

import logging
from collections.abc import Sequence

from homeserver.core.canonical_json import encode_json
from homeserver.core.errors import EventRejected, JsonInvalid
from homeserver.core.event_auth import check_event_auth
from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.core.json_types import JsonObject
from homeserver.core.state_map import State
from homeserver.engine.authorizing_events import MAX_AUTH_CHAIN, AuthorizingEvents
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.event_graph import EventGraph, Node
from homeserver.engine.live_rooms import LiveRoom
from homeserver.engine.pdu_checks import PDUChecks
from homeserver.engine.received_events import add_members
from homeserver.engine.remote_server import RemoteFailure, RemoteServer
from homeserver.engine.state_at_event import StateAtEvent
from homeserver.engine.state_store import Snapshot, StateStore

logger = logging.getLogger(__name__)

_MAX_STATE = 500_000
_CREATE = ("m.room.create", "")


class ToldStates:
    """Whole states of rooms as another server tells them."""

    def __init__(
        self,
        checks: PDUChecks,
        authorizing: AuthorizingEvents,
        graph: EventGraph,
        dictionary: Dictionary,
        states: StateStore,
        state_at: StateAtEvent,
    ) -> None:
        self._checks = checks
        self._authorizing = authorizing
        self._graph = graph
        self._dictionary = dictionary
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

        1. Signatures and hashes are checked, all at the same time.
        2. What the state cites is stored, then the state: as outliers, in many commits.
        3. What the rules refuse is left out; a state with two events in one place is refused.

        leaving_out  the event that the state is before: it is not stored
        Raises RemoteFailure.
        """
        if len(state) > _MAX_STATE or len(auth_chain) > MAX_AUTH_CHAIN:
            raise RemoteFailure("the state is too large")
        of_state = await self._checks.check_all(room, state, _MAX_STATE)  # 1
        told = {_fingerprint(pdu) for pdu in state}
        others = [pdu for pdu in auth_chain if _fingerprint(pdu) not in told]
        pool = await self._checks.check_all(room, others, MAX_AUTH_CHAIN)
        pool |= of_state
        pool.pop(leaving_out, None)
        of_state.pop(leaving_out, None)
        if any(event.state_key is None for event in of_state.values()):
            raise RemoteFailure("what is no state event is in the state")
        stored = await self._authorizing.store(
            room, source, pool, pool.keys(), limit=_MAX_STATE + MAX_AUTH_CHAIN
        )  # 2
        nodes = [stored[event_id] for event_id in of_state if event_id in stored]
        return self._states.checkpoint(room.room_nid, await self._number(nodes))

    async def _number(self, nodes: Sequence[Node]) -> State:
        slots = [(node.event.type, node.event.state_key or "") for node in nodes]
        await self._dictionary.ensure([], [], slots)
        state: State = {}
        for node, slot in zip(nodes, slots, strict=True):  # 3
            slot_nid = self._dictionary.find_slot(*slot)
            assert slot_nid is not None
            if node.is_rejected:
                logger.info("Event left out of a state event=%s", node.event.event_id)
            elif state.setdefault(slot_nid, node.event_nid) != node.event_nid:
                raise RemoteFailure("the state has two events in one place")
        return state

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


def _fingerprint(pdu: JsonObject) -> bytes:
    """Return what only equal PDUs have in common; most of an auth chain is in the state too."""
    try:
        return encode_json(pdu)
    except JsonInvalid:
        return b"%d" % id(pdu)  # the checks will refuse it
