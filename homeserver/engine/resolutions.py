"""Disputes between states of a room, settled by its version's state resolution.

spec: server-server-api/#room-state-resolution, v1.19. A dispute that is small, as nearly all are,
is settled at once; a big one in a thread, one at a time: everybody else is served meanwhile.
Invariants: the winners are those of the algorithm over the whole graph, though only the events in
dispute, what they cite, and the state that authorizes them are looked at. A thread sees a view
of the graph and changes nothing that others see.
"""

from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredSemaphore

from homeserver.core import state_resolution_v1, state_resolution_v2
from homeserver.core.auth_events import auth_types_of
from homeserver.core.errors import MissingEvent
from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.core.room_versions import RoomVersion, StateResolution
from homeserver.core.state_map import State
from homeserver.engine.auth_chains import (
    MAX_WALK,
    CountedChain,
    Steps,
    TooFarToWalk,
    paths_between,
    reach_beside,
    reach_of,
)
from homeserver.engine.dictionary import Dictionary, Slot
from homeserver.engine.event_graph import EventGraph, GraphView, Node
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.not_loaded import NotLoaded, Wanted
from homeserver.metrics import RESOLUTION_EVENTS, RESOLUTION_STEPS

MAX_AT_ONCE = 200
"""Events a dispute may be about to be settled at once: some 10 ms. More are settled in a thread."""
MAX_EVENTS = 30_000
"""Events a dispute may be about. They are all brought into memory: 100 MB."""
_NEAR = 2_000
_NEAR_EACH = 4
"""Events a walk may meet, and for each event in dispute, before the whole chain is counted."""
_REMEMBERED = 16
_POWER_LEVELS = ("m.room.power_levels", "")
_ALWAYS: Sequence[Slot] = (("m.room.create", ""), _POWER_LEVELS)
_ANCHORS: Sequence[Slot] = (*_ALWAYS, ("m.room.join_rules", ""))
"""State that most events cite."""

P = ParamSpec("P")
T = TypeVar("T")
Winners = Mapping[int, EventID]
"""Slot number -> the event that holds it in the end."""


class Threads(Protocol):
    """Where long computations run."""

    def call(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]: ...


@dataclass(frozen=True, slots=True)
class Dispute:
    """What different states of a room agree on, and what each of them has besides."""

    common: State
    disputed: Sequence[State]

    def key(self, fresh: Node | None) -> object:
        """Name the dispute; an event that has yet to be committed may get another number."""
        unsettled = -1 if fresh is None else fresh.event_nid
        agreed = blake2b(array("q", sorted(self.common.values())), digest_size=16).digest()
        sides = [
            frozenset((slot, 0 if nid == unsettled else nid) for slot, nid in side.items())
            for side in self.disputed
        ]
        return (agreed, tuple(sides), None if fresh is None else fresh.event.event_id)


@dataclass(frozen=True, slots=True)
class BigDispute:
    dispute: Dispute
    fresh: Node | None


def find_dispute(states: Sequence[State]) -> Dispute | None:
    """Return None when the states are all the same."""
    distinct: list[State] = []
    for state in states:
        if not any(state is other or state == other for other in distinct):
            distinct.append(state)
    first, *others = distinct
    if not others:
        return None
    slots: set[int] = set()
    for other in others:
        slots.update(slot for slot, nid in first.items() if other.get(slot) != nid)
        slots.update(other.keys() - first.keys())
    return Dispute(
        {slot: nid for slot, nid in first.items() if slot not in slots},
        [{slot: state[slot] for slot in slots if slot in state} for state in distinct],
    )


class Resolutions:
    def __init__(self, graph: EventGraph, dictionary: Dictionary, threads: Threads) -> None:
        self._graph = graph
        self._dictionary = dictionary
        self._threads = threads
        self._place = DeferredSemaphore(1)
        self._waiting: dict[int, BigDispute] = {}
        """By room: what was too big to be settled at once."""
        self._settled: dict[tuple[int, object], Winners] = {}

    def find(self, room: LiveRoom, dispute: Dispute, fresh: Node | None) -> Winners:
        """Return who wins each slot, by what is in memory.

        Raises NotLoaded, also for what is to be settled in a thread, by `settle`.
        """
        if self._settled:
            found = self._settled.get((room.room_nid, dispute.key(fresh)))
            if found is not None:
                return found
        view = self._graph.view(room)
        try:
            return _Settling(room.version, dispute, view, self._dictionary, MAX_AT_ONCE).run()
        except TooFarToWalk:
            self._waiting[room.room_nid] = BigDispute(dispute, fresh)
            raise NotLoaded("resolution", graph=Wanted(resolution=True)) from None

    def take(self, room: LiveRoom) -> BigDispute | None:
        """Return what of the room `find` could not settle at once."""
        return self._waiting.pop(room.room_nid, None)

    async def settle(self, room: LiveRoom, big: BigDispute) -> None:
        """Settle a dispute, for `find` to find. Raises NotLoaded, TooFarToWalk."""
        dispute, fresh = big.dispute, big.fresh
        view = self._graph.view(room) if fresh is None else self._graph.view_with(room, fresh)
        settling = _Settling(room.version, dispute, view, self._dictionary, MAX_EVENTS)
        settling.chain = chain = self._graph.take_chain(room)
        try:
            winners = await self._place.run(self._threads.call, settling.run)
        except (NotLoaded, TooFarToWalk):
            self._graph.put_chain(room, chain)
            raise
        # At shutdown the thread goes on, and the chain is left to it.
        self._graph.put_chain(room, chain)
        while len(self._settled) >= _REMEMBERED:
            del self._settled[next(iter(self._settled))]
        self._settled[room.room_nid, dispute.key(fresh)] = winners


class _Settling:
    """One dispute on its way to the winners."""

    def __init__(
        self,
        version: RoomVersion,
        dispute: Dispute,
        view: GraphView,
        dictionary: Dictionary,
        most: int,
    ) -> None:
        self.chain: CountedChain | None = None
        """Set in a thread: what makes walks short that would go far."""
        self._version = version
        self._dispute = dispute
        self._view = view
        self._dictionary = dictionary
        self._most = most

    def run(self) -> Winners:
        """Settle the dispute.

        1. The auth difference, and for 2.1 the conflicted subgraph, are found by numbers.
        2. The algorithm is given the slots in dispute and those that authorize the events.

        Raises NotLoaded, TooFarToWalk.
        """
        disputed = [set(side.values()) for side in self._dispute.disputed]
        wanted = set().union(*disputed)
        self._check_size(wanted)
        bits: Mapping[int, int] = {}
        subgraph: set[int] = set()
        if self._version.state_resolution is not StateResolution.V1:  # 1
            every = (1 << len(disputed)) - 1
            bits = self._reach(disputed, len(wanted))
            if self._version.state_resolution is StateResolution.V2_1:
                near = _NEAR + _NEAR_EACH * len(wanted)
                with _counted(near if self.chain is None else MAX_WALK) as steps:
                    subgraph = paths_between(wanted, self._view.citations, steps)
            wanted |= subgraph | {nid for nid, held in bits.items() if held != every}
            self._check_size(wanted)
        nodes = self._nodes(wanted)
        base = self._authorizing(list(nodes.values()))  # 2
        named = {nid: (_slot_of(node), node.event.event_id) for nid, node in nodes.items()}
        state_sets = [
            base | {named[nid][0]: named[nid][1] for nid in side.values()}
            for side in self._dispute.disputed
        ]
        try:
            if self._version.state_resolution is StateResolution.V1:
                resolved = state_resolution_v1.resolve(state_sets, self._view.events)
            else:
                resolved = state_resolution_v2.resolve(
                    self._version,
                    state_sets,
                    [
                        {named[nid][1] for nid in nodes if bits.get(nid, 0) >> index & 1}
                        for index in range(len(disputed))
                    ],
                    self._view.events,
                    self._view.rejected,
                    {named[nid][1] for nid in subgraph},
                )
        except MissingEvent as missing:
            ids = [EventID(event_id) for event_id in missing.event_ids]
            raise NotLoaded("events", graph=Wanted(event_ids=ids)) from missing
        RESOLUTION_EVENTS.observe(len(wanted))
        return {
            self._number_of(slot): event_id
            for slot, event_id in resolved.items()
            if slot not in base
        }

    def _check_size(self, wanted: Collection[int]) -> None:
        if len(wanted) > self._most:
            raise TooFarToWalk(f"a dispute about {len(wanted)} events")

    def _reach(self, disputed: Sequence[Collection[int]], size: int) -> Mapping[int, int]:
        """Walk; if that goes far, count the chain of what is undisputed and walk beside it."""
        common, citations = self._dispute.common, self._view.citations
        numbers = map(self._number_of, _ANCHORS)
        anchors = [common[slot] for slot in numbers if slot in common]
        try:
            with _counted(_NEAR + _NEAR_EACH * size) as steps:
                return reach_of(disputed, common.values(), anchors, citations, steps)
        except TooFarToWalk:
            if self.chain is None:
                raise
        with _counted(MAX_WALK) as steps:
            self.chain.move_to(set(common.values()), citations, steps)
            return reach_beside(disputed, self.chain, citations, steps)

    def _nodes(self, numbers: Collection[int]) -> Mapping[int, Node]:
        known = self._view.nodes
        missing = [number for number in numbers if number not in known]
        if missing:
            raise NotLoaded("events", graph=Wanted(event_nids=missing))
        return {number: known[number] for number in numbers}

    def _authorizing(self, nodes: Sequence[Node]) -> dict[Slot, EventID]:
        """Return the undisputed state that the authorization rules look at for these events."""
        wanted = dict.fromkeys(_ALWAYS)
        for node in nodes:
            event = node.event
            wanted |= dict.fromkeys(_auth_types_of(event))
        slots = [*wanted, *map(_slot_of, nodes)]
        unknown = [slot for slot in slots if self._dictionary.find_slot(*slot) is None]
        if unknown:
            raise NotLoaded("slots", graph=Wanted(slots=unknown))
        common = self._dispute.common
        numbers = map(self._number_of, wanted)
        found = self._nodes([common[slot] for slot in numbers if slot in common])
        return {_slot_of(node): node.event.event_id for node in found.values()}

    def _number_of(self, slot: Slot) -> int:
        number = self._dictionary.find_slot(*slot)
        if number is None:
            raise NotLoaded("slot", graph=Wanted(slots=[slot]))
        return number


@contextmanager
def _counted(most: int) -> Iterator[Steps]:
    steps = Steps(most)
    try:
        yield steps
    finally:
        RESOLUTION_STEPS.inc(most - max(steps.left, 0))


def _auth_types_of(event: Event) -> list[Slot]:
    return auth_types_of(
        event.room_version, event.type, event.sender, event.state_key, event.content
    )


def _slot_of(node: Node) -> Slot:
    return (node.event.type, node.event.state_key or "")
