"""What surrounds an event, and which event surrounds a moment.

spec: client-server-api/#event-context and the operation getEventByTimestamp, v1.19
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from homeserver.core.filters import RoomEventFilter
from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.timeline_event import TimelineEvent, load_timeline_event
from homeserver.errors import InvalidParam, NotFound
from homeserver.services.federation.remote_moments import RemoteMoments
from homeserver.services.room_access import RoomAccess
from homeserver.services.room_state import RoomState, has_many_unread
from homeserver.services.timeline import END, Timeline, make_token, place_before
from homeserver.storage import events
from homeserver.storage.database import Database

_DEFAULT_LIMIT = 10
_MAX_LIMIT = 100
_CHUNK = 50
_MAX_SCANNED = 1_000
_MAX_TIMESTAMP = 2**53


@dataclass(frozen=True, slots=True)
class Context:
    event: TimelineEvent
    before: Sequence[TimelineEvent]
    """Newest first."""
    after: Sequence[TimelineEvent]
    """Oldest first."""
    state: AsyncIterator[list[TimelineEvent]]
    """After the last event, some at a time."""
    start: str
    end: str


class EventContext:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        access: RoomAccess,
        timeline: Timeline,
        room_state: RoomState,
        moments: RemoteMoments,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._access = access
        self._timeline = timeline
        self._room_state = room_state
        self._moments = moments

    async def around(
        self,
        user_id: UserID,
        room_id: RoomID,
        event_id: EventID,
        *,
        limit: int | None,
        chosen: RoomEventFilter,
    ) -> Context:
        """Return the event with half of `limit` on either side.

        Raises Forbidden, InvalidParam, and NotFound when the user may not see the event.
        """
        limit = _DEFAULT_LIMIT if limit is None else min(limit, _MAX_LIMIT)
        if limit < 0:
            raise InvalidParam("limit cannot be negative")
        found = await self._timeline.get_event(user_id, room_id, event_id)
        before, start = await self._beside(
            user_id, room_id, found, limit // 2, chosen, backwards=True
        )
        after, end = await self._beside(
            user_id, room_id, found, limit - limit // 2, chosen, backwards=False
        )
        room = (await self._access.access_readable(user_id, room_id)).room
        shown = [*before, found, *after]
        wanted = {event.event.sender for event in shown} if chosen.lazy_load_members else None
        state = self._state_after(room, shown[-1], wanted)
        return Context(found, before, after, _chosen(state, room_id, chosen), start, end)

    async def _beside(
        self,
        user_id: UserID,
        room_id: RoomID,
        found: TimelineEvent,
        limit: int,
        chosen: RoomEventFilter,
        *,
        backwards: bool,
    ) -> tuple[Sequence[TimelineEvent], str]:
        """Return the events on one side, nearest first, and the token that leads further."""
        start = make_token(place_before(found) if backwards else found.position)
        if limit == 0:
            return [], start
        page = await self._timeline.page(
            user_id,
            room_id,
            backwards=backwards,
            start=start,
            until=None,
            limit=limit,
            chosen=chosen,
        )
        if page.end is not None:
            return page.events, page.end
        if not page.events:
            return [], start
        last = page.events[-1]
        return page.events, make_token(place_before(last) if backwards else last.position)

    async def _state_after(
        self, room: LiveRoom, last: TimelineEvent, wanted: set[UserID] | None
    ) -> AsyncIterator[list[TimelineEvent]]:
        """Give the state after an event; only these users' member events unless None."""
        is_present = room.tail is not None and last.state_after == room.tail.state_nid
        if is_present and wanted is None and not has_many_unread(room):
            yield await self._live_rooms.list_state(room, with_members=True)
            return
        async for some in self._room_state.read_state_at(room, last.state_after, wanted):
            yield some

    async def find_by_timestamp(
        self, user_id: UserID, room_id: RoomID, timestamp: int, *, backwards: bool
    ) -> TimelineEvent:
        """Return the nearest visible event at or after (before) a moment in milliseconds.

        1. Of those known here.   2. If history is missing there, other servers may know a nearer.

        Raises Forbidden, and NotFound when there is none.
        """
        room = (await self._access.access_readable(user_id, room_id)).room
        timestamp = max(-_MAX_TIMESTAMP, min(timestamp, _MAX_TIMESTAMP))
        found = await self._find_known(user_id, room, timestamp, backwards=backwards)  # 1
        if await self._is_at_gap(room, found, backwards=backwards):  # 2
            nearest = None if found is None else found.event.origin_server_ts
            if await self._moments.fetch(room, timestamp, nearest, backwards=backwards):
                known = await self._find_known(user_id, room, timestamp, backwards=backwards)
                found = known or found
        if found is None:
            raise NotFound("There is no event in this direction")
        return found

    async def _is_at_gap(
        self, room: LiveRoom, found: TimelineEvent | None, *, backwards: bool
    ) -> bool:
        """Return whether history is missing before an event, or (backwards) right after it."""
        if len(room.servers) == 1 and not room.is_partial:
            return False
        if found is None:
            return await self._timeline.is_gap_before(room, None)
        if backwards:
            following = await self._db.read(
                events.list_timeline_forwards, room.room_nid, found.position, END, 1
            )
            if not following:
                return False
            found = load_timeline_event(room.version, following[0])
        return await self._timeline.is_gap_before(room, found)

    async def _find_known(
        self, user_id: UserID, room: LiveRoom, timestamp: int, *, backwards: bool
    ) -> TimelineEvent | None:
        place = (timestamp + 1, -1) if backwards else (timestamp, -1)
        for _ in range(_MAX_SCANNED // _CHUNK):
            stored = await self._db.read(
                events.list_by_timestamp, room.room_nid, place, _CHUNK, backwards=backwards
            )
            chunk = [load_timeline_event(room.version, row) for row in stored]
            seen = await self._timeline.visible(user_id, room, chunk)
            for event in chunk:
                if event in seen:
                    return event
            if len(chunk) < _CHUNK:
                break
            place = (chunk[-1].event.origin_server_ts, chunk[-1].event_nid)
        return None


async def _chosen(
    state: AsyncIterator[list[TimelineEvent]], room_id: RoomID, chosen: RoomEventFilter
) -> AsyncIterator[list[TimelineEvent]]:
    async for some in state:
        yield [
            event
            for event in some
            if chosen.allows(event.type, event.sender, room_id, contains_url="url" in event.content)
        ]
