"""The state before an event and the current state of a forked room.

spec: server-server-api/#room-state-resolution, v1.19. Where branches of the graph meet, their
states are resolved (`resolutions`); equal states are recognised by their hash and need none.
Invariant: whatever a computation lacks is named by NotLoaded, brought into memory, and the
computation made again; what was brought stays until the next event of the room.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from homeserver.core.auth_events import auth_types_of
from homeserver.core.events import Event
from homeserver.core.state_map import REMOVED, State
from homeserver.engine.dictionary import Dictionary, Slot
from homeserver.engine.event_graph import EventGraph, Node
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.not_loaded import NotLoaded, Wanted
from homeserver.engine.resolutions import Resolutions, Threads, find_dispute
from homeserver.engine.state_store import Snapshot, StateStore

T = TypeVar("T")
_MAX_TRIES = 100
_MAX_MAINLINE = 2_000
_POWER_LEVELS = "m.room.power_levels"
_CREATE = ("m.room.create", "")


class StateAtEvent:
    def __init__(
        self,
        live_rooms: LiveRooms,
        states: StateStore,
        graph: EventGraph,
        dictionary: Dictionary,
        threads: Threads,
    ) -> None:
        self._live_rooms = live_rooms
        self._states = states
        self._graph = graph
        self._dictionary = dictionary
        self._resolutions = Resolutions(graph, dictionary, threads)

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
        resolved = await self._computed(room, lambda: self.resolve(room, states))
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
        numbers = [state.get(self._dictionary.find_slot(*slot) or 0) for slot in slots]
        nodes = self._graph.get_numbers(room, [n for n in numbers if n is not None])
        return {_slot_of(node): node.event for node in nodes.values()}

    async def load_authorizing(
        self, room: LiveRoom, state: State, event: Event
    ) -> dict[Slot, Event]:
        return await self._computed(room, lambda: self.authorizing(room, state, event))

    async def _computed(self, room: LiveRoom, compute: Callable[[], T]) -> T:
        async def computed() -> T:
            return compute()

        return await self._loaded(room, computed)

    async def _loaded(self, room: LiveRoom, compute: Callable[[], Awaitable[T]]) -> T:
        """Compute something, with whatever it needs brought into memory."""
        for _ in range(_MAX_TRIES):
            try:
                return await compute()
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
            return self.resolve(room, states, fresh)

    def resolve(self, room: LiveRoom, states: Sequence[State], fresh: Node | None = None) -> State:
        """Merge states by what is in memory.

        A dispute that is not settled at once is settled in a thread, while whoever wants to know
        tries again. Raises NotLoaded, TooFarToWalk.
        """
        dispute = find_dispute(states)
        if dispute is None:
            return states[0]
        winners = self._resolutions.find(room, dispute, fresh)
        result = dict(dispute.common)
        for slot, event_id in winners.items():
            result[slot] = self._graph.number_of(room, event_id)
        return result

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
        if wanted.resolution:
            big = self._resolutions.take(room)
            if big is not None:
                await self._loaded(room, lambda: self._resolutions.settle(room, big))

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
