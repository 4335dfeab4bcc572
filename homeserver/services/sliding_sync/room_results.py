"""What an answer tells of one room: what is new since the connection was last told of it.

spec: MSC4186 beside v1.19, "Room results", "Changing room configs".
Invariant: of a room the user is not in (any longer), nothing that happened after he left.
NOTSPEC: `invite_state` and `unstable_expanded_timeline` are told beside `stripped_state` and
`expanded_timeline`: clients of the unstable version look for them.
"""

from array import array
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import orjson

from homeserver.core.identifiers import EventID, UserID
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.requester import Requester
from homeserver.services.aggregations import Aggregations
from homeserver.services.room_state import READ_AT_ONCE, RoomState
from homeserver.services.sliding_sync.connections import Told
from homeserver.services.sliding_sync.room_list import Match
from homeserver.services.sliding_sync.summary import summarize
from homeserver.services.sliding_sync.wishes import RoomConfig
from homeserver.services.sync.rooms import RoomParts
from homeserver.services.sync.wish import Span
from homeserver.services.timeline import make_token, place_before
from homeserver.storage import sliding_sync
from homeserver.storage.database import Database

_ALL = 2**31
_MAX_MEMBERS_TOLD = 1_000

Fields = dict[str, object]
"""Rendered by orjson; may have fragments."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What is the same for every room of an answer."""

    requester: Requester
    since: int | None
    """Position of the answer before, in the events stream; None: there was none."""
    now: int


@dataclass(frozen=True, slots=True)
class RoomResult:
    fields: Fields
    """Empty: nothing to tell."""
    told: Told
    events: Sequence[EventID] = ()
    """Those of the timeline."""


@dataclass(frozen=True, slots=True)
class _State:
    """What is told of a room's state, and what must be remembered of it."""

    events: Sequence[TimelineEvent]
    removed: Sequence[tuple[str, str]]
    state_nid: int | None
    told: bytes
    members: frozenset[UserID]
    unread: Sequence[UserID] = ()
    """More members, too many to be read at once."""


class RoomResults:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        room_parts: RoomParts,
        room_state: RoomState,
        aggregations: Aggregations,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._room_parts = room_parts
        self._room_state = room_state
        self._aggregations = aggregations

    async def make(
        self, moment: Moment, match: Match, told: Told | None, *, is_dm: bool
    ) -> RoomResult | None:
        """Return what is new of a room; None when there is no news to look for."""
        mine = match.listed.mine
        if told is not None and match.listed.position <= told.up_to:
            is_expanded = (
                match.config.timeline_limit > told.seen
                or not match.config.state <= told.config.state
            )
            if is_dm == told.is_dm and not (is_expanded and mine.membership == "join"):
                return None
        if mine.membership in ("invite", "knock"):
            return await self._invited(moment, match, told, is_dm=is_dm)
        room = await self._live_rooms.find(mine.room_id)
        if room is None:
            return None
        if mine.membership == "join":
            if told is not None and mine.new_at > told.up_to:
                told = None
            return await self._joined(moment, match, room, told, is_dm=is_dm)
        return await self._left(moment, match, room, told, is_dm=is_dm)

    async def _invited(
        self, moment: Moment, match: Match, told: Told | None, *, is_dm: bool
    ) -> RoomResult:
        mine = match.listed.mine
        fields = _marks(match, told, is_dm=is_dm)
        if told is None or mine.event_nid > told.up_to:
            stripped = await self._room_parts.stripped_state(moment.requester.user_id, mine)
            fields |= {
                "initial": True,
                "membership": mine.membership,
                "bump_stamp": mine.event_nid,
                "invite_state": orjson.Fragment(stripped),
                "stripped_state": orjson.Fragment(stripped),
            }
        return RoomResult(fields, _told_of_membership(moment, match, is_dm=is_dm))

    async def _joined(
        self, moment: Moment, match: Match, room: LiveRoom, told: Told | None, *, is_dm: bool
    ) -> RoomResult:
        user_id = moment.requester.user_id
        config = match.config
        is_expanding = told is not None and config.timeline_limit > told.seen
        after = 0 if told is None or is_expanding else told.up_to
        span = await self._room_parts.span(user_id, room, after, moment.now, config.timeline_limit)
        summary = None if told is None else told.summary
        if _may_see_now(room, user_id, moment.now):
            state = await self._state_now(room, config, told, span)
        else:
            state = await self._state_then(room, config, told, span, moment.now)
        if (told is None or state.state_nid != told.state_nid or _has_redaction(span)) and (
            _may_see_now(room, user_id, moment.now)
        ):
            summary = await summarize(self._live_rooms, room, user_id)
        bump_stamp = await self._bump_stamp(room, told, moment.now)
        fields = _marks(match, told, is_dm=is_dm)
        if told is None or (match.listed.mine.event_nid > told.up_to):
            fields["membership"] = "join"
        if summary is not None:
            fields |= summary.changes(None if told is None else told.summary)
        if told is None or bump_stamp != told.bump_stamp:
            fields["bump_stamp"] = bump_stamp
        before = 0 if told is None else told.up_to
        if is_expanding and any(event.event_nid <= before for event in span.timeline):
            fields["expanded_timeline"] = fields["unstable_expanded_timeline"] = True
        fields |= await self._events(moment, room, told, span, state, whole=after == 0)
        if not span.is_limited and after == 0:
            seen = _ALL
        elif after == 0:
            seen = config.timeline_limit
        else:
            seen = len(span.timeline) + (0 if span.is_limited or told is None else told.seen)
        return RoomResult(
            fields,
            Told(
                moment.now,
                config,
                seen,
                is_dm,
                bump_stamp,
                state.state_nid,
                state.told,
                state.members,
                summary,
            ),
            [event.event.event_id for event in span.timeline],
        )

    async def _left(
        self, moment: Moment, match: Match, room: LiveRoom, told: Told | None, *, is_dm: bool
    ) -> RoomResult:
        """Tell of a room the user has left, up to there; to who never was in, only his leave."""
        mine = match.listed.mine
        user_id = moment.requester.user_id
        fields = _marks(match, told, is_dm=is_dm)
        result = RoomResult(fields, _told_of_membership(moment, match, is_dm=is_dm))
        if told is not None and mine.event_nid <= told.up_to:
            return result
        own = await self._room_state.load_events(room, [mine.event_nid])
        fields |= {"membership": mine.membership, "bump_stamp": mine.event_nid}
        since = 0 if told is None else told.up_to
        if mine.left_nid is None or mine.left_nid <= since:
            state = _State(own, (), None, b"", frozenset())
            fields |= await self._events(
                moment, room, told, Span(own, is_limited=False), state, whole=False
            )
            return RoomResult(fields, result.told)
        is_new = told is None or mine.new_at > since
        span = await self._room_parts.span(
            user_id, room, 0 if is_new else since, mine.left_nid, match.config.timeline_limit
        )
        state = await self._state_then(
            room, match.config, None if is_new else told, span, mine.left_nid
        )
        others = [e for e in state.events if (e.event.type, e.event.state_key) != (MEMBER, user_id)]
        state = _State([*others, *own], (), None, b"", frozenset())
        fields |= await self._events(
            moment, room, None if is_new else told, span, state, whole=is_new
        )
        return RoomResult(fields, result.told, [event.event.event_id for event in span.timeline])

    async def _events(
        self,
        moment: Moment,
        room: LiveRoom,
        told: Told | None,
        span: Span,
        state: _State,
        *,
        whole: bool,
    ) -> Fields:
        requester = moment.requester
        fields: Fields = {}
        if told is None:
            fields["initial"] = True
        if span.timeline or span.is_limited or told is None:
            jsons = await self._aggregations.render(
                requester,
                room.room_id,
                span.timeline,
                with_room=False,
                is_live=not span.is_limited and not whole,
            )
            fields["timeline"] = _array(jsons)
            fields["limited"] = span.is_limited
            fields["num_live"] = sum(
                moment.since is not None and event.event_nid > moment.since
                for event in span.timeline
            )
            first = span.timeline[0] if span.timeline else None
            fields["prev_batch"] = (
                make_token(place_before(first))
                if first is not None
                else f"s{moment.now}_0_0_0_0_0_0"
            )
        if state.events or state.removed or state.unread or told is None:
            jsons = await self._aggregations.render_state(
                requester, room.room_id, state.events, with_room=False
            )
            for start in range(0, len(state.unread), READ_AT_ONCE):
                some = await self._live_rooms.list_member_events(
                    room, state.unread[start : start + READ_AT_ONCE]
                )
                jsons += await self._aggregations.render_state(
                    requester, room.room_id, some, with_room=False
                )
            stubs = [
                orjson.dumps({"type": event_type, "state_key": state_key})
                for event_type, state_key in state.removed
            ]
            fields["required_state"] = _array([*jsons, *stubs])
        return fields

    async def _state_now(
        self,
        room: LiveRoom,
        config: RoomConfig,
        told: Told | None,
        span: Span,
    ) -> _State:
        """Return what is new of the current state: by name, and members of the timeline."""
        state_nid = room.tail.state_nid if room.tail is not None else None
        told_members = frozenset() if told is None or span.is_limited else told.members
        members = [] if not config.wants_lazy_members else _speaking(room, span, told, told_members)
        new: list[TimelineEvent] = []
        packed = b"" if told is None else told.state
        gone: set[int] = set()
        if told is None or told.state_nid != state_nid or told.config.state != config.state:
            seen = set(array("q", packed))
            current = {event.event_nid: event for event in _wanted(room, config)}
            named = {
                nid: member
                for member in config.named_members(room.members)
                if (nid := room.members[member].member_event)
            }
            packed = array("q", sorted(current.keys() | named.keys())).tobytes()
            gone = seen - current.keys() - named.keys()
            new = [event for nid, event in current.items() if nid not in seen]
            members += [member for nid, member in named.items() if nid not in seen]
        unread: Sequence[UserID] = ()
        if members:
            asked = list(dict.fromkeys(members))
            if len(asked) > READ_AT_ONCE:
                unread = asked
            else:
                new += await self._live_rooms.list_member_events(room, asked)
            told_members |= frozenset(asked)
            if len(told_members) > _MAX_MEMBERS_TOLD:
                told_members = frozenset()
        if config.wants_lazy_members:
            new += await self._room_state.list_cited_members(
                room, [each for each in span.timeline if each.event.sender not in told_members]
            )
        removed = await self._removed(room, config, gone) if gone else []
        return _State(new, removed, state_nid, packed, told_members, unread)

    async def _removed(
        self, room: LiveRoom, config: RoomConfig, gone: Collection[int]
    ) -> list[tuple[str, str]]:
        """Return the slots among those of these events that are empty now."""
        slots = []
        for event in await self._room_state.load_events(room, gone):
            slot = (event.event.type, event.event.state_key or "")
            if slot[0] == MEMBER:
                member = room.members.get(UserID(slot[1]))
                is_set = member is not None and member.member_event != 0
            else:
                is_set = slot in room.state_events
            if not is_set and config.wants(*slot):
                slots.append(slot)
        return slots

    async def _state_then(
        self,
        room: LiveRoom,
        config: RoomConfig,
        told: Told | None,
        span: Span,
        up_to: int,
    ) -> _State:
        """Return the state at a past position, or without a gap what the timeline has of it."""
        speaking = {event.event.sender for event in span.timeline}
        if told is not None and not span.is_limited:
            found: Iterable[TimelineEvent] = [e for e in span.timeline if e.event.is_state]
        else:
            state_nid = await self._room_state.number_at(room, up_to)
            members = None if config.wants_all_members else speaking | config.named_keys
            found = await self._room_state.list_state_at(room, state_nid, members=members)
        return _State(
            [
                event
                for event in found
                if config.wants(event.event.type, event.event.state_key or "")
                or (
                    event.event.type == MEMBER
                    and config.wants_lazy_members
                    and event.event.state_key in speaking
                )
            ],
            (),
            None,
            b"",
            frozenset(),
        )

    async def _bump_stamp(self, room: LiveRoom, told: Told | None, now: int) -> int:
        """Return the newest activity, from memory if it is there."""
        for event in reversed(room.recent):
            if event.event_nid <= now and event.event.type in sliding_sync.BUMPS:
                return event.event_nid
        if told is not None and told.up_to >= room.recent_from:
            return told.bump_stamp
        found = await self._db.read(sliding_sync.find_last_bump, room.room_nid, now)
        return found or 0


def _may_see_now(room: LiveRoom, user_id: UserID, now: int) -> bool:
    """Tell whether the room as it is now is as it was at the moment, or his to see."""
    return room.last_event <= now or room.membership_of(user_id) == "join"


def _has_redaction(span: Span) -> bool:
    return any(event.event.type == "m.room.redaction" for event in span.timeline)


def _speaking(
    room: LiveRoom, span: Span, told: Told | None, known: Collection[UserID]
) -> list[UserID]:
    """Return the members in the timeline that have not been told, as they are now."""
    speaking = {event.event.sender for event in span.timeline} | {
        UserID(event.event.state_key or "") for event in span.timeline if event.event.type == MEMBER
    }
    return [
        member
        for member in speaking & room.members.keys()
        if member not in known or told is None or room.members[member].event_nid > told.up_to
    ]


def _wanted(room: LiveRoom, config: RoomConfig) -> list[TimelineEvent]:
    """Return the current state that is wished for, but for members."""
    named = config.named_slots
    slots = room.state_events.keys() if named is None else named & room.state_events.keys()
    return [room.state_events[slot] for slot in slots if config.wants(*slot)]


def _marks(match: Match, told: Told | None, *, is_dm: bool) -> Fields:
    fields: Fields = {"lists": list(match.lists)} if match.lists else {}
    if is_dm if told is None else is_dm != told.is_dm:
        fields["is_dm"] = is_dm
    return fields


def _told_of_membership(moment: Moment, match: Match, *, is_dm: bool) -> Told:
    """A room the user is not in: coming in, he will be told of it afresh."""
    return Told(moment.now, match.config, _ALL, is_dm, match.listed.mine.event_nid)


def _array(jsons: Iterable[bytes]) -> orjson.Fragment:
    return orjson.Fragment(b"[" + b",".join(jsons) + b"]")
