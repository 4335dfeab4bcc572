"""The events part of each room in a sync: timeline, state, summary.

spec: client-server-api/#get_matrixclientv3sync, #lazy-loading-room-members, v1.19. Invariant: state
before the timeline, plus the state events in it, is the room's state at the end of the timeline.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

from homeserver.core.events import restore_event
from homeserver.core.filters import RoomEventFilter, SyncFilter
from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.timeline_event import TimelineEvent, load_timeline_event
from homeserver.engine.user_rooms import RoomOfUser
from homeserver.services.aggregations import Aggregations
from homeserver.services.sync.heroes import SUMMARIZED, find_heroes, summarize
from homeserver.services.sync.lacking_state import LackingState
from homeserver.services.sync.wish import Span, Wish
from homeserver.services.timeline import Timeline, make_token, place_before
from homeserver.storage import events, memberships, out_of_band
from homeserver.storage.database import Database
from homeserver.storage.events import decode_event_id

_DEFAULT_LIMIT = 10
_MAX_LIMIT = 100
_LOOKED_THROUGH = 99
"""Events in which those that a filter asks for are looked for: as many as memory surely has of a
room in use, and knows that there are more."""

_MAX_INVITATIONS = 100_000


@dataclass(frozen=True, slots=True)
class RoomPart:
    """One room's events, rendered."""

    json: bytes
    """The members of the room's object, without the braces around them."""
    is_empty: bool


class RoomParts:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        timeline: Timeline,
        lacking: LackingState,
        aggregations: Aggregations,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._timeline = timeline
        self._lacking = lacking
        self._aggregations = aggregations
        self._inviters: OrderedDict[int, frozenset[UserID]] = OrderedDict()
        """Who sent an invitation, by its number: sliding sync asks of each, every time."""

    async def joined(self, wish: Wish, mine: RoomOfUser, *, moved: bool) -> RoomPart | None:
        """Return the events of a room the user is in; None when the room is gone.

        moved  whether there may be events after the token
        """
        room = await self._live_rooms.find(mine.room_id)
        if room is None:
            return None
        if room.is_partial and not wish.chosen.room.state.lazy_load_members:
            return None  # it is shown as new when all its members are known
        is_new = wish.since is None or mine.new_at > wish.since
        after = 0 if is_new else wish.since or 0
        if not moved and not is_new and not wish.full_state:
            return RoomPart(b"", True)
        return await self._part(wish, room, after=after, up_to=wish.now, is_new=is_new)

    async def left(self, wish: Wish, mine: RoomOfUser) -> RoomPart | None:
        """Return what the user may still see of a room he left: up to his leaving.

        Of what came later, and to one who never was in, only his own membership is told.
        """
        room = await self._live_rooms.find(mine.room_id)
        if room is None:
            return await self._left_outside(wish, mine)
        since = wish.since or 0
        if mine.left_nid is None or mine.left_nid <= since:
            return await self._own_leave(wish, room, mine)
        is_new = wish.since is None or mine.new_at > since
        is_news = wish.since is not None and mine.event_nid > mine.left_nid
        return await self._part(
            wish,
            room,
            after=0 if is_new else since,
            up_to=mine.left_nid,
            is_new=is_new,
            own=await self._own_member_event(room, mine) if is_news else (),
        )

    async def _own_leave(self, wish: Wish, room: LiveRoom, mine: RoomOfUser) -> RoomPart:
        timeline = await self._own_member_event(room, mine)
        outside = None if timeline else await self._left_outside(wish, mine)
        if outside is not None:
            return outside
        chosen = wish.chosen.room.timeline
        timeline = [event for event in timeline if _allows(chosen, event, room.room_id)]
        json = await self._render(
            wish, room, Span(timeline, is_limited=False), timeline, (), mine.event_nid
        )
        return RoomPart(json, False)

    async def _own_member_event(self, room: LiveRoom, mine: RoomOfUser) -> list[TimelineEvent]:
        stored = await self._db.read(events.list_events, room.room_nid, [mine.event_nid])
        return [load_timeline_event(room.version, row) for row in stored]

    async def _left_outside(self, wish: Wish, mine: RoomOfUser) -> RoomPart | None:
        """Return what ended an invitation or a knock while this server was not in the room."""
        user_id = wish.requester.user_id
        row = await self._db.read(out_of_band.find_out_of_band, user_id, mine.room_id)
        if row is None:
            return None
        version = ROOM_VERSIONS[row.room_version]
        event = restore_event(version, decode_event_id(version, row.event_id), row.pdu)
        found = TimelineEvent(event, mine.event_nid, state_before=None, state_after=None)
        shown = [found.json] if _allows(wish.chosen.room.timeline, found, mine.room_id) else []
        json = b"".join(
            [
                b'"timeline":{"events":[', _selected(shown, wish.chosen),
                b'],"limited":false,"prev_batch":', orjson.dumps(make_token(found.position)),
                b"},", wish.state_key, b':{"events":[]}',
            ]
        )  # fmt: skip
        return RoomPart(json, False)

    async def is_ignored(self, user_id: UserID, mine: RoomOfUser) -> bool:
        """Tell whether this is an invitation by somebody whom the user ignores, if he wants any."""
        if mine.membership != "invite":
            return False
        if await self._timeline.blocks_invites(user_id):
            return True
        ignored = await self._timeline.ignored_by(user_id)
        if not ignored:
            return False
        inviters = self._inviters.get(mine.event_nid)
        if inviters is None:
            inviters = self._inviters[mine.event_nid] = frozenset(
                UserID(str(event.get("sender")))
                for event in orjson.loads(await self.stripped_state(user_id, mine))
                if event.get("type") == MEMBER and event.get("state_key") == user_id
            )
            if len(self._inviters) > _MAX_INVITATIONS:
                self._inviters.popitem(last=False)
        return not inviters.isdisjoint(ignored)

    async def stripped_state(self, user_id: UserID, mine: RoomOfUser) -> bytes:
        """Return the JSON array shown to one who is invited or has knocked."""
        return await self._db.read(memberships.find_stripped_state, user_id, mine.room_nid) or b"[]"

    async def _part(
        self,
        wish: Wish,
        room: LiveRoom,
        *,
        after: int,
        up_to: int,
        is_new: bool,
        own: Sequence[TimelineEvent] = (),
    ) -> RoomPart:
        """`own`: what happened to the user's membership after he had left, if anything."""
        requester = wish.requester
        filters = wish.chosen.room
        limit = filters.timeline.clamp_limit(_DEFAULT_LIMIT, _MAX_LIMIT)
        looked_through = limit if filters.timeline.allows_all else max(limit, _LOOKED_THROUGH)
        span = await self.span(requester.user_id, room, after, up_to, looked_through)
        if not filters.timeline.allows_all:
            span = _cut(span, limit, filters.timeline, room.room_id)
        timeline = [
            event
            for event in (*span.timeline, *own)
            if _allows(filters.timeline, event, room.room_id)
        ]
        whole = is_new or wish.full_state
        lacking = await self._lacking.find(wish, room, span, after=after, up_to=up_to, whole=whole)
        later = own if wish.use_state_after else ()
        replaced = {_slot(event) for event in later}
        state = [*(event for event in lacking.events if _slot(event) not in replaced), *later]
        summary: JsonObject = {}
        if room.membership_of(requester.user_id) == "join" and (
            whole
            or lacking.unread
            or any(event.type in SUMMARIZED for event in (*span.timeline, *state))
        ):
            summary = summarize(room, requester.user_id)
        if filters.state.lazy_load_members:
            heroes = find_heroes(room, requester.user_id) if "m.heroes" in summary else []
            state = await self._lacking.without_most_members(
                wish, room, span, state, timeline, heroes, up_to=up_to, whole=whole
            )
        told = await self._told(wish, room, state)
        known = {event.event_nid for event in state}
        async for some in self._lacking.read(room, lacking):
            rest = [e for e in some if e.event_nid not in known and _slot(e) not in replaced]
            told += await self._told(wish, room, rest)
        if not timeline and not told and not is_new and not span.is_limited:
            return RoomPart(b"", True)
        json = await self._render(wish, room, span, timeline, told, up_to)
        if summary:
            json += b',"summary":' + orjson.dumps(summary)
        return RoomPart(json, False)

    async def span(
        self, user_id: UserID, room: LiveRoom, after: int, up_to: int, limit: int
    ) -> Span:
        """Find the newest `limit` visible events in (after, up_to], in memory if they are there."""
        newest: list[TimelineEvent] = []
        if after >= room.recent_from or len(room.recent) > limit:
            for event in room.recent_after(max(after, room.recent_from)):
                if event.event_nid <= up_to:
                    newest.append(event)
                    if len(newest) > limit:
                        break
        if len(newest) <= limit and after < room.recent_from:
            stored = await self._db.read(
                events.list_stream_backwards, room.room_nid, up_to, after, limit + 1
            )
            newest = [load_timeline_event(room.version, row) for row in stored]
        is_limited = len(newest) > limit
        newest = newest[:limit]
        for place, event in enumerate(newest):
            if event.follows_gap:
                is_limited = True
                newest = newest[: place + 1]
                break
        seen = await self._timeline.may_see(user_id, room, newest)
        if len(seen) < len(newest):
            # Hidden history ends the timeline: what is older is not contiguous with the rest.
            kept = []
            for event in newest:
                if event not in seen:
                    is_limited = True
                    break
                kept.append(event)
            newest = kept
        newest = list(await self._timeline.heeded(user_id, newest))
        newest.reverse()
        return Span(newest, is_limited)

    async def _told(
        self, wish: Wish, room: LiveRoom, state: Iterable[TimelineEvent]
    ) -> list[bytes]:
        """Return the JSON of what the filter leaves of some state."""
        chosen = wish.chosen.room.state
        allowed = [event for event in state if _allows(chosen, event, room.room_id)]
        if wish.chosen.is_federation_format:
            return [_pdu(event) for event in allowed]
        return await self._aggregations.render_state(
            wish.requester, room.room_id, allowed, with_room=False
        )

    async def _render(
        self,
        wish: Wish,
        room: LiveRoom,
        span: Span,
        timeline: Sequence[TimelineEvent],
        told: Sequence[bytes],
        up_to: int,
    ) -> bytes:
        """`timeline` is what the filter has left of the span, `told` the state."""
        first = span.timeline[0] if span.timeline else None
        prev_batch = (
            make_token(place_before(first)) if first is not None else f"s{up_to}_0_0_0_0_0_0"
        )
        if wish.chosen.is_federation_format:
            shown = [_pdu(event) for event in timeline]
        else:
            shown = await self._aggregations.render(
                wish.requester,
                room.room_id,
                timeline,
                with_room=False,
                is_live=not span.is_limited,
            )
        return b"".join(
            [
                b'"timeline":{"events":[', _selected(shown, wish.chosen),
                b'],"limited":', b"true" if span.is_limited else b"false",
                b',"prev_batch":', orjson.dumps(prev_batch), b"},",
                wish.state_key, b':{"events":[', _selected(told, wish.chosen), b"]}",
            ]
        )  # fmt: skip


def _slot(event: TimelineEvent) -> tuple[str, str | None]:
    return event.type, event.state_key


def _cut(span: Span, limit: int, chosen: RoomEventFilter, room_id: RoomID) -> Span:
    """Let the timeline begin with the first of the newest `limit` events that are asked for.

    State that has changed before that is told as such, as the filter would leave it out here.
    """
    places = [i for i, event in enumerate(span.timeline) if _allows(chosen, event, room_id)]
    shown = places[len(places) - limit :] if len(places) > limit else places
    timeline = span.timeline[shown[0] :] if shown else []
    is_limited = span.is_limited or len(places) > limit
    return Span(timeline, is_limited, is_cut=len(timeline) < len(span.timeline))


def _allows(chosen: RoomEventFilter, event: TimelineEvent, room_id: RoomID) -> bool:
    return chosen.allows(event.type, event.sender, room_id, contains_url="url" in event.content)


def _pdu(found: TimelineEvent) -> bytes:
    """Return the event as servers exchange it, with its id, which newer versions leave out."""
    pdu = found.shown.pdu_bytes
    if "event_id" in found.event.pdu:
        return pdu
    return b'{"event_id":%b,%b' % (orjson.dumps(found.event.event_id), pdu[1:])


def _selected(jsons: Sequence[bytes], chosen: SyncFilter) -> bytes:
    if chosen.event_fields is not None:
        jsons = [orjson.dumps(chosen.select_fields(orjson.loads(json))) for json in jsons]
    return b",".join(jsons)
