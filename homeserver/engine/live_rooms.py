"""Rooms in use, in memory: what the usual send and the usual sync need, without a database read.

A live room is owned by the commit loop, the room's single writer. Least recently used rooms leave
when the byte budget is spent; loading one takes a few indexed queries.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace

from twisted.internet.defer import Deferred

from homeserver.core.events import restore_event
from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.members import Member
from homeserver.engine.state_store import StateStore
from homeserver.engine.timeline_event import TimelineEvent, load_timeline_event
from homeserver.engine.tips import make_tip
from homeserver.metrics import LIVE_ROOM_LOADS, LIVE_ROOMS
from homeserver.storage import events, memberships, rooms
from homeserver.storage.database import Database
from homeserver.storage.events import decode_event_id
from homeserver.storage.memberships import Profile
from homeserver.storage.partial_state import Partial

_MAX_REMEMBERED_AT_ONCE = 500
"""A longer list of members would push out those who speak."""
_PROFILES_A_READ = 5_000
_MAX_UNKNOWN = 10_000


class LiveRooms:
    def __init__(
        self, database: Database, dictionary: Dictionary, states: StateStore, *, budget_bytes: int
    ) -> None:
        self._db = database
        self._dictionary = dictionary
        self._states = states
        self._budget = budget_bytes
        self._rooms: OrderedDict[RoomID, LiveRoom] = OrderedDict()
        self._entering: dict[RoomID, LiveRoom] = {}
        self._loading: dict[RoomID, list[Deferred[None]]] = {}
        self._unknown: set[RoomID] = set()
        """Rooms that the database was asked for in vain; all rooms come into being here."""
        self._drops = 0
        """Grows with each, as what is dropped may have come since a look-up of it began."""
        self._pinned: frozenset[RoomID] = frozenset()
        self._size = 0
        self._sizes: dict[RoomID, int] = {}
        self.push_rule_changes = 0
        """Grows with each, so that a read of push rules can tell whether one overtook it."""

    def __iter__(self) -> Iterator[LiveRoom]:
        """Least recently used first."""
        return iter(self._rooms.values())

    @property
    def size(self) -> int:
        """Bytes of memory, roughly."""
        return self._size

    def forget_push_rules(self, user_id: UserID) -> None:
        """They have changed: look them up before the next event of each of his rooms."""
        self.push_rule_changes += 1
        for room in self._rooms.values():
            if room.audience is not None:
                room.audience.forget_rules(user_id)

    def find_loaded(self, room_id: RoomID) -> LiveRoom | None:
        """Return the room if it is in memory, be it one that the server is only entering."""
        return self._rooms.get(room_id) or self._entering.get(room_id)

    def enter(self, room: LiveRoom) -> None:
        """Have in memory a room of other servers that has no state here yet.

        Nobody but the commit loop finds it before a commit has given it one.
        """
        self._entering[room.room_id] = room
        self._unknown.discard(room.room_id)

    def end_entering(self, room: LiveRoom) -> None:
        """Keep the room if it has got a state, else forget it."""
        if self._entering.pop(room.room_id, None) is room and room.tail is not None:
            self.add(room)

    async def find(self, room_id: RoomID) -> LiveRoom | None:
        """Return the room, loaded if need be; None when this server does not know it."""
        while True:
            entering = self._entering.get(room_id)
            if entering is not None and entering.tail is not None:
                self.end_entering(entering)
            room = self._rooms.get(room_id)
            if room is not None:
                self._rooms.move_to_end(room_id)
                return room
            if room_id in self._unknown:
                return None
            waiting = self._loading.get(room_id)
            if waiting is None:
                break
            loaded: Deferred[None] = Deferred()
            waiting.append(loaded)
            await loaded
        self._loading[room_id] = []
        drops = self._drops
        try:
            room = await self._load(room_id)
            if room is not None:
                self.add(room)
            elif (
                drops == self._drops
                and room_id not in self._rooms
                and room_id not in self._entering
            ):
                self._note_unknown(room_id)
            return room
        finally:
            for loaded in self._loading.pop(room_id):
                loaded.callback(None)

    def _note_unknown(self, room_id: RoomID) -> None:
        if len(self._unknown) >= _MAX_UNKNOWN:
            self._unknown.clear()
        self._unknown.add(room_id)

    def add(self, room: LiveRoom) -> None:
        self._unknown.discard(room.room_id)
        self._rooms[room.room_id] = room
        self.weigh(room)

    def drop(self, room_id: RoomID) -> None:
        """Forget what is in memory: after a failed commit the database alone knows."""
        self._drops += 1
        self._unknown.discard(room_id)
        self._entering.pop(room_id, None)
        if self._rooms.pop(room_id, None) is not None:
            self._size -= self._sizes.pop(room_id)
            LIVE_ROOMS.set(len(self._rooms))

    def pin(self, room_ids: Iterable[RoomID]) -> None:
        """Name the rooms of the commit under way, which must not leave memory."""
        self._pinned = frozenset(room_ids)

    def weigh(self, room: LiveRoom) -> None:
        """Account for a room that has changed, and let others go if the budget is spent."""
        if self._rooms.get(room.room_id) is not room:
            return  # it left memory in the meantime
        self._size += room.size - self._sizes.get(room.room_id, 0)
        self._sizes[room.room_id] = room.size
        excess = self._size - self._budget
        leaving = []
        for room_id, other in self._rooms.items():
            if excess <= 0:
                break
            # A room without a tail is being made: the database does not have it yet.
            if room_id not in self._pinned and other is not room and other.tail is not None:
                leaving.append(room_id)
                excess -= self._sizes[room_id]
        for room_id in leaving:
            self.drop(room_id)
        LIVE_ROOMS.set(len(self._rooms))

    async def _load(self, room_id: RoomID) -> LiveRoom | None:
        """Load a room.

        1. its head    2. its current state    3. memberships    4. state events but members
        """
        head = await self._db.read(rooms.find_head, room_id)  # 1
        if head is None:
            return None
        LIVE_ROOM_LOADS.inc()
        room = LiveRoom(head.room_nid, head.room_id, ROOM_VERSIONS[head.room_version])
        room.last_event = room.recent_from = head.last_event
        room.whole_nid = head.whole_nid or 0
        if head.partial_join is not None and head.whole_nid is None:
            room.partial = Partial(head.partial_join, head.partial_servers or ())
        room.forked_at = head.forked_at
        tips = await self._db.read(rooms.list_extremities, room.room_nid, head.extremities)
        room.tips = tuple(
            make_tip(
                restore_event(room.version, decode_event_id(room.version, tip.event_id), tip.pdu),
                tip.event_nid,
                tip.state_after,
            )
            for tip in tips
        )
        room.tail, room.state = await self._states.load_current(
            room.room_nid, head.current_state
        )  # 2
        stored_members = await self._db.read(memberships.list_members, room.room_nid)  # 3
        room.fill_members(
            {
                member.user_id: Member(
                    memberships.NAMES[member.membership],
                    member.event_nid,
                    member.joined_nid,
                    member.left_nid,
                )
                for member in stored_members
            }
        )
        await self._find_member_events(room)
        member_nids = {member.member_event for member in room.members.values()}
        nids = [nid for nid in room.state.values() if nid not in member_nids]
        for stored in await self._db.read(events.list_events, room.room_nid, nids):  # 4
            found = load_timeline_event(room.version, stored)
            if found.type != MEMBER:
                room.set_state_event(found)
        return room

    async def _find_member_events(self, room: LiveRoom) -> None:
        """Find the member events that a resolution has brought in: the state names them."""
        in_state = set(room.state.values())
        moved = [
            user_id for user_id, member in room.members.items() if member.event_nid not in in_state
        ]
        if not moved:
            return
        slots = {user_id: (MEMBER, user_id) for user_id in moved}
        await self._dictionary.ensure([], [], slots.values())
        for user_id, slot in slots.items():
            slot_nid = self._dictionary.find_slot(*slot)
            other = 0 if slot_nid is None else room.state.get(slot_nid, 0)
            room.members[user_id] = replace(room.members[user_id], other_event=other)

    async def load_members(self, room: LiveRoom, user_ids: Iterable[UserID]) -> None:
        """Bring the member events of these users into memory."""
        nids = [
            room.members[user_id].member_event
            for user_id in user_ids
            if user_id in room.members and user_id not in room.member_events
        ]
        if not nids:
            return
        for stored in await self._db.read(events.list_events, room.room_nid, nids):
            found = load_timeline_event(room.version, stored)
            current = room.members.get(UserID(found.state_key or ""))
            if current is not None and current.member_event == found.event_nid:
                room.remember_member_event(found)
        self.weigh(room)

    async def load_awaited(self, room: LiveRoom, event_nids: Iterable[int]) -> None:
        """Bring events into memory for a change under way."""
        for stored in await self._db.read(events.list_events, room.room_nid, list(event_nids)):
            room.awaited[stored.event_nid] = load_timeline_event(room.version, stored)

    async def list_state(self, room: LiveRoom, *, with_members: bool) -> list[TimelineEvent]:
        """Return the current state; with all members it may be much."""
        found = list(room.state_events.values())
        if with_members:
            found += await self.list_member_events(room, list(room.members))
        return found

    async def list_member_events(
        self, room: LiveRoom, user_ids: Iterable[UserID]
    ) -> list[TimelineEvent]:
        """Return the current member events of these users, those who have one."""
        found = []
        missing = []
        for user_id in user_ids:
            known = room.member_events.get(user_id)
            if known is not None:
                found.append(known)
            elif user_id in room.members:
                missing.append(room.members[user_id].member_event)
        if missing:
            loaded = await self._db.read(events.list_events, room.room_nid, missing)
            for stored in loaded:
                fresh = load_timeline_event(room.version, stored)
                found.append(fresh)
                current = room.members.get(UserID(fresh.state_key or ""))
                if (
                    len(missing) <= _MAX_REMEMBERED_AT_ONCE
                    and current is not None
                    and current.member_event == fresh.event_nid
                ):
                    room.remember_member_event(fresh)
            self.weigh(room)
        return found

    async def list_profiles(
        self, room: LiveRoom, user_ids: Iterable[UserID]
    ) -> dict[UserID, Profile]:
        """Return what the current member events of these users call them.

        For many: the events themselves would take some 4,000 bytes each.
        """
        numbers = {
            room.members[user_id].member_event: user_id
            for user_id in user_ids
            if user_id in room.members
        }
        asked = list(numbers)
        found: dict[UserID, Profile] = {}
        for start in range(0, len(asked), _PROFILES_A_READ):
            some = asked[start : start + _PROFILES_A_READ]
            read = await self._db.read(memberships.list_profiles, room.room_nid, some)
            found |= {numbers[event_nid]: profile for event_nid, profile in read.items()}
        return found
