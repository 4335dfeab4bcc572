"""Learning the members that the answer to a join had left out.

spec: server-server-api/#joining-rooms (`members_omitted`), v1.19. Invariant: a room lacks members
until one commit gives it all of them, with the state of everything that has come in since the join.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homeserver.core.errors import EventRejected, MissingEvent
from homeserver.core.identifiers import RoomID
from homeserver.engine.auth_chains import TooFarToWalk
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.partial_rooms import PartialRoom, PartialRooms
from homeserver.engine.recalculation import Recalculated, Recalculation
from homeserver.engine.received_events import Moved
from homeserver.engine.remote_server import CountedServer, RemoteFailure, RemoteServer
from homeserver.engine.room_change import RoomChange
from homeserver.engine.room_writer import RoomWriter
from homeserver.engine.state_store import Snapshot
from homeserver.engine.state_takeover import StateTakeover
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.engine.tips import Tip
from homeserver.engine.told_states import ToldStates
from homeserver.errors import ServiceUnavailable
from homeserver.storage import partial_state
from homeserver.storage.database import Database
from homeserver.storage.partial_state import PlacedNumber

_MAX_REQUESTS = 100
_MAX_TRIES = 5
"""Before the room is held something may come in, or be under way; or it leaves memory."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What has been computed of a room, and what it was computed from."""

    room: LiveRoom
    tips: tuple[Tip, ...]
    placed: Sequence[PlacedNumber]
    computed: Recalculated
    members: Mapping[int, str]


class PartialStates:
    def __init__(
        self,
        database: Database,
        partial_rooms: PartialRooms,
        told: ToldStates,
        recalculation: Recalculation,
        takeover: StateTakeover,
        writer: RoomWriter,
    ) -> None:
        self._db = database
        self._partial_rooms = partial_rooms
        self._told = told
        self._recalculation = recalculation
        self._takeover = takeover
        self._writer = writer

    async def complete(self, room_id: RoomID, source: RemoteServer) -> None:
        """Ask a server for the state before the join, and let it take effect.

        1. The state is fetched, checked and stored; it must allow the join.
        2. The states since are computed. If an event came in meanwhile, they are once more, while
        what else comes in waits: others must not be able to keep the room as it is.
        3. All of it is committed, and those who wait are told.

        Nothing happens if the room lacks no members. Raises RemoteFailure: another server is to be
        asked; NotFound, ServiceUnavailable.
        """
        room = await self._writer.find_room(room_id)
        partial = await self._partial_rooms.find(room)
        if partial is None:
            self._partial_rooms.note_complete(room_id)
            return
        try:
            told = await self._fetch(room, partial, CountedServer(source, _MAX_REQUESTS))  # 1
            is_whole = await self._complete(partial, told)
        except (EventRejected, MissingEvent, TooFarToWalk) as error:
            raise RemoteFailure(f"the state makes no sense: {error}") from error
        if not is_whole:
            raise ServiceUnavailable("The room moves too fast", retry_after_ms=5000)
        self._partial_rooms.note_complete(room_id)

    async def _fetch(self, room: LiveRoom, partial: PartialRoom, source: RemoteServer) -> Snapshot:
        answer = await source.get_state(room.room_id, partial.join_id)
        told = await self._told.take_in(
            room, source, answer.state, answer.auth_chain, leaving_out=partial.join_id
        )
        await self._told.check_known_join(room, source, partial.join_id, told.state)
        return told

    async def _complete(self, partial: PartialRoom, told: Snapshot) -> bool:
        """Return False if the room does not come to rest. Raises RemoteFailure: what was told is
        of no use, as the room was left and entered anew.
        """
        found = await self._compute(partial, told)  # 2
        with self._writer.holding(partial.room_id):
            # What is being committed is there after this; what comes later waits.
            await self._writer.write(partial.room_id, [], lambda _: [], passes=True)
            for _ in range(_MAX_TRIES):
                if found is None:
                    return True  # entered anew, with its members
                if await self._commit(partial, found):  # 3
                    return True
                found = await self._compute(partial, told)
        return False

    async def _compute(self, partial: PartialRoom, told: Snapshot) -> _Found | None:
        room = await self._writer.find_room(partial.room_id)
        if room.partial is None:
            return None
        if room.partial.join_nid != partial.join_nid:
            raise RemoteFailure("the room was entered anew")
        tips = room.tips
        placed = await self._list_placed(room, partial)
        computed = await self._recalculation.compute(room, told, placed)
        members = await self._takeover.prepare(room, computed.current.state)
        return _Found(room, tips, placed, computed, members)

    async def _list_placed(self, room: LiveRoom, partial: PartialRoom) -> Sequence[PlacedNumber]:
        return await self._db.read(partial_state.list_placed_from, room.room_nid, partial.join_nid)

    async def _commit(self, partial: PartialRoom, found: _Found) -> bool:
        """Return False if an event has come in since it was computed, be it one nobody sees."""
        room = found.room

        def build(change: RoomChange) -> list[TimelineEvent]:
            if change.room is not room or change.tips != found.tips:
                raise Moved("extremities")
            self._note(change, found.computed, found.members)
            return []

        if await self._list_placed(room, partial) != found.placed:
            return False
        try:
            await self._writer.write(room.room_id, [], build, passes=True)
        except Moved:
            return False
        finally:
            room.awaited.clear()
        self._takeover.remember(room, found.computed.nodes)
        return True

    def _note(self, change: RoomChange, found: Recalculated, members: Mapping[int, str]) -> None:
        for row in found.rows:
            change.add_state_row(row)
        change.tips = found.tips
        change.received.placed += found.placed
        change.forgets_recent = True
        assert change.partial is not None
        self._takeover.make_whole(change, change.partial, found.current, members)
