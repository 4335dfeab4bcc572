"""Reading the state of a room: all of it, one event, members.

spec: client-server-api/#getting-events-for-a-room, v1.19. A user who has left sees the state as it
was when he left.
"""

from collections.abc import AsyncIterator, Collection, Sequence

from homeserver.core.identifiers import RoomID, UserID
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.state_store import StateStore
from homeserver.engine.timeline_event import TimelineEvent, load_timeline_event
from homeserver.errors import Forbidden, NotFound
from homeserver.services.room_access import ReadableRoom, RoomAccess
from homeserver.services.timeline import Timeline
from homeserver.storage import events
from homeserver.storage.database import Database
from homeserver.storage.memberships import Profile

READ_AT_ONCE = 500
"""Events of a state: all those of a large room would take hundreds of megabytes."""


def has_many_unread(room: LiveRoom) -> bool:
    """Tell whether most of the room's state is not in memory, and too much to be there at once."""
    return len(room.members) - len(room.member_events) > READ_AT_ONCE


class RoomState:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        states: StateStore,
        access: RoomAccess,
        timeline: Timeline,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._states = states
        self._access = access
        self._timeline = timeline

    async def list_state(
        self, user_id: UserID, room_id: RoomID
    ) -> AsyncIterator[list[TimelineEvent]]:
        """Give the state, some events at a time.

        Raises Forbidden, ServiceUnavailable while members are not known.
        """
        readable = await self._access.access_whole_readable(user_id, room_id)
        room = readable.room
        if readable.up_to is not None:
            numbers = await self._list_numbers(room, await self._state_number_at_leave(readable))
        elif has_many_unread(room):
            numbers = list(room.state.values())
        else:
            yield await self._live_rooms.list_state(room, with_members=True)
            return
        async for some in self.load_in_parts(room, numbers):
            yield some

    async def get_state(
        self, user_id: UserID, room_id: RoomID, event_type: str, state_key: str
    ) -> TimelineEvent:
        """Raises Forbidden, or NotFound when there is no such state."""
        if event_type == MEMBER:
            about = UserID(state_key)
            readable = await self._access.access_whole_readable(user_id, room_id, about)
        else:
            readable = await self._access.access_readable(user_id, room_id)
        room = readable.room
        if readable.up_to is not None:
            state_nid = await self._state_number_at_leave(readable)
            for old in await self.list_state_at(room, state_nid, members={UserID(state_key)}):
                if (old.type, old.state_key) == (event_type, state_key):
                    return old
            raise NotFound("No such state event")
        if event_type == MEMBER:
            members = await self._live_rooms.list_member_events(room, [UserID(state_key)])
            found = members[0] if members else None
        else:
            found = room.find_state(event_type, state_key)
        if found is None:
            raise NotFound("No such state event")
        return found

    async def list_members(
        self,
        user_id: UserID,
        room_id: RoomID,
        *,
        at: str | None,
        membership: str | None,
        not_membership: str | None,
    ) -> AsyncIterator[list[TimelineEvent]]:
        """Give member events, at a sync or timeline token if one is given. Raises Forbidden.

        Some at a time: those of a large room take hundreds of megabytes.
        """

        def wanted(event: TimelineEvent) -> bool:
            found = event.membership
            return membership in (None, found) and (
                not_membership is None or found != not_membership
            )

        readable = await self._access.access_whole_readable(user_id, room_id)
        room = readable.room
        if at is not None:
            state_nid = await self._timeline.state_at(user_id, readable, at)
            numbers = await self._list_numbers(room, state_nid)
        elif readable.up_to is not None:
            numbers = await self._list_numbers(room, await self._state_number_at_leave(readable))
        elif has_many_unread(room):
            numbers = [member.member_event for member in room.members.values()]
        else:
            members = await self._live_rooms.list_member_events(room, list(room.members))
            yield list(filter(wanted, members))
            return
        async for part in self.load_in_parts(room, numbers):
            yield [event for event in part if event.type == MEMBER and wanted(event)]

    async def list_members_of(
        self, user_id: UserID, room_id: RoomID, wanted: Collection[UserID]
    ) -> list[TimelineEvent]:
        """Return the member events of these users, for lazy loading. Raises Forbidden.

        They are the present ones, or for who has left those of then.
        """
        readable = await self._access.access_readable(user_id, room_id)
        if readable.up_to is None:
            return await self._live_rooms.list_member_events(readable.room, wanted)
        state_nid = await self._state_number_at_leave(readable)
        state = await self.list_state_at(readable.room, state_nid, members=wanted)
        return [event for event in state if event.type == MEMBER]

    async def list_cited_members(
        self, room: LiveRoom, timeline: Collection[TimelineEvent]
    ) -> list[TimelineEvent]:
        """Return member events of those who speak although the room's state lacks them.

        What they say cites how they were joined. Empty when all members are known.
        """
        if not room.is_partial:
            return []
        lacking = {
            found.event.sender: found.event_nid
            for found in timeline
            if (member := room.members.get(found.event.sender)) is None or not member.member_event
        }
        if not lacking:
            return []
        cited = await self._db.read(events.list_auth_events, room.room_nid, [*lacking.values()])
        members = await self.load_events(room, cited, only=MEMBER)
        return [each for each in members if each.event.state_key in lacking]

    async def list_joined(self, user_id: UserID, room_id: RoomID) -> dict[UserID, Profile]:
        """Raises Forbidden unless the user is joined."""
        room = await self._access.access_whole(user_id, room_id)
        return await self._live_rooms.list_profiles(room, list(room.joined))

    async def list_state_at(
        self, room: LiveRoom, state_nid: int | None, *, members: Collection[UserID] | None
    ) -> list[TimelineEvent]:
        """Return a historic state; of members only those of these users, unless None."""
        return [
            event async for some in self.read_state_at(room, state_nid, members) for event in some
        ]

    async def read_state_at(
        self, room: LiveRoom, state_nid: int | None, members: Collection[UserID] | None
    ) -> AsyncIterator[list[TimelineEvent]]:
        """As `list_state_at`, some events at a time.

        What it has in common with the current state is known, if most members are left out.
        """
        if state_nid is None:
            return
        state = await self._states.load_state(room.room_nid, state_nid)
        if members is None:
            async for some in self.load_in_parts(room, list(state.values())):
                yield some
            return
        newer = {nid for slot, nid in room.state.items() if state.get(slot) != nid}
        older = [nid for slot, nid in state.items() if room.state.get(slot) != nid]
        found = [each for each in room.state_events.values() if each.event_nid not in newer]
        same = [
            user_id
            for user_id in members
            if (member := room.members.get(user_id)) and member.member_event not in newer
        ]
        yield found + await self._live_rooms.list_member_events(room, same)
        async for some in self.load_in_parts(room, older):
            yield [event for event in some if event.type != MEMBER or event.state_key in members]

    async def _list_numbers(self, room: LiveRoom, state_nid: int | None) -> list[int]:
        if state_nid is None:
            return []
        return list((await self._states.load_state(room.room_nid, state_nid)).values())

    async def number_at(self, room: LiveRoom, position: int) -> int | None:
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

    async def load_in_parts(
        self, room: LiveRoom, event_nids: Sequence[int]
    ) -> AsyncIterator[list[TimelineEvent]]:
        for start in range(0, len(event_nids), READ_AT_ONCE):
            yield await self.load_events(room, event_nids[start : start + READ_AT_ONCE])

    async def load_events(
        self, room: LiveRoom, event_nids: Collection[int], *, only: str | None = None
    ) -> list[TimelineEvent]:
        stored = await self._db.read(events.list_events, room.room_nid, list(event_nids))
        loaded = [load_timeline_event(room.version, row) for row in stored]
        return [event for event in loaded if only is None or event.type == only]

    async def _state_number_at_leave(self, readable: ReadableRoom) -> int | None:
        if readable.up_to is None:
            raise Forbidden("You are not in this room")
        room = readable.room
        stored = await self._db.read(events.list_events, room.room_nid, [readable.up_to])
        return stored[0].state_after if stored else None
