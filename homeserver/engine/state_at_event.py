"""The state before an event and the current state of a forked room.

spec: server-server-api/#room-state-resolution, v1.19. Where branches of the graph meet, their
states are resolved by the algorithm of the room version; equal states are recognised by their hash
and need none.
Invariant: `resolve` gives what the algorithm gives over the whole graph, though it looks only at
the events in conflict, at what they cite, and at the state that authorizes them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from homeserver.core import state_resolution_v1, state_resolution_v2
from homeserver.core.auth_events import auth_types_of
from homeserver.core.errors import MissingEvent
from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.core.room_versions import StateResolution
from homeserver.core.state_map import REMOVED, State
from homeserver.engine.auth_chains import paths_between, reach_of
from homeserver.engine.dictionary import Dictionary, Slot
from homeserver.engine.event_graph import EventGraph, Node
from homeserver.engine.live_rooms import LiveRoom, LiveRooms
from homeserver.engine.not_loaded import NotLoaded, Wanted
from homeserver.engine.state_store import Snapshot, StateStore

T = TypeVar("T")
_MAX_TRIES = 100
_MAX_MAINLINE = 2_000
_POWER_LEVELS = "m.room.power_levels"
_CREATE = ("m.room.create", "")
_ALWAYS: Sequence[Slot] = (_CREATE, (_POWER_LEVELS, ""))
_ANCHORS: Sequence[Slot] = (*_ALWAYS, ("m.room.join_rules", ""))
"""State that most events cite."""


class StateAtEvent:
    def __init__(
        self,
        live_rooms: LiveRooms,
        states: StateStore,
        graph: EventGraph,
        dictionary: Dictionary,
    ) -> None:
        self._live_rooms = live_rooms
        self._states = states
        self._graph = graph
        self._dictionary = dictionary

    async def after(self, room: LiveRoom, node: Node) -> Snapshot:
        """Return the state after an event whose place is known."""
        assert node.state_after is not None
        return await self._states.load_snapshot(room.room_nid, node.state_after)

    async def merge(self, room: LiveRoom, branches: Sequence[Snapshot]) -> Snapshot:
        """Return the one state that these resolve to.

        Raises TooFarToWalk, and NotLoaded if memory is too small for it.
        """
        distinct: list[Snapshot] = []
        for branch in branches:
            if not any(
                branch.tail.state_hash == other.tail.state_hash and branch.state == other.state
                for other in distinct
            ):
                distinct.append(branch)
        states = [branch.state for branch in distinct]
        resolved = await self._loaded(room, lambda: self.resolve(room, states))
        return self.store(room, distinct, resolved)

    def store(self, room: LiveRoom, nearby: Sequence[Snapshot], state: State) -> Snapshot:
        """Return the snapshot of a state: one of those nearby, or a change of the nearest."""
        changes = [(_difference(other.state, state), other) for other in nearby]
        change, nearest = min(changes, key=lambda found: len(found[0]))
        if not change:
            return nearest
        # Somebody else may be going on after it.
        before = replace(nearest, tail=replace(nearest.tail, can_grow=False))
        return self._states.change(room.room_nid, before, change)

    def empty(self, room: LiveRoom) -> Snapshot:
        """Return the state before everything."""
        tail, row = self._states.first_segment(room.room_nid)
        return Snapshot(tail, {}, (row,))

    def authorizing(self, room: LiveRoom, state: State, event: Event) -> dict[Slot, Event]:
        """Return what of a state the authorization rules look at. Raises NotLoaded."""
        wanted = auth_types_of(
            room.version, event.type, event.sender, event.state_key, event.content
        )
        slots = [_CREATE, *wanted]
        unknown = [slot for slot in slots if self._dictionary.find_slot(*slot) is None]
        if unknown:
            raise NotLoaded("slots", graph=Wanted(slots=unknown))
        numbers = [state.get(self._number_of(slot)) for slot in slots]
        nodes = self._graph.get_numbers(room, [n for n in numbers if n is not None])
        return {_slot_of(node): node.event for node in nodes.values()}

    async def load_authorizing(
        self, room: LiveRoom, state: State, event: Event
    ) -> dict[Slot, Event]:
        return await self._loaded(room, lambda: self.authorizing(room, state, event))

    async def _loaded(self, room: LiveRoom, compute: Callable[[], T]) -> T:
        """Compute something, with whatever it needs brought into memory."""
        for _ in range(_MAX_TRIES):
            try:
                return compute()
            except NotLoaded as missing:
                if missing.graph is None:
                    raise
                await self.load(room, missing.graph)
        raise NotLoaded("the room's graph does not stay in memory")

    def remember(self, room: LiveRoom, states: Mapping[int, State]) -> None:
        """Keep states that have been committed, by number."""
        for state_nid, state in states.items():
            self._states.remember(room.room_nid, state_nid, state)

    def resolve_with(self, room: LiveRoom, fresh: Node, states: Sequence[State]) -> State:
        """As `resolve`; the states may have in them one event that has yet to be committed."""
        with self._graph.including(room, fresh):
            return self.resolve(room, states)

    def resolve(self, room: LiveRoom, states: Sequence[State]) -> State:
        """Merge states by what is in memory.

        1. Only slots on which the states differ are in conflict.
        2. The auth difference, and for 2.1 the conflicted subgraph, are found by numbers.
        3. The algorithm is given the slots in conflict and those that authorize the events.

        Raises NotLoaded, TooFarToWalk.
        """
        distinct: list[State] = []
        for state in states:
            if not any(state is other or state == other for other in distinct):
                distinct.append(state)
        first = distinct[0]
        if len(distinct) == 1:
            return first
        slots: set[int] = set()
        for other in distinct[1:]:  # 1
            slots.update(slot for slot, nid in first.items() if other.get(slot) != nid)
            slots.update(other.keys() - first.keys())
        conflicted = [{state[slot] for slot in slots if slot in state} for state in distinct]
        wanted = set().union(*conflicted)
        version = room.version
        bits: dict[int, int] = {}
        subgraph: set[int] = set()
        if version.state_resolution is not StateResolution.V1:  # 2
            citations = self._graph.citations(room)
            every = (1 << len(distinct)) - 1
            common = [nid for slot, nid in first.items() if slot not in slots]
            bits = reach_of(conflicted, common, self._anchors(first, slots), citations)
            if version.state_resolution is StateResolution.V2_1:
                subgraph = paths_between(wanted, citations)
            wanted |= subgraph | {nid for nid, held in bits.items() if held != every}
        nodes = self._graph.get_numbers(room, wanted)
        base = self._authorizing(room, first, slots, list(nodes.values()))  # 3
        named = {nid: (_slot_of(node), node.event.event_id) for nid, node in nodes.items()}
        state_sets = [
            base | {named[state[slot]][0]: named[state[slot]][1] for slot in slots if slot in state}
            for state in distinct
        ]
        try:
            if version.state_resolution is StateResolution.V1:
                resolved = state_resolution_v1.resolve(state_sets, self._graph.events(room))
            else:
                resolved = state_resolution_v2.resolve(
                    version,
                    state_sets,
                    [
                        {named[nid][1] for nid in nodes if bits.get(nid, 0) >> index & 1}
                        for index in range(len(distinct))
                    ],
                    self._graph.events(room),
                    frozenset(self._graph.rejected(room)),
                    {named[nid][1] for nid in subgraph},
                )
        except MissingEvent as missing:
            ids = [EventID(event_id) for event_id in missing.event_ids]
            raise NotLoaded("events", graph=Wanted(event_ids=ids)) from missing
        result = {slot: nid for slot, nid in first.items() if slot not in slots}
        for slot, event_id in resolved.items():
            if slot not in base:
                result[self._number_of(slot)] = self._graph.number_of(room, event_id)
        return result

    def _anchors(self, state: State, conflicted: Collection[int]) -> list[int]:
        numbers = [self._number_of(slot) for slot in _ANCHORS]
        return [state[slot] for slot in numbers if slot in state and slot not in conflicted]

    def _authorizing(
        self, room: LiveRoom, state: State, conflicted: Collection[int], nodes: Sequence[Node]
    ) -> dict[Slot, EventID]:
        """Return the undisputed state that the authorization rules look at for these events."""
        wanted = dict.fromkeys(_ALWAYS)
        for node in nodes:
            event = node.event
            wanted |= dict.fromkeys(
                auth_types_of(
                    room.version, event.type, event.sender, event.state_key, event.content
                )
            )
        unknown = [slot for slot in wanted if self._dictionary.find_slot(*slot) is None]
        unknown += [
            slot for slot in map(_slot_of, nodes) if self._dictionary.find_slot(*slot) is None
        ]
        if unknown:
            raise NotLoaded("slots", graph=Wanted(slots=unknown))
        numbers = [self._number_of(slot) for slot in wanted]
        found = self._graph.get_numbers(
            room, [state[slot] for slot in numbers if slot in state and slot not in conflicted]
        )
        return {_slot_of(node): node.event.event_id for node in found.values()}

    def _number_of(self, slot: Slot) -> int:
        number = self._dictionary.find_slot(*slot)
        if number is None:
            raise NotLoaded("slot", graph=Wanted(slots=[slot]))
        return number

    async def load(self, room: LiveRoom, wanted: Wanted) -> None:
        """Bring into memory what a NotLoaded named."""
        if wanted.event_ids:
            nodes = await self._graph.load(room, wanted.event_ids)
            await self._load_mainline(room, list(nodes.values()))
        if wanted.event_nids:
            await self._graph.load_numbers(room, wanted.event_nids)
        if wanted.timeline:
            await self._live_rooms.load_awaited(room, wanted.timeline)
        for state_nid in wanted.states:
            await self._states.load_state(room.room_nid, state_nid)
        if wanted.slots:
            await self._dictionary.ensure([], [], wanted.slots)
        if wanted.slot_nids:
            await self._dictionary.name_slots(list(wanted.slot_nids))
        if wanted.citations:
            await self._graph.load_citations(room, wanted.citations, wanted.above)

    async def _load_mainline(self, room: LiveRoom, nodes: Sequence[Node]) -> None:
        """Load what the events cite, and along the power levels what those cite, and so on."""
        loaded = 0
        while nodes and loaded < _MAX_MAINLINE:
            cited = {number for node in nodes for number in node.auth_events}
            found = await self._graph.load_numbers(room, cited)
            loaded += len(found)
            nodes = [node for node in found.values() if node.event.type == _POWER_LEVELS]


def _difference(before: State, after: State) -> list[tuple[int, int]]:
    """Return what turns one state into the other."""
    changed = [(slot, nid) for slot, nid in after.items() if before.get(slot) != nid]
    return changed + [(slot, REMOVED) for slot in before.keys() - after.keys()]


def _slot_of(node: Node) -> Slot:
    return (node.event.type, node.event.state_key or "")
