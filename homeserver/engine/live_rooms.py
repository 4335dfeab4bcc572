"""Rooms in use, in memory: what the usual send and the usual sync need, without a database read.

A live room is owned by the commit loop, the room's single writer: it changes only after the
commit, through `apply`. Least recently used rooms leave when the byte budget is spent; loading one
takes a few indexed queries.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from twisted.internet.defer import Deferred

from homeserver.core.events import restore_event
from homeserver.core.history_visibility import HistoryVisibility, parse_history_visibility
from homeserver.core.identifiers import EventID, RoomID, ServerName, UserID, server_name_of
from homeserver.core.power_levels import PowerLevels, power_levels_of
from homeserver.core.relations import AGGREGATED, find_relation
from homeserver.core.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.core.state_map import REMOVED, State
from homeserver.engine.audience import Audience
from homeserver.engine.dictionary import Dictionary, Slot
from homeserver.engine.members import Member
from homeserver.engine.state_store import StateStore, Tail
from homeserver.engine.timeline_event import TimelineEvent, load_timeline_event
from homeserver.engine.tips import Tip, make_tip
from homeserver.metrics import LIVE_ROOM_LOADS, LIVE_ROOMS
from homeserver.storage import events, memberships, rooms
from homeserver.storage.database import Database
from homeserver.storage.events import decode_event_id
from homeserver.storage.memberships import Profile
from homeserver.storage.partial_state import Partial

MEMBER = "m.room.member"
_RECENT_EVENTS = 100
_MAX_MEMBER_EVENTS = 2_000
_MAX_REMEMBERED_AT_ONCE = 500
"""A longer list of members would push out those who speak."""
_BYTES_A_MEMBER = 450
_BYTES_A_LISTENER = 450
_BYTES_A_NOTIFICATION = 350
_PROFILES_A_READ = 5_000
_BYTES_A_ROOM = 4_000


class LiveRoom:
    def __init__(self, room_nid: int, room_id: RoomID, version: RoomVersion) -> None:
        self.room_nid = room_nid
        self.room_id = room_id
        self.version = version
        self.tips: tuple[Tip, ...] = ()
        self.tail: Tail | None = None
        self.state: State = {}
        """Slot number -> event number; the committed current state."""
        self.state_events: dict[Slot, TimelineEvent] = {}
        """Current state but for members."""
        self.member_events: OrderedDict[UserID, TimelineEvent] = OrderedDict()
        """The current member events that have been needed; bounded."""
        self.members: dict[UserID, Member] = {}
        self.joined: dict[UserID, None] = {}
        """Ordered set of the joined users."""
        self.invited_count = 0
        self.servers: dict[str, int] = {}
        """How many joined users each server has."""
        self.recent: deque[TimelineEvent] = deque()
        self.recent_from = 0
        """Every shown event after this number is in `recent`."""
        self.has_relations: bool | None = None
        """Whether any event relates to another; None: nobody has asked."""
        self.parents: dict[EventID, int] = {}
        """What recent events relate to, but for annotations: each with its newest child."""
        self.last_event = 0
        self.partial: Partial | None = None
        self.whole_nid = 0
        """The position at which the members came that a join had been answered without."""
        self.forked_at = 0
        """Every shown event after this number is in line, but for historical ones."""
        self.awaited: dict[int, TimelineEvent] = {}
        """Events that a change under way needs, by number; loaded for it, forgotten after it."""
        self.audience: Audience | None = None
        """Loaded before the first event that might notify somebody."""
        self._event_bytes = 0

    @property
    def size(self) -> int:
        """Bytes of memory, roughly."""
        size = _BYTES_A_ROOM + _BYTES_A_MEMBER * len(self.members) + self._event_bytes
        if self.audience is not None:
            size += _BYTES_A_LISTENER * len(self.audience)
            size += _BYTES_A_NOTIFICATION * len(self.audience.log)
        return size

    def find_state(self, event_type: str, state_key: str = "") -> TimelineEvent | None:
        """Return a current state event; member events only if they are in memory."""
        if event_type == MEMBER:
            return self.member_events.get(UserID(state_key))
        return self.state_events.get((event_type, state_key))

    def find_content(self, event_type: str, state_key: str = "") -> Mapping[str, object]:
        """Return the content of a current state event other than members; empty if none."""
        found = self.state_events.get((event_type, state_key))
        return found.shown.content if found is not None else {}

    def membership_of(self, user_id: UserID) -> str | None:
        member = self.members.get(user_id)
        return member.membership if member is not None else None

    @property
    def is_partial(self) -> bool:
        return self.partial is not None

    def list_servers(self) -> set[ServerName]:
        """Return the servers that are in the room, as far as anybody here knows."""
        servers = {ServerName(server) for server in self.servers}
        return servers if self.partial is None else servers.union(self.partial.servers)

    @property
    def power_levels(self) -> PowerLevels:
        return power_levels_of(
            self.version, {slot: found.event for slot, found in self.state_events.items()}
        )

    @property
    def history_visibility(self) -> HistoryVisibility:
        content = self.find_content("m.room.history_visibility")
        return parse_history_visibility(content.get("history_visibility"))  # type: ignore[arg-type]  # JSON

    def set_member(self, user_id: UserID, member: Member) -> None:
        before = self.membership_of(user_id)
        membership = member.membership
        self.members[user_id] = member
        self.invited_count += (membership == "invite") - (before == "invite")
        if (membership == "join") != (before == "join"):
            server = server_name_of(user_id) or ""
            if membership == "join":
                self.joined[user_id] = None
                self.servers[server] = self.servers.get(server, 0) + 1
            else:
                del self.joined[user_id]
                self.servers[server] -= 1
                if not self.servers[server]:
                    del self.servers[server]

    def fill_members(self, members: dict[UserID, Member]) -> None:
        """Take in everybody at once, where there is nobody yet."""
        self.members = members
        self.joined = {u: None for u, member in members.items() if member.membership == "join"}
        self.invited_count = sum(m.membership == "invite" for m in members.values())
        self.servers = dict(Counter(server_name_of(user_id) or "" for user_id in self.joined))

    def remember_member_event(self, found: TimelineEvent) -> None:
        user_id = UserID(found.state_key or "")
        before = self.member_events.get(user_id)
        self._event_bytes += found.size - (before.size if before is not None else 0)
        self.member_events[user_id] = found
        self.member_events.move_to_end(user_id)
        while len(self.member_events) > _MAX_MEMBER_EVENTS:
            _, dropped = self.member_events.popitem(last=False)
            self._event_bytes -= dropped.size

    def set_state_event(self, found: TimelineEvent) -> None:
        slot = (found.type, found.state_key or "")
        before = self.state_events.get(slot)
        self._event_bytes += found.size - (before.size if before is not None else 0)
        self.state_events[slot] = found

    def set_state(self, changed: State) -> None:
        for slot_nid, event_nid in changed.items():
            if event_nid == REMOVED:
                self.state.pop(slot_nid, None)
            else:
                self.state[slot_nid] = event_nid

    def forget_member_events(self) -> None:
        """They are looked up in the state when they are needed."""
        self._event_bytes -= sum(found.size for found in self.member_events.values())
        self.member_events.clear()

    def forget_recent(self) -> None:
        """Recent events are read when they are needed: what is known of them has changed."""
        self._event_bytes -= sum(found.size for found in self.recent)
        self.recent.clear()
        self.parents.clear()
        self.recent_from = self.last_event

    def forget_state_event(self, slot: Slot) -> None:
        dropped = (
            self.member_events.pop(UserID(slot[1]), None)
            if slot[0] == MEMBER
            else self.state_events.pop(slot, None)
        )
        if dropped is not None:
            self._event_bytes -= dropped.size

    def append_recent(self, found: TimelineEvent) -> None:
        self.recent.append(found)
        self._event_bytes += found.size
        self.last_event = found.event_nid
        if found.room_state is not None:
            self.forked_at = found.event_nid
        parent_id = _aggregated_parent(found)
        if parent_id is not None:
            self.parents[parent_id] = found.event_nid
        while len(self.recent) > _RECENT_EVENTS:
            dropped = self.recent.popleft()
            self.recent_from = dropped.event_nid
            self._event_bytes -= dropped.size
            parent_id = _aggregated_parent(dropped)
            if parent_id is not None and self.parents.get(parent_id) == dropped.event_nid:
                del self.parents[parent_id]

    def list_possible_parents(self, found: Iterable[TimelineEvent]) -> list[TimelineEvent]:
        """Leave out the recent events that nothing to be told with them relates to.

        What came after a recent event is recent itself, so memory knows of all its children.
        """
        if self.has_relations is False:
            return []
        recent = {event.event_nid for event in self.recent}
        return [
            event
            for event in found
            if event.state_key is None
            and (event.event_nid not in recent or event.event_id in self.parents)
        ]

    def redact(self, event_nid: int, redaction: TimelineEvent, target: EventID) -> None:
        """Let a redaction take effect on whatever is in memory."""
        in_memory = (
            *self.recent,
            *self.state_events.values(),
            *self.member_events.values(),
            *self.awaited.values(),
        )
        for found in in_memory:
            if found.event_nid == event_nid:
                found.redact(redaction.shown, redaction.event_nid)
            found.redact_attached(target)

    def recent_after(self, event_nid: int) -> Iterator[TimelineEvent]:
        """Newest first, the shown events after `event_nid` that are in memory."""
        for found in reversed(self.recent):
            if found.event_nid <= event_nid:
                return
            yield found


def _aggregated_parent(found: TimelineEvent) -> EventID | None:
    relation = find_relation(found.event.content)
    return relation.parent_id if relation is not None and relation.rel_type in AGGREGATED else None


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
            waiting = self._loading.get(room_id)
            if waiting is None:
                break
            loaded: Deferred[None] = Deferred()
            waiting.append(loaded)
            await loaded
        self._loading[room_id] = []
        try:
            room = await self._load(room_id)
            if room is not None:
                self.add(room)
            return room
        finally:
            for loaded in self._loading.pop(room_id):
                loaded.callback(None)

    def add(self, room: LiveRoom) -> None:
        self._rooms[room.room_id] = room
        self.weigh(room)

    def drop(self, room_id: RoomID) -> None:
        """Forget what is in memory: after a failed commit the database alone knows."""
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
