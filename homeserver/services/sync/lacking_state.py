"""The state of a room that a client lacks when it gets a part of the timeline.

spec: client-server-api/#syncing, #lazy-loading-room-members, v1.19. Invariant: state before the
timeline, plus the state events in it, is the room's state at the end of the timeline.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import UserID
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.state_store import StateStore
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.services.room_state import READ_AT_ONCE, RoomState, has_many_unread
from homeserver.services.sync.wish import Span, Wish


@dataclass(frozen=True, slots=True)
class Lacking:
    events: Sequence[TimelineEvent]
    unread: Sequence[int] = ()
    """Numbers of more events, see `LackingState.read`."""


class LackingState:
    def __init__(
        self,
        live_rooms: LiveRooms,
        states: StateStore,
        room_state: RoomState,
        dictionary: Dictionary,
    ) -> None:
        self._live_rooms = live_rooms
        self._states = states
        self._room_state = room_state
        self._dictionary = dictionary

    async def find(
        self, wish: Wish, room: LiveRoom, span: Span, *, after: int, up_to: int, whole: bool
    ) -> Lacking:
        """Return the state before the timeline, or after it if wished; members too.

        Without a gap, the state events of the timeline are all that changed; unless the room was
        forked, when a resolution may have changed more, and less.

        whole  all of it, not what has changed after the position `after`
        """
        if whole:
            return await self._whole(wish, room, span, up_to=up_to)
        before_nid = await self._room_state.number_at(room, after)
        end_nid = await self._room_state.number_at(room, up_to)
        if not _is_straight(span, before_nid, end_nid):
            return await self._resolved(wish, room, span, before_nid, end_nid)
        if not span.is_limited and not span.is_cut:
            if not wish.use_state_after:
                return Lacking([])
            changed = {(e.type, e.state_key): e for e in span.timeline if e.state_key is not None}
            return Lacking(list(changed.values()))
        at = _told_at(wish, span, end_nid)
        return await self._load(room, await self._changed(room, before_nid, at))

    async def _whole(self, wish: Wish, room: LiveRoom, span: Span, *, up_to: int) -> Lacking:
        at = _told_at(wish, span, await self._room_state.number_at(room, up_to))
        if at is None:
            return Lacking([])
        is_lazy = wish.chosen.room.state.lazy_load_members
        if room.tail is not None and at == room.tail.state_nid:
            if is_lazy or not has_many_unread(room):
                return Lacking(await self._live_rooms.list_state(room, with_members=not is_lazy))
            return Lacking([], list(room.state.values()))
        if is_lazy:
            return Lacking(await self._room_state.list_state_at(room, at, members=()))
        return Lacking([], list((await self._load_state(room, at)).values()))

    def read(self, room: LiveRoom, lacking: Lacking) -> AsyncIterator[list[TimelineEvent]]:
        """Give the unread events, some at a time."""
        return self._room_state.load_in_parts(room, lacking.unread)

    async def _resolved(
        self, wish: Wish, room: LiveRoom, span: Span, before_nid: int | None, end_nid: int | None
    ) -> Lacking:
        """Return what has changed in a forked room, but for what the timeline says itself.

        After it, what holds the slot of one of its events that has lost is told again.
        """
        numbers = await self._changed(room, before_nid, end_nid)
        if not wish.use_state_after:
            return await self._load(room, numbers - {e.event_nid for e in span.timeline})
        lost = [
            (event.type, event.state_key)
            for event in span.timeline
            if event.state_key is not None and event.event_nid not in numbers
        ]
        await self._dictionary.ensure([], [], lost)
        end = await self._load_state(room, end_nid)
        numbers |= {end.get(self._dictionary.find_slot(*slot) or 0, 0) for slot in lost}
        return await self._load(room, numbers - {0})

    async def _load(self, room: LiveRoom, numbers: Collection[int]) -> Lacking:
        """Read these events, unless there are too many."""
        if len(numbers) > READ_AT_ONCE:
            return Lacking([], list(numbers))
        return Lacking(await self._room_state.load_events(room, numbers))

    async def _load_state(self, room: LiveRoom, state_nid: int | None) -> Mapping[int, int]:
        if state_nid is None:
            return {}
        return await self._states.load_state(room.room_nid, state_nid)

    async def _changed(self, room: LiveRoom, before_nid: int | None, at: int | None) -> set[int]:
        """Return the events of one state that are not in an earlier one."""
        before = await self._load_state(room, before_nid)
        state = await self._load_state(room, at)
        return {nid for slot, nid in state.items() if before.get(slot) != nid}

    async def without_most_members(
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
            members = await self._members_at(
                room, await self._room_state.number_at(room, up_to), wanted
            )
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
        past = await self._room_state.list_state_at(room, state_nid, members=wanted)
        return [event for event in past if event.type == MEMBER]


def _told_at(wish: Wish, span: Span, end: int | None) -> int | None:
    """Return the state that is told: before the timeline, or after it if wished."""
    if span.timeline and not wish.use_state_after:
        return span.timeline[0].state_before
    return end


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
