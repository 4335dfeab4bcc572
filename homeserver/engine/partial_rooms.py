"""Rooms whose state lacks members for the time being, and waiting until it lacks none.

spec: server-server-api/#joining-rooms (`members_omitted`), v1.19. Such a room can be shown and
spoken in; what must know all members waits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred

from homeserver.clock import Clock, cancel_call
from homeserver.core.identifiers import EventID, RoomID, ServerName, UserID
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.errors import ServiceUnavailable
from homeserver.storage import partial_state
from homeserver.storage.database import Database
from homeserver.storage.events import decode_event_id
from homeserver.storage.partial_state import PartialRow

_MAX_WAIT_SECONDS = 20.0
_RETRY_AFTER_MS = 10_000


@dataclass(frozen=True, slots=True)
class PartialRoom:
    room_id: RoomID
    join_id: EventID
    join_nid: int
    servers: Sequence[ServerName]
    """In the room at the join; the first one answered it."""


class PartialRooms:
    def __init__(self, database: Database, live_rooms: LiveRooms, clock: Clock) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._clock = clock
        self._waiting: dict[RoomID, list[Deferred[None]]] = {}
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` when a room has got its members."""
        self._listeners.append(listener)

    async def list_rooms(self) -> list[PartialRoom]:
        """Return the rooms that lack members, the one that has for longest first."""
        return [_partial(row) for row in await self._db.read(partial_state.list_partial_rooms)]

    async def find(self, room: LiveRoom) -> PartialRoom | None:
        row = await self._db.read(partial_state.find_partial_room, room.room_nid)
        return None if row is None else _partial(row)

    async def wait(self, room_id: RoomID) -> None:
        """Return when the room lacks no members. Raises ServiceUnavailable if that takes long."""
        room = await self._live_rooms.find(room_id)
        if room is None or not room.is_partial:
            return
        waiting: Deferred[None] = Deferred()
        self._waiting.setdefault(room_id, []).append(waiting)
        timer = self._clock.call_later(_MAX_WAIT_SECONDS, lambda: self._give_up(room_id, waiting))
        try:
            await waiting
        finally:
            cancel_call(timer)
            self._forget(room_id, waiting)

    async def wait_for_member(self, room_id: RoomID, user_id: UserID) -> None:
        """Return when it is known what a user is in the room. Raises as `wait`."""
        room = await self._live_rooms.find(room_id)
        if room is not None and room.is_partial:
            member = room.members.get(user_id)
            if member is None or not member.member_event:  # as he was told from outside, or so
                await self.wait(room_id)

    def note_complete(self, room_id: RoomID) -> None:
        for listener in self._listeners:
            listener()
        for waiting in self._waiting.pop(room_id, []):
            if not waiting.called:
                waiting.callback(None)

    def _give_up(self, room_id: RoomID, waiting: Deferred[None]) -> None:
        self._forget(room_id, waiting)
        if not waiting.called:
            waiting.errback(
                ServiceUnavailable(
                    "The members of this room are not all known yet",
                    retry_after_ms=_RETRY_AFTER_MS,
                )
            )

    def _forget(self, room_id: RoomID, waiting: Deferred[None]) -> None:
        others = self._waiting.get(room_id, [])
        if waiting in others:
            others.remove(waiting)
        if not others:
            self._waiting.pop(room_id, None)


def _partial(row: PartialRow) -> PartialRoom:
    join_id = decode_event_id(ROOM_VERSIONS[row.room_version], row.join_id)
    return PartialRoom(row.room_id, join_id, row.join_nid, row.servers)
