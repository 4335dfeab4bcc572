"""Reading a room's timeline: pages of messages, single events, and who may see what of it.

spec: client-server-api/#getting-events-for-a-room, #room-history-visibility, v1.19. Tokens name a
gap between two events of the topological order: `t{depth}_{event number}`, after that event.
Invariant: every event that leaves here has passed `visible`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from homeserver.core.events import Event
from homeserver.core.filters import RoomEventFilter
from homeserver.core.history_visibility import (
    HistoryVisibility,
    can_see_event,
    find_changes,
    parse_history_visibility,
)
from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.live_rooms import MEMBER, LiveRoom, LiveRooms
from homeserver.engine.state_store import StateStore
from homeserver.engine.timeline_event import TimelineEvent, load_timeline_event
from homeserver.errors import InvalidParam, NotFound
from homeserver.services.room_access import ReadableRoom, RoomAccess
from homeserver.storage import events
from homeserver.storage.database import Database

Place = tuple[int, int]
"""(depth, event number)"""
START: Place = (-1, -1)
END: Place = (2**62, 2**62)
_TOKEN = re.compile(r"^t(-?\d{1,19})_(-?\d{1,19})$")
_MAX_PAGE = 1000
_MAX_SCANNED = 5_000
_NEVER = 2**62


@dataclass(frozen=True, slots=True)
class Page:
    """Events in the order asked for."""

    events: Sequence[TimelineEvent]
    start: str
    end: str | None
    """None: nothing more in this direction."""


def make_token(place: Place) -> str:
    return f"t{place[0]}_{place[1]}"


class Timeline:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        states: StateStore,
        dictionary: Dictionary,
        access: RoomAccess,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._states = states
        self._dictionary = dictionary
        self._access = access

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
        """Return up to `limit` events the user may see. Raises Forbidden, InvalidParam."""
        readable = await self._access.access_readable(user_id, room_id)
        room = readable.room
        place = await self.place_at(room, start, END if backwards else START)
        stop = await self.place_at(room, until, START if backwards else END)
        if readable.up_to is not None and backwards:
            place = min(place, await self._place_of(room, readable.up_to))
        limit = max(1, min(limit, _MAX_PAGE))
        first = place
        found: list[TimelineEvent] = []
        scanned = 0
        more = True
        while len(found) < limit and more and scanned < _MAX_SCANNED:
            chunk = await self._chunk(room, place, stop, limit, backwards=backwards)
            more = len(chunk) == limit
            seen = await self.visible(user_id, room, chunk)
            for event in chunk:
                scanned += 1
                place = place_before(event) if backwards else event.position
                if event in seen and _chosen(event.event, room_id, chosen):
                    found.append(event)
                    if len(found) == limit:
                        more = more or event is not chunk[-1]
                        break
        if place == first and not more:
            return Page(found, make_token(first), None)
        return Page(found, make_token(first), make_token(place) if more else None)

    async def _chunk(
        self, room: LiveRoom, place: Place, stop: Place, limit: int, *, backwards: bool
    ) -> list[TimelineEvent]:
        if backwards:
            upper = (place[0], place[1] + 1)
            if room.recent and place >= room.recent[-1].position and stop == START:
                newest = list(room.recent_after(room.recent_from))[:limit]
                if len(newest) == limit:
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

    async def state_at(self, readable: ReadableRoom, token: str) -> int | None:
        """Return the number of the state at a token, or at the user's leaving if that was before.

        None before the room began.
        """
        room = readable.room
        place = await self.place_at(room, token, END)
        if readable.up_to is not None:
            place = min(place, await self._place_of(room, readable.up_to))
        rows = await self._db.read(
            events.list_timeline_backwards, room.room_nid, (place[0], place[1] + 1), START, 1
        )
        return rows[0].state_after if rows else None

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
        """Return those of `found` that the user may see.

        What is not surely visible is decided by the state before the event.
        """
        sure_from, sure_to = surely_visible(user_id, room)
        return {
            event
            for event in found
            if sure_from <= event.event_nid <= sure_to
            or await self._was_visible(user_id, room, event)
        }

    async def _was_visible(self, user_id: UserID, room: LiveRoom, found: TimelineEvent) -> bool:
        if found.state_before is None:
            return False
        slots = [("m.room.history_visibility", ""), (MEMBER, user_id)]
        await self._dictionary.ensure([], [], slots)
        state = await self._states.load_state(room.room_nid, found.state_before)
        nids = []
        for slot in slots:
            slot_nid = self._dictionary.find_slot(*slot)
            nids.append(state.get(slot_nid, 0) if slot_nid is not None else 0)
        stored = {
            row.event_nid: load_timeline_event(room.version, row).event
            for row in await self._db.read(
                events.list_events, room.room_nid, [nid for nid in nids if nid]
            )
        }
        rule, membership = (stored.get(nid) for nid in nids)
        new_visibility, new_membership = find_changes(
            found.event.type, found.event.state_key, found.event.content, user_id
        )
        return can_see_event(
            parse_history_visibility(rule.content.get("history_visibility") if rule else None),
            membership.membership if membership is not None else None,
            has_joined_later=await self._has_joined_after(user_id, room, found.event_nid),
            new_visibility=new_visibility,
            new_membership=new_membership,
        )

    async def _has_joined_after(self, user_id: UserID, room: LiveRoom, event_nid: int) -> bool:
        member = room.members.get(user_id)
        if member is None:
            return False
        if member.membership == "join" and member.event_nid > event_nid:
            return True
        return await self._db.read(
            events.has_joined_after, room.room_nid, event_nid, member.event_nid
        )


def surely_visible(user_id: UserID, room: LiveRoom) -> tuple[int, int]:
    """Return the first and last number of the events that are visible without a look at states.

    1. What happened during a user's last stay is his to see.
    2. Under a visibility that has not changed since, shared or world-readable history is too.
    First is greater than last when nothing is sure.
    """
    member = room.members.get(user_id)
    is_joined = member is not None and member.membership == "join"
    visibility = room.history_visibility
    rule = room.find_state("m.room.history_visibility")
    if visibility is HistoryVisibility.WORLD_READABLE or (
        visibility is HistoryVisibility.SHARED and is_joined
    ):  # 2
        open_from = rule.event_nid + 1 if rule is not None else 0
    else:
        open_from = _NEVER
    joined_from = member.joined_nid if member is not None else None
    if is_joined and joined_from is not None:  # 1
        return min(joined_from, open_from), _NEVER
    if open_from < _NEVER:
        return open_from, _NEVER
    if member is None or joined_from is None or member.left_nid is None:
        return _NEVER, 0
    return joined_from, member.left_nid


def place_before(found: TimelineEvent) -> Place:
    """The gap just before an event."""
    return (found.event.depth, found.event_nid - 1)


def _chosen(event: Event, room_id: RoomID, chosen: RoomEventFilter) -> bool:
    return chosen.allows(event.type, event.sender, room_id, contains_url="url" in event.content)
