"""The events part of each room in a sync: timeline, state, summary.

spec: client-server-api/#get_matrixclientv3sync, #lazy-loading-room-members, v1.19. Invariant: state
before the timeline, plus the state events in it, is the room's state at the end of the timeline.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import orjson

from homeserver.core.filters import RoomEventFilter, SyncFilter
from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.live_rooms import MEMBER, LiveRoom, LiveRooms
from homeserver.engine.state_store import StateStore
from homeserver.engine.timeline_event import TimelineEvent, load_timeline_event
from homeserver.engine.user_rooms import RoomOfUser
from homeserver.requester import Requester
from homeserver.services.aggregations import Aggregations
from homeserver.services.client_events import NO_BUNDLES, Bundles
from homeserver.services.room_state import RoomState
from homeserver.services.timeline import Timeline, make_token
from homeserver.storage import events, memberships
from homeserver.storage.database import Database

_DEFAULT_LIMIT = 10
_MAX_LIMIT = 100
_MAX_HEROES = 5


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
        is_new = wish.since is None or (mine.joined_nid or 0) > wish.since
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
            return None
        since = wish.since or 0
        if mine.left_nid is None or mine.left_nid <= since:
            return await self._own_leave(wish, room, mine)
        is_new = wish.since is None or (mine.joined_nid or 0) > since
        return await self._part(
            wish, room, after=0 if is_new else since, up_to=mine.left_nid, is_new=is_new
        )

    async def _own_leave(self, wish: Wish, room: LiveRoom, mine: RoomOfUser) -> RoomPart:
        stored = await self._db.read(events.list_events, room.room_nid, [mine.event_nid])
        timeline = [load_timeline_event(room.version, row) for row in stored]
        chosen = wish.chosen.room.timeline
        timeline = [event for event in timeline if _allows(chosen, event, room.room_id)]
        return RoomPart(_rendered(timeline, [], wish, mine.event_nid, is_limited=False), False, ())

    async def stripped_state(self, user_id: UserID, mine: RoomOfUser) -> bytes:
        """Return the JSON array shown to one who is invited or has knocked."""
        return await self._db.read(memberships.find_stripped_state, user_id, mine.room_nid) or b"[]"

    async def _part(
        self, wish: Wish, room: LiveRoom, *, after: int, up_to: int, is_new: bool
    ) -> RoomPart:
        requester = wish.requester
        filters = wish.chosen.room
        limit = filters.timeline.clamp_limit(_DEFAULT_LIMIT, _MAX_LIMIT)
        span = await self.span(requester.user_id, room, after, up_to, limit)
        timeline = [
            event for event in span.timeline if _allows(filters.timeline, event, room.room_id)
        ]
        whole = is_new or wish.full_state
        state = await self._state(wish, room, span, after=after, up_to=up_to, whole=whole)
        changed_members = [event for event in span.timeline if event.event.type == MEMBER]
        if span.is_limited or whole:
            changed_members += [event for event in state if event.event.type == MEMBER]
        if filters.state.lazy_load_members:
            state = await self._lazy(
                requester.user_id, room, state, timeline, up_to=up_to, whole=whole
            )
        state = [event for event in state if _allows(filters.state, event, room.room_id)]
        if not timeline and not state and not is_new and not span.is_limited:
            return RoomPart(b"", True, changed_members)
        first = span.timeline[0] if span.timeline else None
        bundles = NO_BUNDLES
        if span.is_limited:
            bundles = await self._aggregations.bundle(requester, room.room_id, timeline)
        json = _rendered(
            timeline, state, wish, up_to, first=first, is_limited=span.is_limited, bundles=bundles
        )
        is_in = room.membership_of(requester.user_id) == "join"
        if is_in and (whole or changed_members):
            json += b',"summary":' + orjson.dumps(_summary(room, requester.user_id))
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
        seen = await self._timeline.visible(user_id, room, newest)
        if len(seen) < len(newest):
            # Hidden history ends the timeline: what is older is not contiguous with the rest.
            kept = []
            for event in newest:
                if event not in seen:
                    is_limited = True
                    break
                kept.append(event)
            newest = kept
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
        if not whole and not span.is_limited:
            if not wish.use_state_after:
                return []
            changed = {
                (e.event.type, e.event.state_key): e for e in span.timeline if e.event.is_state
            }
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
        if not whole:
            before = await self._load_state(room, before_nid)
            state = {slot: nid for slot, nid in state.items() if before.get(slot) != nid}
        return await self._room_state.load_events(room, state.values())

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
            elif event.event.is_state and event.event_nid not in numbers:
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
        user_id: UserID,
        room: LiveRoom,
        state: Iterable[TimelineEvent],
        timeline: Sequence[TimelineEvent],
        *,
        up_to: int,
        whole: bool,
    ) -> list[TimelineEvent]:
        """Leave out members that the timeline does not need.

        NOTSPEC: a member known from an earlier sync is sent again when he speaks; the token, which
        is all that is remembered, does not say who has been sent.
        """
        wanted = {event.event.sender for event in timeline}
        if whole:
            wanted |= {user_id, *find_heroes(room, user_id)}
        kept = [event for event in state if event.event.type != MEMBER]
        in_timeline = {event.event.state_key for event in timeline if event.event.type == MEMBER}
        wanted -= in_timeline
        if up_to >= room.last_event or room.membership_of(user_id) == "join":
            return kept + await self._live_rooms.list_member_events(room, wanted)
        # He has left: who changed his name since then is none of his business.
        at = await self.state_number(room, up_to)
        past = [] if at is None else await self._room_state.list_state_at(room, at, only=MEMBER)
        return kept + [event for event in past if event.event.state_key in wanted]


def _is_straight(span: Span, before: int | None, end: int | None) -> bool:
    """Tell whether the room went from one state to the other by the timeline's events alone."""
    if span.is_limited:
        if not span.timeline:
            return True
        before = span.timeline[0].state_before
    for event in span.timeline:
        if event.state_before != before or event.room_state is not None:
            return False
        before = event.state_after
    return before == end


def _allows(chosen: RoomEventFilter, event: TimelineEvent, room_id: RoomID) -> bool:
    content = event.event
    return chosen.allows(
        content.type, content.sender, room_id, contains_url="url" in content.content
    )


def _render(found: Collection[TimelineEvent], wish: Wish, bundles: Bundles = NO_BUNDLES) -> bytes:
    requester = wish.requester
    jsons = [
        event.json_for(requester.user_id, requester.device_id, bundles.get(event.event_nid))
        for event in found
    ]
    if wish.chosen.event_fields is not None:
        jsons = [orjson.dumps(wish.chosen.select_fields(orjson.loads(json))) for json in jsons]
    return b"[" + b",".join(jsons) + b"]"


def _rendered(
    timeline: Sequence[TimelineEvent],
    state: Sequence[TimelineEvent],
    wish: Wish,
    up_to: int,
    *,
    first: TimelineEvent | None = None,
    is_limited: bool,
    bundles: Bundles = NO_BUNDLES,
) -> bytes:
    """`first` is where the timeline begins, before the filter's types."""
    prev_batch = (
        make_token((first.event.depth, first.event_nid - 1))
        if first is not None
        else f"s{up_to}_0_0_0_0_0_0"
    )
    state_key = b'"state_after"' if wish.use_state_after else b'"state"'
    return b"".join(
        [
            b'"timeline":{"events":', _render(timeline, wish, bundles),
            b',"limited":', b"true" if is_limited else b"false",
            b',"prev_batch":', orjson.dumps(prev_batch),
            b"},", state_key, b':{"events":', _render(state, wish), b"}",
        ]
    )  # fmt: skip


def find_heroes(room: LiveRoom, user_id: UserID) -> list[UserID]:
    """The first members other than the user: those who are in, else those invited, else gone."""
    heroes = []
    for member in room.joined:
        if member != user_id:
            heroes.append(member)
            if len(heroes) == _MAX_HEROES:
                return heroes
    for wanted in (("invite",), ("leave", "ban")):
        if wanted[0] == "leave" and heroes:
            break
        for member, standing in room.members.items():
            if standing.membership in wanted and member != user_id:
                heroes.append(member)
                if len(heroes) == _MAX_HEROES:
                    return heroes
    return heroes


def _summary(room: LiveRoom, user_id: UserID) -> JsonObject:
    summary: JsonObject = {
        "m.joined_member_count": len(room.joined),
        "m.invited_member_count": room.invited_count,
    }
    name = room.find_content("m.room.name").get("name")
    alias = room.find_content("m.room.canonical_alias").get("alias")
    if not name and not alias:
        summary["m.heroes"] = list(find_heroes(room, user_id))
    return summary
