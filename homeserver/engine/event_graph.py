"""The event graphs of rooms in memory: stored events by id and number, and what they cite.

What is here is stored: an event enters after its commit, or from the database. Nothing says that
an event does not exist; whoever does not find one loads it. Least recently used rooms leave.
"""

from array import array
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from homeserver.core.events import Event, restore_event
from homeserver.core.identifiers import EventID
from homeserver.core.room_versions import RoomVersion
from homeserver.engine.auth_chains import Citations, CountedChain, TooFarToWalk
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.not_loaded import NotLoaded, Wanted
from homeserver.storage import event_graph
from homeserver.storage.database import Database
from homeserver.storage.event_graph import GraphEvent, StatePlace
from homeserver.storage.events import (
    OUTLIER,
    REJECTED,
    SOFT_FAILED,
    NewEvent,
    decode_event_id,
    encode_event_id,
)

T = TypeVar("T")
_MAX_BYTES = 32 * 2**20
"""Of PDUs, in all rooms together; parsed, they are some five times as large."""
_EVENTS_AT_ONCE = 200
_MAX_NUMBERS = 500_000
"""Events of which only numbers are kept, in all rooms together."""
_CITATIONS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Node:
    """A stored event with its place in the graph."""

    event: Event
    event_nid: int
    flags: int
    state_before: int | None
    state_after: int | None
    """None for an outlier, whose place is not known."""
    prev_events: Sequence[int]
    """Those known when it was stored."""
    auth_events: Sequence[int]

    @property
    def is_outlier(self) -> bool:
        return bool(self.flags & OUTLIER)

    @property
    def is_rejected(self) -> bool:
        return bool(self.flags & REJECTED)

    @property
    def is_hidden(self) -> bool:
        """Clients do not see it, and events made here do not build on it."""
        return bool(self.flags & (OUTLIER | REJECTED | SOFT_FAILED))


def node_of(event: Event, row: GraphEvent | NewEvent) -> Node:
    return Node(
        event,
        row.event_nid,
        row.flags,
        row.state_before,
        row.state_after,
        row.prev_events,
        row.auth_events,
    )


@dataclass(frozen=True, slots=True)
class GraphView:
    """What is in memory of a room's graph, to be looked up and not gone through.

    It may be used in another thread, as what is in it stays in it.
    """

    nodes: Mapping[int, Node]
    events: Mapping[EventID, Event]
    rejected: AbstractSet[EventID]
    """Those of `events` that the authorization rules refused."""
    citations: Citations


@dataclass(eq=False, slots=True)
class _Graph:
    by_id: dict[EventID, Node] = field(default_factory=dict)
    by_nid: dict[int, Node] = field(default_factory=dict)
    events: dict[EventID, Event] = field(default_factory=dict)
    rejected: set[EventID] = field(default_factory=set)
    size: int = 0
    """Bytes of the PDUs."""
    citations: dict[int, Sequence[int]] = field(default_factory=dict)
    chain: CountedChain | None = None
    """The auth chain of what was undisputed in a resolution."""

    @property
    def numbers(self) -> int:
        return len(self.citations) + (0 if self.chain is None else len(self.chain))

    def add(self, node: Node) -> None:
        event_id = node.event.event_id
        if event_id not in self.by_id:
            self.size += len(node.event.pdu_bytes)
        self.by_id[event_id] = self.by_nid[node.event_nid] = node
        self.events[event_id] = node.event
        self.citations[node.event_nid] = node.auth_events
        if node.is_rejected:
            self.rejected.add(event_id)
        else:
            self.rejected.discard(event_id)

    def remove(self, node: Node) -> None:
        event_id = node.event.event_id
        self.size -= len(node.event.pdu_bytes)
        del self.by_id[event_id], self.by_nid[node.event_nid], self.events[event_id]
        del self.citations[node.event_nid]

    def forget_events(self) -> None:
        """Begin anew with events; a view of those before may still be in use."""
        self.by_id, self.by_nid, self.events, self.rejected = {}, {}, {}, set()
        self.size = 0

    def forget_numbers(self) -> None:
        """Let go what is cheapest to have again: citations before the chain made of them."""
        self.citations = {}
        if self.numbers > _MAX_NUMBERS:
            self.chain = None


class EventGraph:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._graphs: OrderedDict[int, _Graph] = OrderedDict()

    async def load(self, room: LiveRoom, event_ids: Collection[EventID]) -> dict[EventID, Node]:
        """Return those of the events that are stored here, in this order. Raises TooFarToWalk."""
        found = self.find(room, event_ids)
        missing: list[bytes] = []
        for event_id in event_ids:
            if event_id not in found:
                stored_id = _encode(room.version, event_id)
                if stored_id is not None:
                    missing.append(stored_id)
        for some in _portions(missing):
            self._check_size(self._graph(room))
            rows = await self._db.read(event_graph.list_by_id, room.room_nid, some)
            found |= {node.event.event_id: node for node in self._take_in(room, rows)}
        found |= self.find(room, event_ids)  # what has left meanwhile, and what has come
        return {event_id: found[event_id] for event_id in event_ids if event_id in found}

    async def load_numbers(self, room: LiveRoom, numbers: Collection[int]) -> dict[int, Node]:
        """Return those of the events that are stored here, in this order. Raises TooFarToWalk."""
        by_nid = self._graph(room).by_nid
        found = {number: by_nid[number] for number in numbers if number in by_nid}
        missing = [number for number in numbers if number not in found]
        for some in _portions(missing):
            self._check_size(self._graph(room))
            rows = await self._db.read(event_graph.list_by_number, room.room_nid, some)
            found |= {node.event_nid: node for node in self._take_in(room, rows)}
        by_nid = self._graph(room).by_nid  # what is in `found` may have left, or changed
        found |= {number: by_nid[number] for number in numbers if number in by_nid}
        return {number: found[number] for number in numbers if number in found}

    async def load_citations(self, room: LiveRoom, numbers: Collection[int], above: int) -> None:
        """Bring what these events cite into memory, and as much again of what follows.

        Whoever walks far thus waits for the database a few times, and who does not reads little.
        """
        graph = self._graph(room)
        limit = max(_CITATIONS_AT_ONCE, 2 * len(numbers), len(graph.citations))
        for row in await self._db.read(
            event_graph.list_citations, room.room_nid, list(numbers), above, limit
        ):
            graph.citations[row.event_nid] = array("q", row.auth_events)

    async def list_state_places(
        self, room: LiveRoom, event_ids: Collection[EventID]
    ) -> dict[EventID, StatePlace]:
        """Return number, slot and flags of those of the events that are stored in this room."""
        if not event_ids:
            return {}
        stored_ids = [_encode(room.version, event_id) for event_id in event_ids]
        rows = await self._db.read(
            event_graph.list_state_places, room.room_nid, [i for i in stored_ids if i is not None]
        )
        return {decode_event_id(room.version, row.event_id): row for row in rows}

    async def has_child(self, room: LiveRoom, event_id: EventID) -> bool:
        """Tell whether an event that is let in has named this unknown one as its parent."""
        children = await self.list_waiting_children(room, event_id)
        return any(not child.is_hidden for child in children)

    async def list_waiting_children(self, room: LiveRoom, event_id: EventID) -> list[Node]:
        """Return the events that have named this unknown one as their parent."""
        stored_id = _encode(room.version, event_id)
        if stored_id is None:
            return []
        numbers = await self._db.read(event_graph.list_waiting_children, room.room_nid, stored_id)
        return list((await self.load_numbers(room, numbers)).values())

    async def is_any_known(self, room: LiveRoom, event_ids: Collection[EventID]) -> bool:
        """Tell whether one of the events is stored, or is named by a stored one."""
        stored_ids = [_encode(room.version, event_id) for event_id in event_ids]
        return await self._db.read(
            event_graph.is_any_known, room.room_nid, [i for i in stored_ids if i is not None]
        )

    async def list_waiting_redactions(self, room: LiveRoom, event_id: EventID) -> list[Node]:
        """Return the accepted redactions of this unknown event, the first one first."""
        stored_id = _encode(room.version, event_id)
        if stored_id is None:
            return []
        numbers = await self._db.read(event_graph.list_waiting_redactions, room.room_nid, stored_id)
        found = await self.load_numbers(room, numbers)
        return [found[number] for number in numbers if number in found]

    async def list_elsewhere(
        self, room: LiveRoom, event_ids: Iterable[EventID]
    ) -> Collection[EventID]:
        """Return those of the events that belong to another room."""
        stored_ids = [_encode(room.version, event_id) for event_id in event_ids]
        found = await self._db.read(
            event_graph.list_ids_elsewhere, room.room_nid, [i for i in stored_ids if i is not None]
        )
        return {decode_event_id(room.version, stored_id) for stored_id in found}

    def mark(self, room: LiveRoom) -> object:
        """Return what tells later whether all that was stored since is in memory."""
        return self._graph(room).by_id

    def has_all_since(self, room: LiveRoom, mark: object) -> bool:
        return self._graph(room).by_id is mark

    def find(self, room: LiveRoom, event_ids: Collection[EventID]) -> dict[EventID, Node]:
        """Return those of the events that are in memory: also what was stored a moment ago."""
        by_id = self._graph(room).by_id
        return {event_id: by_id[event_id] for event_id in event_ids if event_id in by_id}

    def get_numbers(self, room: LiveRoom, numbers: Collection[int]) -> dict[int, Node]:
        """Raises NotLoaded, which names all that are missing."""
        by_nid = self._graph(room).by_nid
        missing = [number for number in numbers if number not in by_nid]
        if missing:
            raise NotLoaded("events", graph=Wanted(event_nids=missing))
        return {number: by_nid[number] for number in numbers}

    def view(self, room: LiveRoom) -> GraphView:
        """Return what is in memory now and what comes to it, until some of it has to leave."""
        graph = self._graph(room)
        return GraphView(graph.by_nid, graph.events, graph.rejected, graph.citations)

    def view_with(self, room: LiveRoom, fresh: Node) -> GraphView:
        """Return what is in memory now, and an event that has yet to be committed."""
        graph = self._graph(room)
        return GraphView(
            {**graph.by_nid, fresh.event_nid: fresh},
            {**graph.events, fresh.event.event_id: fresh.event},
            graph.rejected - {fresh.event.event_id},
            {**graph.citations, fresh.event_nid: fresh.auth_events},
        )

    def take_chain(self, room: LiveRoom) -> CountedChain:
        """Return the chain of the room's last big resolution; it is the caller's alone."""
        graph = self._graph(room)
        chain, graph.chain = graph.chain, None
        return CountedChain() if chain is None else chain

    def put_chain(self, room: LiveRoom, chain: CountedChain) -> None:
        self._graph(room).chain = chain

    def number_of(self, room: LiveRoom, event_id: EventID) -> int:
        return self._graph(room).by_id[event_id].event_nid

    def add(self, room: LiveRoom, node: Node) -> None:
        """Take in an event after its commit."""
        self._graph(room).add(node)

    @contextmanager
    def including(self, room: LiveRoom, node: Node) -> Iterator[None]:
        """Have an event here for a moment that has yet to be committed."""
        graph = self._graph(room)
        before = graph.by_id.get(node.event.event_id)
        graph.add(node)
        try:
            yield
        finally:
            if before is None:
                graph.remove(node)
            else:
                graph.add(before)

    def drop(self, room: LiveRoom) -> None:
        """Forget a room: after a failed commit the database alone knows."""
        self._graphs.pop(room.room_nid, None)

    def _check_size(self, graph: _Graph) -> None:
        """Raise when one event of a room makes it load more than may be in memory."""
        if graph.size > 2 * _MAX_BYTES:
            raise TooFarToWalk(f"{graph.size} bytes of events")

    def _graph(self, room: LiveRoom) -> _Graph:
        graph = self._graphs.get(room.room_nid)
        if graph is None:
            graph = self._graphs[room.room_nid] = _Graph()
        self._graphs.move_to_end(room.room_nid)
        return graph

    def _take_in(self, room: LiveRoom, rows: Iterable[GraphEvent]) -> list[Node]:
        graph = self._graph(room)
        nodes = []
        for row in rows:
            event_id = decode_event_id(room.version, row.event_id)
            newer = graph.by_id.get(event_id)
            if newer is not None:  # committed since it was read, perhaps
                nodes.append(newer)
                continue
            node = node_of(restore_event(room.version, event_id, row.pdu), row)
            graph.add(node)
            nodes.append(node)
        return nodes

    def make_space(self, room: LiveRoom) -> None:
        """Let what is too much go; only between two events of the room."""
        graph = self._graph(room)
        if graph.size > _MAX_BYTES:
            graph.forget_events()
        if graph.numbers > _MAX_NUMBERS:
            graph.forget_numbers()
        size = sum(other.size for other in self._graphs.values())
        numbers = sum(other.numbers for other in self._graphs.values())
        while (size > _MAX_BYTES or numbers > _MAX_NUMBERS) and len(self._graphs) > 1:
            _, oldest = self._graphs.popitem(last=False)
            size -= oldest.size
            numbers -= oldest.numbers


def _portions(missing: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(missing), _EVENTS_AT_ONCE):
        yield missing[start : start + _EVENTS_AT_ONCE]


def _encode(version: RoomVersion, event_id: EventID) -> bytes | None:
    """Return the stored id; None for one that no event of this version can have."""
    try:
        return encode_event_id(version, event_id)
    except ValueError:
        return None
