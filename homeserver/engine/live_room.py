"""One room in use, in memory: its current state, its members, what was said last.

It changes only after a commit, through `RoomChange.apply`. Invariant: what is here is what the
database has; what is too much to be here is not, and whoever needs it loads it.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping

from homeserver.core.history_visibility import HistoryVisibility, parse_history_visibility
from homeserver.core.identifiers import EventID, RoomID, ServerName, UserID, server_name_of
from homeserver.core.power_levels import PowerLevels, power_levels_of
from homeserver.core.relations import AGGREGATED, find_relation
from homeserver.core.room_versions import RoomVersion
from homeserver.core.state_map import REMOVED, State
from homeserver.engine.audience import Audience
from homeserver.engine.dictionary import Slot
from homeserver.engine.members import Member
from homeserver.engine.state_store import Tail
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.engine.tips import Tip
from homeserver.storage.partial_state import Partial

MEMBER = "m.room.member"
_RECENT_EVENTS = 100
_MAX_MEMBER_EVENTS = 2_000
_BYTES_A_MEMBER = 450
_BYTES_A_LISTENER = 450
_BYTES_A_NOTIFICATION = 350
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

    def may_be_joined(self, user_id: UserID) -> bool:
        """Tell whether a user is in the room, or is of one of its servers while members lack."""
        if self.partial is None or user_id in self.members:
            return user_id in self.joined
        return server_name_of(user_id) in self.partial.servers

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
