"""Who sees what of a room's history, and how he stood when it happened.

spec: client-server-api/#room-history-visibility (server behaviour) and `unsigned.membership` of
#room-event-format, v1.19. Most answers follow from event numbers: of events that are in line, the
number says what the room's state was. The others are looked up in the state of the event.
Invariant: what numbers say is what the states would say.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from homeserver.core.history_visibility import (
    HistoryVisibility,
    can_see_event,
    find_changes,
    parse_history_visibility,
)
from homeserver.core.identifiers import UserID
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.members import Member
from homeserver.engine.state_store import StateStore
from homeserver.engine.timeline_event import TimelineEvent, load_timeline_event
from homeserver.storage import events
from homeserver.storage.database import Database

_RULE = ("m.room.history_visibility", "")
_LEAVE = "leave"
_NEVER = 2**62
Changes = Mapping[int, tuple[HistoryVisibility | None, str | None]]
"""By event number."""
NO_CHANGES: Changes = {}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What event numbers say of one user in one room. All of them are included."""

    stay: tuple[int, int]
    """Events in line here have the user joined in their state."""
    sure: tuple[int, int]
    """Events in line here are visible; first is greater than last when none is."""
    end: int
    """Nothing that came after it is visible: the user has left."""

    def surely_shows(self, found: TimelineEvent) -> bool:
        return found.is_in_line and self.sure[0] <= found.event_nid <= self.sure[1]


def bounds_of(user_id: UserID, room: LiveRoom) -> Bounds:
    """Say what is known without a look at states.

    1. What happened during a user's last stay is his to see.
    2. Under a visibility that has not changed since, shared or world-readable history is too.
    3. Who has left sees nothing that came later, unless anybody may read the room.
    """
    member = room.members.get(user_id)
    is_joined = member is not None and member.membership == "join"
    stay = (_NEVER, 0)
    end = -1
    if member is not None and member.joined_nid is not None:  # 1
        if is_joined:
            stay = (member.joined_nid, _NEVER)
        elif member.left_nid is not None:
            stay = (member.joined_nid, member.left_nid - 1)
            end = member.left_nid
    visibility = room.history_visibility
    rule = room.find_state(*_RULE)
    is_open = visibility is HistoryVisibility.WORLD_READABLE
    if is_open or is_joined:  # 3
        end = _NEVER
    if is_open or (is_joined and visibility is HistoryVisibility.SHARED):  # 2
        open_from = max(room.forked_at, rule.event_nid if rule is not None else 0) + 1
        return Bounds(stay, (min(open_from, stay[0]) if is_joined else open_from, _NEVER), end)
    return Bounds(stay, (stay[0], max(stay[1], end if end < _NEVER else 0)), end)


@dataclass(frozen=True, slots=True)
class _Standing:
    """The rule and the user's membership in some state."""

    visibility: HistoryVisibility
    membership: str | None


@dataclass(frozen=True, slots=True)
class _Depths:
    """Where a user's last stay begins and ends among historical events."""

    joined: int
    left: int


class Moment(Protocol):
    """Where an event that is not in line, or not surely seen, stands in the room's history."""

    @property
    def event_nid(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def state_before(self) -> int | None: ...
    @property
    def is_historical(self) -> bool: ...


class Sight:
    def __init__(self, database: Database, states: StateStore, dictionary: Dictionary) -> None:
        self._db = database
        self._states = states
        self._dictionary = dictionary

    async def visible(
        self, user_id: UserID, room: LiveRoom, found: Iterable[TimelineEvent]
    ) -> set[TimelineEvent]:
        """Return those of `found` that the user may see."""
        bounds = bounds_of(user_id, room)
        seen = set()
        unsure = []
        for event in found:
            if bounds.surely_shows(event):
                seen.add(event)
            elif event.state_before is not None and bounds.end >= 0:
                unsure.append(event)
        if not unsure:
            return seen
        changes = {
            event.event_nid: find_changes(event.type, event.state_key, event.event.content, user_id)
            for event in unsure
            if event.state_key is not None
        }
        shown = await self.find_shown(user_id, room, unsure, changes)
        return seen.union(event for event in unsure if event.event_nid in shown)

    async def find_shown(
        self,
        user_id: UserID,
        room: LiveRoom,
        moments: Sequence[Moment],
        changes: Changes = NO_CHANGES,
    ) -> set[int]:
        """Return the numbers of those events that the user may see by the states before them.

        changes  what they themselves set, see `find_changes`
        """
        bounds = bounds_of(user_id, room)
        if not moments or bounds.end < 0:
            return set()
        member = room.members.get(user_id)
        depths = await self._depths(room, member, moments)
        moments = [one for one in moments if not _is_after(one, bounds.end, depths.left)]
        standings = await self._standings(
            user_id, room, [one.state_before for one in moments if one.state_before is not None]
        )
        shown = set()
        for one in moments:
            standing = standings[one.state_before or 0]
            new_visibility, new_membership = changes.get(one.event_nid, (None, None))
            if can_see_event(
                standing.visibility,
                standing.membership,
                has_joined_later=_has_joined_later(one, member, depths.joined),
                new_visibility=new_visibility,
                new_membership=new_membership,
            ):
                shown.add(one.event_nid)
        return shown

    async def memberships(
        self,
        user_id: UserID,
        room: LiveRoom,
        found: Iterable[TimelineEvent],
        *,
        looks_up: bool = True,
    ) -> dict[int, str]:
        """Return, by event number, how the user stood just after each event.

        looks_up  False: only what is known without a look at states
        """
        bounds = bounds_of(user_id, room)
        member = room.members.get(user_id)
        first, last = bounds.stay
        memberships: dict[int, str] = {}
        unsure: list[TimelineEvent] = []
        for event in found:
            if event.type == MEMBER and event.state_key == user_id:
                memberships[event.event_nid] = event.event.membership or _LEAVE
            elif not event.is_in_line:
                unsure.append(event)
            elif first <= event.event_nid <= last:
                memberships[event.event_nid] = "join"
            elif member is None:
                memberships[event.event_nid] = _LEAVE
            elif event.event_nid >= member.event_nid:
                memberships[event.event_nid] = member.membership
            else:
                unsure.append(event)
        if unsure and looks_up:
            states = {e.event_nid: e.state_after for e in unsure if e.state_after is not None}
            standings = await self._standings(user_id, room, list(states.values()))
            memberships |= {
                nid: standings[state].membership or _LEAVE for nid, state in states.items()
            }
        return memberships

    async def _standings(
        self, user_id: UserID, room: LiveRoom, state_nids: Sequence[int]
    ) -> dict[int, _Standing]:
        """Look the user up in states; in the room's present one without a query."""
        slots = [_RULE, (MEMBER, user_id)]
        await self._dictionary.ensure([], [], slots)
        slot_nids = [nid for slot in slots if (nid := self._dictionary.find_slot(*slot))]
        wanted = set(state_nids)
        held: dict[int, tuple[int, ...]] = {}
        if room.tail is not None and room.tail.state_nid in wanted:
            wanted.discard(room.tail.state_nid)
            held[room.tail.state_nid] = tuple(room.state.get(slot, 0) for slot in slot_nids)
        held |= await self._states.find_slots(room.room_nid, wanted, slot_nids)
        visibilities, memberships = await self._said(
            user_id, room, {nid for pair in held.values() for nid in pair}
        )
        return {
            state_nid: _Standing(
                visibilities.get(rule, HistoryVisibility.SHARED), memberships.get(own)
            )
            for state_nid, (rule, own) in held.items()
        }

    async def _said(
        self, user_id: UserID, room: LiveRoom, event_nids: set[int]
    ) -> tuple[Mapping[int, HistoryVisibility], Mapping[int, str]]:
        """Return what state events say, by number: rules, and memberships of the user."""
        visibilities = {}
        memberships = {}
        rule = room.find_state(*_RULE)
        if rule is not None:
            visibilities[rule.event_nid] = room.history_visibility
        member = room.members.get(user_id)
        if member is not None:
            memberships[member.member_event] = member.membership
        unknown = event_nids - visibilities.keys() - memberships.keys() - {0}
        if unknown:
            for row in await self._db.read(events.list_events, room.room_nid, list(unknown)):
                event = load_timeline_event(room.version, row).event
                if event.type == MEMBER:
                    memberships[row.event_nid] = event.membership or _LEAVE
                else:
                    visibilities[row.event_nid] = parse_history_visibility(
                        event.content.get("history_visibility")
                    )
        return visibilities, memberships

    async def _depths(
        self, room: LiveRoom, member: Member | None, moments: Iterable[Moment]
    ) -> _Depths:
        """Numbers do not order historical events; depths do, as far as anything does."""
        if member is None or not any(one.is_historical for one in moments):
            return _Depths(-1, -1)
        wanted = [nid for nid in (member.joined_nid, member.left_nid) if nid is not None]
        stored = await self._db.read(events.list_events, room.room_nid, wanted)
        depths = {row.event_nid: row.depth for row in stored}
        return _Depths(depths.get(member.joined_nid or 0, -1), depths.get(member.left_nid or 0, -1))


def _is_after(found: Moment, end: int, left_depth: int) -> bool:
    """Tell whether an event came after the user's leaving."""
    if end == _NEVER:
        return False
    return found.depth > left_depth if found.is_historical else found.event_nid > end


def _has_joined_later(found: Moment, member: Member | None, joined_depth: int) -> bool:
    """Only the last stay matters: it is the one that begins last."""
    if member is None or member.joined_nid is None:
        return False
    if member.membership == "join":
        return True
    if found.is_historical:
        return found.depth < joined_depth
    return found.event_nid < member.joined_nid
