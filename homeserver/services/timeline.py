"""Reading a room's timeline: pages of messages, single events, and who may see what of it.

spec: client-server-api/#getting-events-for-a-room, #room-history-visibility, v1.19. Tokens name a
gap between two events of the topological order: `t{depth}_{event number}`, after that event.
Invariant: every event that leaves here has passed `visible`.
"""

import itertools
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from homeserver.core.events import Event
from homeserver.core.filters import RoomEventFilter
from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.timeline_event import TimelineEvent, load_timeline_event
from homeserver.errors import Forbidden, InvalidParam, NotFound
from homeserver.services.federation.remote_history import Extended, Progress, RemoteHistory
from homeserver.services.ignored_users import IgnoredUsers, is_told
from homeserver.services.room_access import ReadableRoom, RoomAccess
from homeserver.services.sight import Sight
from homeserver.storage import events
from homeserver.storage.database import Database

Place = tuple[int, int]
"""(depth, event number)"""
START: Place = (-1, -1)
END: Place = (2**63 - 1, 2**62)
"""Beyond the deepest event there can be: rooms before version 6 have depths up to 2^63 - 1."""
_TOKEN = re.compile(r"^t(-?\d{1,19})_(-?\d{1,19})$")
_MAX_PAGE = 1000
_MAX_SCANNED = 5_000
_MIN_CHUNK = 100
"""Events read at once when the first ones were not enough."""


@dataclass(frozen=True, slots=True)
class Page:
    """Events in the order asked for."""

    events: Sequence[TimelineEvent]
    start: str
    end: str | None
    """None: nothing more in this direction."""


@dataclass(frozen=True, slots=True)
class _Wish:
    user_id: UserID
    room: LiveRoom
    backwards: bool
    limit: int
    chosen: RoomEventFilter


@dataclass(frozen=True, slots=True)
class _Read:
    """What is stored of a page."""

    events: Sequence[TimelineEvent]
    place: Place | None
    """Where there may be more."""
    reached: int
    """Depth up to which everything was read."""


def make_token(place: Place) -> str:
    return f"t{place[0]}_{place[1]}"


class Timeline:
    def __init__(
        self,
        database: Database,
        access: RoomAccess,
        sight: Sight,
        ignored: IgnoredUsers,
        history: RemoteHistory,
    ) -> None:
        self._db = database
        self._access = access
        self._sight = sight
        self._ignored = ignored
        self._history = history

    async def page(
        self,
        user_id: UserID,
        room_id: RoomID,
        *,
        backwards: bool,
        start: str | None,
        until: str | None,
        limit: int,
        chosen: RoomEventFilter,
    ) -> Page:
        """Return up to `limit` events the user may see. Raises Forbidden, InvalidParam.

        Where history is missing, other servers are asked for it first.
        """
        readable = await self._access.access_readable(user_id, room_id)
        room = readable.room
        place = await self.place_at(room, start, END if backwards else START)
        stop = await self.place_at(room, until, START if backwards else END)
        if readable.up_to is not None and backwards:
            place = min(place, await self._place_of(room, readable.up_to))
        wish = _Wish(user_id, room, backwards, max(1, min(limit, _MAX_PAGE)), chosen)
        deadline = self._history.deadline()
        while True:
            page = await self._read(wish, place, stop)
            over, up_to = (page.reached, place[0]) if backwards else (place[0], page.reached)
            extended = await self._history.extend(room, over, up_to, deadline)
            if extended.progress is not Progress.MORE:
                return _ended(page, place, extended, backwards=backwards)

    async def _read(self, wish: "_Wish", place: Place, stop: Place) -> "_Read":
        """Read what is stored."""
        allows_all = wish.chosen.allows_all
        found: list[TimelineEvent] = []
        scanned = 0
        more = True
        size = wish.limit
        while len(found) < wish.limit and more and scanned < _MAX_SCANNED:
            chunk = await self._chunk(wish.room, place, stop, size, backwards=wish.backwards)
            more = len(chunk) == size
            size = max(size, _MIN_CHUNK)
            seen = await self.visible(wish.user_id, wish.room, chunk)
            for event in chunk:
                scanned += 1
                place = place_before(event) if wish.backwards else event.position
                if event in seen and (
                    allows_all or _chosen(event.event, wish.room.room_id, wish.chosen)
                ):
                    found.append(event)
                    if len(found) == wish.limit:
                        more = more or event is not chunk[-1]
                        break
        return _Read(found, place if more else None, (place if more else stop)[0])

    async def is_gap_before(self, room: LiveRoom, found: TimelineEvent | None) -> bool:
        """Return whether history is missing before an event; None: before any."""
        return await self._history.is_gap_before(room, None if found is None else found.event)

    async def _chunk(
        self, room: LiveRoom, place: Place, stop: Place, limit: int, *, backwards: bool
    ) -> list[TimelineEvent]:
        if backwards:
            upper = (place[0], place[1] + 1)
            if room.recent and place >= room.recent[-1].position and stop == START:
                newest = list(room.recent_after(room.recent_from))[:limit]
                if len(newest) == limit and _is_chain(room, newest):
                    return newest
            stored = await self._db.read(
                events.list_timeline_backwards, room.room_nid, upper, stop, limit
            )
        else:
            stored = await self._db.read(
                events.list_timeline_forwards, room.room_nid, place, stop, limit
            )
        return [load_timeline_event(room.version, row) for row in stored]

    async def place_at(self, room: LiveRoom, token: str | None, default: Place) -> Place:
        """Read a token of this server: of /messages, or of /sync (its event position).

        Raises InvalidParam.
        """
        if not token:
            return default
        parsed = _TOKEN.match(token)
        if parsed:
            return (int(parsed[1]), int(parsed[2]))
        synced = re.match(r"^s(\d{1,19})_", token)
        if not synced:
            raise InvalidParam("This is not a token of this server")
        rows = await self._db.read(
            events.list_stream_backwards, room.room_nid, int(synced[1]), 0, 1
        )
        return (rows[0].depth, rows[0].event_nid) if rows else START

    async def _place_of(self, room: LiveRoom, event_nid: int) -> Place:
        rows = await self._db.read(events.list_events, room.room_nid, [event_nid])
        return (rows[0].depth, event_nid) if rows else END

    async def state_at(self, user_id: UserID, readable: ReadableRoom, token: str) -> int | None:
        """Return the number of the state at a token, or at the user's leaving if that was before.

        1. Just before an event behind a gap, what that event says of the state counts.
        2. Else it is the state after the last event.

        None before the room began. Raises Forbidden if the user may not see that event.
        """
        room = readable.room
        place = await self.place_at(room, token, END)
        if readable.up_to is not None:
            place = min(place, await self._place_of(room, readable.up_to))
        told = await self._chunk(room, place, END, 1, backwards=False)
        if told and told[0].follows_gap and place_before(told[0]) == place:
            state_nid = told[0].state_before  # 1
        else:
            told = await self._chunk(room, place, START, 1, backwards=True)  # 2
            state_nid = told[0].state_after if told else None
        if told and not await self.may_see(user_id, room, told):
            raise Forbidden("You may not see the room as it was then")
        return state_nid

    async def find_event(self, room: LiveRoom, event_id: EventID) -> TimelineEvent | None:
        """Return an event of this room, whoever may see it."""
        for found in reversed(room.recent):
            if found.event.event_id == event_id:
                return found
        event_nid = await self._access.find_event_nid(room, event_id)
        if event_nid is None:
            return None
        stored = await self._db.read(events.list_events, room.room_nid, [event_nid])
        if not stored or stored[0].flags & (events.OUTLIER | events.REJECTED | events.SOFT_FAILED):
            return None
        return load_timeline_event(room.version, stored[0])

    async def get_event(self, user_id: UserID, room_id: RoomID, event_id: EventID) -> TimelineEvent:
        """Raises NotFound when there is no such event or the user may not see it."""
        room = (await self._access.access_readable(user_id, room_id)).room
        found = await self.find_event(room, event_id)
        if found is None or found not in await self.visible(user_id, room, [found]):
            raise NotFound("No such event, or you may not see it")
        return found

    async def visible(
        self, user_id: UserID, room: LiveRoom, found: Iterable[TimelineEvent]
    ) -> set[TimelineEvent]:
        """Return those of `found` that the user may see and does not ignore."""
        seen = await self._sight.visible(user_id, room, found)
        return set(await self.heeded(user_id, seen))

    async def may_see(
        self, user_id: UserID, room: LiveRoom, found: Iterable[TimelineEvent]
    ) -> set[TimelineEvent]:
        """Return those of `found` that the user may see, though he may ignore their senders."""
        return await self._sight.visible(user_id, room, found)

    async def blocks_invites(self, user_id: UserID) -> bool:
        return await self._ignored.blocks_invites(user_id)

    async def ignored_by(self, user_id: UserID) -> frozenset[UserID]:
        return await self._ignored.of(user_id)

    async def heeded(
        self, user_id: UserID, found: Collection[TimelineEvent]
    ) -> Collection[TimelineEvent]:
        """Leave out what ignored users have sent, but for state."""
        ignored = await self.ignored_by(user_id)
        return [event for event in found if is_told(event, ignored)] if ignored else found


def place_before(found: TimelineEvent) -> Place:
    """The gap just before an event."""
    depth, event_nid = found.position
    return (depth, event_nid - 1)


def _is_chain(room: LiveRoom, newest: Sequence[TimelineEvent]) -> bool:
    """Tell whether the newest events to have come are the last of the topological order as well.

    They are if each follows the one before and nothing else.
    """
    if len(room.tips) != 1 or room.tips[0].event_id != newest[0].event_id:
        return False
    return all(
        list(later.event.prev_events) == [earlier.event_id]
        for later, earlier in itertools.pairwise(newest)
    )


def _ended(page: _Read, first: Place, extended: Extended, *, backwards: bool) -> Page:
    """Make a page that ends where history is still missing, if it will come.

    If nobody could give it, what lies beyond is shown, and whoever asks again gets another try.
    """
    found, end = page.events, page.place
    if extended.progress is Progress.LATER:
        oldest, newest = extended.depths
        if backwards:
            end = (newest, -1)
            found = [event for event in found if event.position[0] >= newest]
        else:
            end = (oldest - 1, END[1])
            found = [event for event in found if event.position[0] < oldest]
    elif extended.progress is Progress.HOPELESS and end is None and found:
        end = place_before(found[-1]) if backwards else None
    return Page(found, make_token(first), None if end is None else make_token(end))


def _chosen(event: Event, room_id: RoomID, chosen: RoomEventFilter) -> bool:
    return chosen.allows(event.type, event.sender, room_id, contains_url="url" in event.content)
