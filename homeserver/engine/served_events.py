"""Events as other servers ask for them: states, auth chains, history, single events.

spec: server-server-api/#retrieving-events, #backfilling-and-retrieving-missing-events, v1.19. What
is served is the bytes as they are stored; only redacted events are parsed, to be served redacted.
Invariant: rejected events are not served, and soft-failed ones only to who knows of them: by their
own id, or by that of an event that names them as a parent.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from twisted.internet.defer import Deferred

from homeserver.background import both
from homeserver.core.events import redact_event, restore_event
from homeserver.core.identifiers import EventID, RoomID
from homeserver.core.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.core.state_map import State
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.event_graph import EventGraph
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.remote_server import StateIDs
from homeserver.engine.state_store import StateStore
from homeserver.errors import NotFound
from homeserver.storage import events, served_events
from homeserver.storage.database import Database
from homeserver.storage.events import OUTLIER, decode_event_id, encode_event_id
from homeserver.storage.served_events import ServedRow

MAX_BACKFILL = 100
MAX_MISSING = 20
_MAX_AUTH_CHAIN = 100_000
_VISITS_AN_EVENT = 3
"""How many events may be walked through for each one that is served."""


@dataclass(frozen=True, slots=True)
class ServedEvent:
    room_id: RoomID
    version: RoomVersion
    event_id: EventID
    event_nid: int
    depth: int
    state_before: int | None
    """None for an outlier, which was only ever needed to authorize others."""
    pdu: bytes
    """Redacted if the event is."""


@dataclass(frozen=True, slots=True)
class ServedState:
    state: Sequence[bytes]
    """PDUs."""
    auth_chain: Sequence[bytes]


class ServedEvents:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        dictionary: Dictionary,
        states: StateStore,
        graph: EventGraph,
    ) -> None:
        self._db = database
        self._dictionary = dictionary
        self._live_rooms = live_rooms
        self._states = states
        self._graph = graph

    async def state_before(
        self, room_id: RoomID, event_id: EventID, *, omit_members: Collection[str] | None = None
    ) -> ServedState:
        """Return the state before an event with its auth chain. Raises NotFound.

        omit_members  leave out member events but those of these users
        """
        room, state = await self._find_state(room_id, event_id)
        if omit_members is None:
            numbers = list(state.values())
        else:
            numbers = await self._without_members(state, omit_members)
        pdus, chain = await both(
            Deferred.fromCoroutine(self._pdus(room, numbers)),
            Deferred.fromCoroutine(self._chain(room, numbers)),
        )
        others = await self._pdus(room, [number for number in chain if number not in pdus])
        if omit_members is None:
            known = pdus | others
            return ServedState(list(pdus.values()), [known[number] for number in chain])
        return ServedState(list(pdus.values()), list(others.values()))

    async def state_ids_before(self, room_id: RoomID, event_id: EventID) -> StateIDs:
        """Raises NotFound."""
        room, state = await self._find_state(room_id, event_id)
        numbers = list(state.values())
        chain = await self._chain(room, numbers)
        return StateIDs(await self._ids(room, numbers), await self._ids(room, chain))

    async def auth_chain(self, room_id: RoomID, event_ids: Collection[EventID]) -> Sequence[bytes]:
        """Return what the events cite, and so on, without themselves. Raises NotFound."""
        room = await self._find_room(room_id)
        nodes = await self._graph.load(room, event_ids)
        if len(nodes) < len(set(event_ids)):
            raise NotFound("Unknown event")
        chain = await self._chain(room, [node.event_nid for node in nodes.values()])
        return list((await self._pdus(room, chain)).values())

    async def find_event(self, event_id: EventID) -> ServedEvent | None:
        """Return an event of any room."""
        wanted = set()
        for version in ROOM_VERSIONS.values():
            try:
                wanted.add(encode_event_id(version, event_id))
            except ValueError:
                continue
        rows = await self._db.read(served_events.list_served, list(wanted))
        for row in rows:
            found = _served(row)
            if found.event_id == event_id:
                return found
        return None

    async def backfill(
        self, room_id: RoomID, event_ids: Collection[EventID], limit: int
    ) -> list[ServedEvent]:
        """Return the events named and what came before them, the deepest first."""
        room = await self._find_room(room_id)
        limit = max(1, min(limit, MAX_BACKFILL))
        rows = await self._walk(room, event_ids, (), limit)
        return [_served(row) for row in sorted(rows, key=_place, reverse=True)[:limit]]

    async def missing_events(
        self,
        room_id: RoomID,
        *,
        earliest: Collection[EventID],
        latest: Collection[EventID],
        limit: int,
        min_depth: int = 0,
    ) -> list[ServedEvent]:
        """Return what came before `latest`, but not what came before `earliest`; oldest first."""
        room = await self._find_room(room_id)
        limit = max(1, min(limit, MAX_MISSING))
        rows = await self._walk(room, latest, earliest, limit)
        named = set(latest)
        found = [_served(row) for row in sorted(rows, key=_place) if row.depth >= min_depth]
        return [event for event in found if event.event_id not in named][-limit:]

    async def event_at(
        self, room_id: RoomID, timestamp_ms: int, *, backwards: bool
    ) -> ServedEvent | None:
        """Return the event nearest to a point in time, at it or before (or after) it."""
        room = await self._find_room(room_id)
        start = (timestamp_ms + 1, 0) if backwards else (timestamp_ms - 1, 2**62)
        rows = await self._db.read(
            events.list_by_timestamp, room.room_nid, start, 1, backwards=backwards
        )
        if not rows:
            return None
        return await self.find_event(decode_event_id(room.version, rows[0].event_id))

    async def _find_room(self, room_id: RoomID) -> LiveRoom:
        room = await self._live_rooms.find(room_id)
        if room is None:
            raise NotFound("Unknown room")
        return room

    async def _find_state(self, room_id: RoomID, event_id: EventID) -> tuple[LiveRoom, State]:
        """Return the state before an event."""
        room = await self._find_room(room_id)
        node = (await self._graph.load(room, [event_id])).get(event_id)
        if node is None or node.state_before is None or node.is_rejected:
            raise NotFound("Unknown event")
        return room, await self._states.load_state(room.room_nid, node.state_before)

    async def _without_members(self, state: State, kept: Collection[str]) -> list[int]:
        numbers = []
        unnamed: State = {}
        for slot_nid, number in state.items():
            slot = self._dictionary.find_slot_name(slot_nid)
            if slot is None:
                unnamed[slot_nid] = number
            elif slot[0] != MEMBER or slot[1] in kept:
                numbers.append(number)
        if unnamed:  # of a large room not loaded for long; not to be kept for this
            numbers += await self._db.read(
                served_events.list_without_members,
                list(unnamed),
                list(unnamed.values()),
                list(kept),
            )
        return numbers

    async def _walk(
        self,
        room: LiveRoom,
        event_ids: Collection[EventID],
        stops: Collection[EventID],
        limit: int,
    ) -> list[ServedRow]:
        starts = await self._numbers(room, event_ids)
        return await self._db.read(
            served_events.list_before,
            room.room_nid,
            starts,
            await self._numbers(room, stops),
            len(starts) + _VISITS_AN_EVENT * limit,
        )

    async def _numbers(self, room: LiveRoom, event_ids: Collection[EventID]) -> list[int]:
        stored_ids = []
        for event_id in event_ids:
            try:
                stored_ids.append(encode_event_id(room.version, event_id))
            except ValueError:
                continue
        return await self._db.read(served_events.list_placed_numbers, room.room_nid, stored_ids)

    async def _chain(self, room: LiveRoom, numbers: Sequence[int]) -> list[int]:
        chain = await self._db.read(
            served_events.list_auth_chain, room.room_nid, numbers, _MAX_AUTH_CHAIN
        )
        if room.version.room_id_is_create_hash:
            # Nobody cites it, and nothing can be checked without it.
            chain += set(await self._numbers(room, [EventID("$" + room.room_id[1:])])) - set(chain)
        return chain

    async def _ids(self, room: LiveRoom, numbers: Sequence[int]) -> list[EventID]:
        stored = await self._db.read(served_events.list_ids, room.room_nid, numbers)
        return [decode_event_id(room.version, event_id) for event_id in stored]

    async def _pdus(self, room: LiveRoom, numbers: Sequence[int]) -> dict[int, bytes]:
        if not numbers:
            return {}
        pdus, redacted = await both(
            self._db.read(served_events.list_pdus, room.room_nid, numbers),
            self._db.read(served_events.list_redacted, room.room_nid, numbers),
        )
        for number, event_id in redacted.items():
            pdus[number] = _redacted(room.version, event_id, pdus[number])
        return pdus


def _redacted(version: RoomVersion, stored_id: bytes, pdu: bytes) -> bytes:
    event = restore_event(version, decode_event_id(version, stored_id), pdu)
    return redact_event(event).pdu_bytes


def _served(row: ServedRow) -> ServedEvent:
    version = ROOM_VERSIONS[row.room_version]
    return ServedEvent(
        row.room_id,
        version,
        decode_event_id(version, row.event_id),
        row.event_nid,
        row.depth,
        None if row.flags & OUTLIER else row.state_before,
        _redacted(version, row.event_id, row.pdu) if row.is_redacted else row.pdu,
    )


def _place(row: ServedRow) -> tuple[int, int]:
    return (row.depth, row.event_nid)


def redacted(event: ServedEvent) -> ServedEvent:
    """Return what is left of an event for a server that may not see it."""
    whole = restore_event(event.version, event.event_id, event.pdu)
    return replace(event, pdu=redact_event(whole).pdu_bytes)


__all__ = ["MAX_BACKFILL", "MAX_MISSING", "ServedEvent", "ServedEvents", "ServedState"]
