"""Writing events of other servers: submit, load what was missing, submit again."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from homeserver.core.events import Event
from homeserver.core.identifiers import RoomID, UserID
from homeserver.engine.commit_loop import Build, CommitLoop
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.event_graph import EventGraph
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.not_loaded import NotLoaded
from homeserver.engine.received_events import Moved
from homeserver.engine.state_at_event import StateAtEvent
from homeserver.errors import DatabaseUnavailable, NotFound, ServiceUnavailable

_MAX_TRIES = 200


class RoomWriter:
    def __init__(
        self,
        live_rooms: LiveRooms,
        commit_loop: CommitLoop,
        dictionary: Dictionary,
        graph: EventGraph,
        state_at: StateAtEvent,
    ) -> None:
        self._live_rooms = live_rooms
        self._commit_loop = commit_loop
        self._dictionary = dictionary
        self._graph = graph
        self._state_at = state_at

    def holding(self, room_id: RoomID) -> AbstractContextManager[None]:
        """Let the room rest: only a `write` that `passes` is written now."""
        return self._commit_loop.holding(room_id)

    async def write(
        self, room_id: RoomID, events: Sequence[Event], build: Build, *, passes: bool = False
    ) -> None:
        """Commit what `build` makes of these events.

        Raises Moved when an event must be prepared again, DatabaseUnavailable, NotFound.
        """
        await self.number(events)
        for _ in range(_MAX_TRIES):
            room = self._live_rooms.find_loaded(room_id) or await self.find_room(room_id)
            try:
                await self._commit_loop.submit_change(room_id, len(events), build, passes=passes)
            except Moved:
                raise
            except NotLoaded as missing:
                await self._load(room, missing, events)
            except DatabaseUnavailable:
                self._graph.drop(room)
                raise
            else:
                return
        raise ServiceUnavailable("The room does not stay in memory", retry_after_ms=2000)

    async def find_room(self, room_id: RoomID) -> LiveRoom:
        """Raises NotFound."""
        room = await self._live_rooms.find(room_id)
        if room is None:
            raise NotFound("Unknown room")
        return room

    async def number(self, events: Sequence[Event]) -> None:
        """Give numbers to what these events name, ahead of `write`."""
        users = [event.sender for event in events]
        users += [UserID(e.state_key) for e in events if e.type == MEMBER and e.state_key]
        slots = [(e.type, e.state_key) for e in events if e.state_key is not None]
        await self._dictionary.ensure(users, [event.type for event in events], slots)

    async def _load(self, room: LiveRoom, missing: NotLoaded, events: Sequence[Event]) -> None:
        if missing.graph is not None:
            await self._state_at.load(room, missing.graph)
        elif missing.user is not None and not missing.event_type:
            await self._dictionary.ensure([missing.user], [], [])
            await self._live_rooms.load_members(room, [missing.user])
        else:
            await self.number(events)
