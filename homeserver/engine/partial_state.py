"""Learning the members that the answer to a join had left out.

spec: server-server-api/#joining-rooms (`members_omitted`), v1.19. Invariant: a room lacks members
until one commit gives it all of them, with the state of everything that has come in since the join.
"""

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
from homeserver.engine.told_states import ToldStates
from homeserver.errors import ServiceUnavailable
from homeserver.storage import partial_state
from homeserver.storage.database import Database

_MAX_REQUESTS = 100
_MAX_HELD = 5
"""Commits that may still have been under way when a room began to be held."""


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
        2. The states since are computed. If an event came in meanwhile, they are once more, and
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
            if not is_whole:
                with self._writer.holding(room_id):
                    for _ in range(_MAX_HELD):
                        is_whole = is_whole or await self._complete(partial, told)
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
        """Return False if an event has come in meanwhile. Raises RemoteFailure: what was told is
        of no use, as the room was left and entered anew.
        """
        room = await self._writer.find_room(partial.room_id)
        if room.partial is None:
            return True  # entered anew, with its members
        if room.partial.join_nid != partial.join_nid:
            raise RemoteFailure("the room was entered anew")
        tips = room.tips
        placed = await self._db.read(
            partial_state.list_placed_from, room.room_nid, partial.join_nid
        )
        found = await self._recalculation.compute(room, told, placed)  # 2
        members = await self._takeover.prepare(room, found.current.state)

        def build(change: RoomChange) -> list[TimelineEvent]:
            if change.room is not room or change.tips != tips:
                raise Moved("extremities")
            self._note(change, found, members)
            return []

        try:
            await self._writer.write(room.room_id, [], build, passes=True)  # 3
        except Moved:
            return False
        finally:
            room.awaited.clear()
        self._takeover.remember(room, found.nodes)
        return True

    def _note(self, change: RoomChange, found: Recalculated, members: dict[int, str]) -> None:
        for row in found.rows:
            change.add_state_row(row)
        change.tips = found.tips
        change.received.placed += found.placed
        change.forgets_recent = True
        assert change.partial is not None
        self._takeover.make_whole(change, change.partial, found.current, members)
