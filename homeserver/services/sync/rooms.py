"""The events part of each room in a sync: timeline, state, summary.

spec: client-server-api/#get_matrixclientv3sync, #lazy-loading-room-members, v1.19. Invariant: state
before the timeline, plus the state events in it, is the room's state at the end of the timeline.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import orjson

from homeserver.core.events import restore_event
from homeserver.core.filters import RoomEventFilter, SyncFilter
from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.state_store import StateStore
from homeserver.engine.timeline_event import TimelineEvent, load_timeline_event
from homeserver.engine.user_rooms import RoomOfUser
from homeserver.requester import Requester
from homeserver.services.aggregations import Aggregations
from homeserver.services.room_state import RoomState
from homeserver.services.sync.heroes import NAMING, find_heroes, summarize
from homeserver.services.sync.sent_members import SentTo
from homeserver.services.timeline import Timeline, make_token, place_before
from homeserver.storage import events, memberships, out_of_band
from homeserver.storage.database import Database
from homeserver.storage.events import decode_event_id

_DEFAULT_LIMIT = 10
_MAX_LIMIT = 100
_LOOKED_THROUGH = 99
"""Events in which those that a filter asks for are looked for: as many as memory surely has of a
room in use, and knows that there are more."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a sync asks of every room."""

    requester: Requester
    chosen: SyncFilter
    since: int | None
    """Position in the events stream; None: an initial sync."""
    now: int
    full_state: bool
    use_state_after: bool
    sent: SentTo
    """Which member events need not be repeated."""

    @property
    def state_key(self) -> bytes:
        return b'"state_after"' if self.use_state_after else b'"state"'


@dataclass(frozen=True, slots=True)
class RoomPart:
    """One room's events, rendered."""

    json: bytes
    """The members of the room's object, without the braces around them."""
    is_empty: bool
    changed_members: Sequence[TimelineEvent]
    """Member events of others since the token: they may change who shares a room."""


@dataclass(frozen=True, slots=True)
class Span:
    """The timeline and what comes just before it."""

    timeline: list[TimelineEvent]
    """Oldest first, all that the user may see, before the filter's types."""
    is_limited: bool
    is_cut: bool = False
    """Events just before it are left out, which the filter does not ask for."""


class RoomParts:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        states: StateStore,
        timeline: Timeline,
        room_state: RoomState,
        aggregations: Aggregations,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._states = states
        self._timeline = timeline
        self._room_state = room_state
        self._aggregations = aggregations

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
            return RoomPart(b"", True, ())
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
            wish, room, Span(timeline, is_limited=False), timeline, [], mine.event_nid
        )
        return RoomPart(json, False, ())

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
        return RoomPart(json, False, ())

    async def is_ignored(self, user_id: UserID, mine: RoomOfUser) -> bool:
        """Tell whether this is an invitation by somebody whom the user ignores, if he wants any."""
        if mine.membership != "invite":
            return False
        if await self._timeline.blocks_invites(user_id):
            return True
        ignored = await self._timeline.ignored_by(user_id)
        if not ignored:
            return False
        own = [
            event
            for event in orjson.loads(await self.stripped_state(user_id, mine))
            if event.get("type") == MEMBER and event.get("state_key") == user_id
        ]
        return any(event.get("sender") in ignored for event in own)

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
        changed_members = [event for event in span.timeline if event.type == MEMBER]
        if not filters.timeline.allows_all:
            span = _cut(span, limit, filters.timeline, room.room_id)
        timeline = [
            event
            for event in (*span.timeline, *own)
            if _allows(filters.timeline, event, room.room_id)
        ]
        whole = is_new or wish.full_state
        state = await self._state(wish, room, span, after=after, up_to=up_to, whole=whole)
        if own and wish.use_state_after:
            user_id = requester.user_id
            state = [e for e in state if (e.type, e.state_key) != (MEMBER, user_id)]
            state += own
        if span.is_limited or whole:
            changed_members += [event for event in state if event.type == MEMBER]
        summary: JsonObject = {}
        if room.membership_of(requester.user_id) == "join" and (
            whole
            or changed_members
            or any(event.type in NAMING for event in (*span.timeline, *state))
        ):
            summary = summarize(room, requester.user_id)
        if filters.state.lazy_load_members:
            heroes = find_heroes(room, requester.user_id) if "m.heroes" in summary else []
            state = await self._lazy(
                wish, room, span, state, timeline, heroes, up_to=up_to, whole=whole
            )
        state = [event for event in state if _allows(filters.state, event, room.room_id)]
        if not timeline and not state and not is_new and not span.is_limited:
            return RoomPart(b"", True, changed_members)
        json = await self._render(wish, room, span, timeline, state, up_to)
        if summary:
            json += b',"summary":' + orjson.dumps(summary)
        return RoomPart(json, False, changed_members)

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

    async def _state(
        self, wish: Wish, room: LiveRoom, span: Span, *, after: int, up_to: int, whole: bool
    ) -> list[TimelineEvent]:
        """Return the state that the client lacks: before the timeline, or after it if wished.

        Without a gap, the state events of the timeline are all that changed; unless the room was
        forked, when a resolution may have changed more, and less.
        """
        if not whole:
            before_nid = await self.state_number(room, after)
            end_nid = await self.state_number(room, up_to)
            if not _is_straight(span, before_nid, end_nid):
                return await self._resolved(wish, room, span, before_nid, end_nid)
        if not whole and not span.is_limited and not span.is_cut:
            if not wish.use_state_after:
                return []
            changed = {(e.type, e.state_key): e for e in span.timeline if e.state_key is not None}
            return list(changed.values())
        end = await self.state_number(room, up_to)
        at = end
        if span.timeline and not wish.use_state_after:
            at = span.timeline[0].state_before
        if at is None:
            return []
        if whole and room.tail is not None and at == room.tail.state_nid:
            lazy = wish.chosen.room.state.lazy_load_members
            return await self._live_rooms.list_state(room, with_members=not lazy)
        state = await self._states.load_state(room.room_nid, at)
        if whole and wish.chosen.room.state.lazy_load_members:
            return await self._without_members(room, state)
        if not whole:
            before = await self._load_state(room, before_nid)
            state = {slot: nid for slot, nid in state.items() if before.get(slot) != nid}
        return await self._room_state.load_events(room, state.values())

    async def _without_members(
        self, room: LiveRoom, state: Mapping[int, int]
    ) -> list[TimelineEvent]:
        """Return the events of a recent state but for those of most members, without reading them.

        What it has in common with the current state is in memory.
        """
        newer = {nid for slot, nid in room.state.items() if state.get(slot) != nid}
        older = [nid for slot, nid in state.items() if room.state.get(slot) != nid]
        same = [each for each in room.state_events.values() if each.event_nid not in newer]
        return same + await self._room_state.load_events(room, older)

    async def _resolved(
        self, wish: Wish, room: LiveRoom, span: Span, before_nid: int | None, end_nid: int | None
    ) -> list[TimelineEvent]:
        """Return what has changed in a forked room, but for what the timeline says itself."""
        before = await self._load_state(room, before_nid)
        end = await self._load_state(room, end_nid)
        numbers = {nid for slot, nid in end.items() if before.get(slot) != nid}
        for event in span.timeline:
            if not wish.use_state_after:
                numbers.discard(event.event_nid)
            elif event.state_key is not None and event.event_nid not in numbers:
                # It has lost: what holds its slot is told again.
                after = await self._load_state(room, event.state_after)
                numbers |= {end.get(s, 0) for s, nid in after.items() if nid == event.event_nid}
        return await self._room_state.load_events(room, numbers - {0})

    async def _load_state(self, room: LiveRoom, state_nid: int | None) -> Mapping[int, int]:
        if state_nid is None:
            return {}
        return await self._states.load_state(room.room_nid, state_nid)

    async def state_number(self, room: LiveRoom, position: int) -> int | None:
        """Return the state after the newest event up to a position of the events stream."""
        if room.tail is not None and position >= room.last_event:
            return room.tail.state_nid
        for event in reversed(room.recent):
            if event.event_nid <= position:
                return event.state_after if event.room_state is None else event.room_state
        rows = await self._db.read(events.list_stream_backwards, room.room_nid, position, 0, 1)
        if not rows:
            return None
        return rows[0].state_after if rows[0].room_state is None else rows[0].room_state

    async def _lazy(
        self,
        wish: Wish,
        room: LiveRoom,
        span: Span,
        state: Sequence[TimelineEvent],
        timeline: Sequence[TimelineEvent],
        heroes: Sequence[UserID],
        *,
        up_to: int,
        whole: bool,
    ) -> list[TimelineEvent]:
        """Leave out members that the timeline does not need, or that the device has been sent.

        1. What changed in a gap is told, whoever it is.
        2. Who speaks, as he was when the timeline began; heroes; the user himself, to begin with.
        3. Who changes in the timeline is told there, unless he spoke before.
        """
        user_id = wish.requester.user_id
        kept = [event for event in state if event.type != MEMBER or not whole]  # 1
        wanted = {event.sender for event in timeline} | set(heroes)  # 2
        if whole:
            wanted.add(user_id)
        wanted -= {event.state_key for event in kept if event.type == MEMBER}
        earlier: set[UserID] = set()
        if not wish.use_state_after:  # 3
            spoke: set[UserID] = set()
            for event in timeline:
                changing = UserID(event.state_key or "")
                if event.type == MEMBER and changing in wanted:
                    wanted.discard(changing)
                    if changing in spoke:
                        earlier.add(changing)
                spoke.add(event.sender)
        if up_to >= room.last_event or room.membership_of(user_id) == "join":
            members = await self._live_rooms.list_member_events(room, wanted)
        else:  # he has left: who changed his name since then is none of his business
            members = await self._members_at(room, await self.state_number(room, up_to), wanted)
        members += await self._room_state.list_cited_members(room, timeline)
        if earlier:
            members += await self._members_at(room, span.timeline[0].state_before, earlier)
        repeats = whole or wish.chosen.room.state.include_redundant_members
        members = [e for e in members if repeats or e.event_nid not in wish.sent]
        for event in (*kept, *members, *timeline):
            if event.type == MEMBER:
                wish.sent.note(event.event_nid)
        return kept + members

    async def _members_at(
        self, room: LiveRoom, state_nid: int | None, wanted: Collection[UserID]
    ) -> list[TimelineEvent]:
        if state_nid is None or not wanted:
            return []
        past = await self._room_state.list_state_at(room, state_nid, only=MEMBER)
        return [event for event in past if event.state_key in wanted]

    async def _render(
        self,
        wish: Wish,
        room: LiveRoom,
        span: Span,
        timeline: Sequence[TimelineEvent],
        state: Sequence[TimelineEvent],
        up_to: int,
    ) -> bytes:
        """`timeline` is what the filter has left of the span."""
        first = span.timeline[0] if span.timeline else None
        prev_batch = (
            make_token(place_before(first)) if first is not None else f"s{up_to}_0_0_0_0_0_0"
        )
        if wish.chosen.is_federation_format:
            shown, told = ([_pdu(event) for event in found] for found in (timeline, state))
        else:
            shown = await self._aggregations.render(
                wish.requester,
                room.room_id,
                timeline,
                with_room=False,
                is_live=not span.is_limited,
            )
            told = await self._aggregations.render_state(
                wish.requester, room.room_id, state, with_room=False
            )
        return b"".join(
            [
                b'"timeline":{"events":[', _selected(shown, wish.chosen),
                b'],"limited":', b"true" if span.is_limited else b"false",
                b',"prev_batch":', orjson.dumps(prev_batch), b"},",
                wish.state_key, b':{"events":[', _selected(told, wish.chosen), b"]}",
            ]
        )  # fmt: skip


def _cut(span: Span, limit: int, chosen: RoomEventFilter, room_id: RoomID) -> Span:
    """Let the timeline begin with the first of the newest `limit` events that are asked for.

    State that has changed before that is told as such, as the filter would leave it out here.
    """
    places = [i for i, event in enumerate(span.timeline) if _allows(chosen, event, room_id)]
    shown = places[len(places) - limit :] if len(places) > limit else places
    timeline = span.timeline[shown[0] :] if shown else []
    is_limited = span.is_limited or len(places) > limit
    return Span(timeline, is_limited, is_cut=len(timeline) < len(span.timeline))


def _is_straight(span: Span, before: int | None, end: int | None) -> bool:
    """Tell whether the room went from one state to the other by the timeline's events alone."""
    if span.is_limited or span.is_cut:
        if not span.timeline:
            return True
        before = span.timeline[0].state_before
    for event in span.timeline:
        if event.state_before != before or event.room_state is not None:
            return False
        before = event.state_after
    return before == end


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
