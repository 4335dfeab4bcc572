"""Giving a room another current state as a whole: one that other servers have told of.

Used where this server enters a room, and where it learns what a first answer left out.
Invariant: afterwards memory and rows say of each member what the new state says, though of tens of
thousands of members not one event is rendered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homeserver.core.events import Event
from homeserver.core.identifiers import EventID, ServerName, UserID, server_name_of
from homeserver.core.state_map import REMOVED, State
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.event_graph import EventGraph, Node, node_of
from homeserver.engine.event_rows import find_event, make_row, note_parents, slot_number
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.members import Member
from homeserver.engine.not_loaded import NotLoaded, Wanted
from homeserver.engine.received_rows import JoinedRow
from homeserver.engine.room_change import RoomChange, RoomChanges
from homeserver.engine.state_at_event import StateAtEvent
from homeserver.engine.state_store import Snapshot, StateStore
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.engine.tips import make_tip
from homeserver.storage.events import AFTER_GAP
from homeserver.storage.introductions import NewIntroduction
from homeserver.storage.memberships import NUMBERS, NewMembership
from homeserver.storage.partial_state import Partial

_MEMBERS_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """A join by which this server enters a room, with what is known there."""

    event: Event
    before: Snapshot
    members: Mapping[int, str]
    """Membership by number of the member event."""
    parents: Sequence[int]
    missing_parents: Sequence[EventID]
    auth_events: Sequence[int]
    servers: Sequence[ServerName] | None
    """Set if the state lacks members: the servers that are in the room."""


@dataclass(frozen=True, slots=True)
class Takeover:
    """A whole state and what it says of members."""

    after: Snapshot
    members: Mapping[int, str]
    """Membership by number of the member event."""
    position: int
    """From here on it is the current state."""
    joined_by: int | None = None
    """Set if those whom it alone knows to be joined came before this position."""


class StateTakeover:
    def __init__(
        self,
        server_name: ServerName,
        changes: RoomChanges,
        dictionary: Dictionary,
        states: StateStore,
        state_at: StateAtEvent,
        graph: EventGraph,
    ) -> None:
        self._server_name = server_name
        self._changes = changes
        self._dictionary = dictionary
        self._states = states
        self._state_at = state_at
        self._graph = graph

    async def prepare(self, room: LiveRoom, state: State) -> dict[int, str]:
        """Bring into memory what `replace` needs; return the membership by member event.

        What is rendered: state other than members, local members, and who invited them.
        """
        names = await self._dictionary.name_slots(list(state))
        members = {nid: UserID(names[s][1]) for s, nid in state.items() if names[s][0] == MEMBER}
        memberships: dict[int, str] = {}
        local = [nid for nid, user in members.items() if self._is_local(user)]
        inviters: set[UserID] = set()
        numbers = list(members)
        for start in range(0, len(numbers), _MEMBERS_AT_ONCE):
            some = numbers[start : start + _MEMBERS_AT_ONCE]
            for nid, node in (await self._load_some(room, some)).items():
                memberships[nid] = node.event.membership or ""
                if self._is_local(members[nid]):
                    inviters.add(node.event.sender)
        rendered = [nid for slot, nid in state.items() if names[slot][0] != MEMBER]
        rendered += local + [nid for nid, user in members.items() if user in inviters]
        await self._dictionary.ensure(list(members.values()), [], [])
        await self._state_at.load(room, Wanted(timeline=rendered))
        return memberships

    async def _load_some(self, room: LiveRoom, numbers: Sequence[int]) -> Mapping[int, Node]:
        """Of a large room not all are in memory at the same time."""
        try:
            return self._graph.get_numbers(room, numbers)
        except NotLoaded:
            self._graph.make_space(room)
            return await self._graph.load_numbers(room, numbers)

    def take_in(self, change: RoomChange, entry: Entry) -> Node:
        """Enter a room: the join is its only extremity, the state after it the current one.

        Raises NotLoaded; the change is then to be undone.
        """
        room = change.room
        event = entry.event
        slot_nid = slot_number(self._dictionary, event)
        assert slot_nid is not None
        number = self._changes.allocate()
        replaces = entry.before.state.get(slot_nid)
        replaced = None if replaces is None else find_event(change, replaces)
        after = self._states.change(room.room_nid, entry.before, [(slot_nid, number)])
        found = TimelineEvent(
            event,
            number,
            state_before=entry.before.tail.state_nid,
            state_after=after.tail.state_nid,
            replaced=None if replaced is None else replaced.shown,
            replaces=replaces,
            room_state=after.tail.state_nid,
            follows_gap=bool(entry.missing_parents),
        )
        change.stay_out()  # the empty state it began with
        change.new_events.append(found)
        change.tips = (make_tip(event, number, after.tail.state_nid),)
        self.replace(change, Takeover(after, entry.members, number))
        row = make_row(
            self._dictionary,
            change,
            event,
            number,
            state=(entry.before.tail.state_nid, after.tail.state_nid),
            flags=AFTER_GAP if entry.missing_parents else 0,
            auth_events=entry.auth_events,
            replaces=replaces,
            parents=entry.parents,
            room_state=after.tail.state_nid,
        )
        change.event_rows.append(row)
        note_parents(change, row, entry.missing_parents)
        change.received.joined.append(JoinedRow(room.room_nid, number, entry.servers))
        change.partial = None if entry.servers is None else Partial(number, entry.servers)
        return node_of(event, row)

    def make_whole(
        self, change: RoomChange, partial: Partial, after: Snapshot, members: Mapping[int, str]
    ) -> None:
        """Make a state the current one that has the members which a join was answered without.

        1. Those who were there already are no newcomers.
        2. To local users the room is new: what they have been told of its members is of no use.
        3. Servers that nobody knew to be there have yet to hear of local users.
        """
        known = change.room.list_servers()
        change.partial = None
        position = change.moved_at = change.whole_nid = self._changes.allocate()
        change.received.whole.append((change.room.room_nid, position))
        self.replace(change, Takeover(after, members, position, partial.join_nid))  # 1
        joined = [
            (user_id, member)
            for user_id, member in (change.room.members | change.members).items()
            if member.membership == "join"
        ]
        met = sorted({ServerName(server_name_of(user_id) or "") for user_id, _ in joined} - known)
        for user_id, member in joined:
            if self._is_local(user_id):
                change.members[user_id] = member  # 2
                if met:  # 3
                    introduction = NewIntroduction(self._number(user_id), change.room.room_nid, met)
                    change.received.introductions.append(introduction)

    def remember(self, room: LiveRoom, nodes: Sequence[Node]) -> None:
        """Have in memory what has become of the newest events, after the commit."""
        self._graph.drop(room)
        for node in nodes:
            self._graph.add(room, node)

    def replace(self, change: RoomChange, takeover: Takeover) -> None:
        """Make a state the current one.

        1. Other state is rendered; so are local members and who invited them.
        2. Local users are told of what has changed for them; other members only are what they are.
        """
        before = change.whole_state()
        state = takeover.after.state
        changed = [(slot, nid) for slot, nid in state.items() if before.get(slot) != nid]
        changed += [(slot, REMOVED) for slot in before.keys() - state.keys()]
        unknown = [s for s, _ in changed if self._dictionary.find_slot_name(s) is None]
        if unknown:
            raise NotLoaded("slots", graph=Wanted(slot_nids=unknown))
        for row in takeover.after.rows:
            change.add_state_row(row)
        change.tail = takeover.after.tail
        change.state.update(changed)
        change.forgets_member_events = True
        local: list[tuple[UserID, int]] = []
        others: list[tuple[UserID, int]] = []
        for slot_nid, nid in changed:  # 1
            slot = self._dictionary.find_slot_name(slot_nid)
            assert slot is not None
            if slot[0] != MEMBER:
                change.state_events[slot] = self._find(change, nid)
                continue
            user_id = UserID(slot[1])
            if self._is_local(user_id):
                local.append((user_id, nid))
                change.state_events[slot] = self._find(change, nid)
            else:
                others.append((user_id, nid))
                if nid in change.room.awaited:
                    change.state_events[slot] = self._find(change, nid)
        for user_id, nid in others:  # 2
            self._set_other(change, user_id, nid, takeover)
        for user_id, _ in local:
            found = change.state_events[MEMBER, user_id]
            if found is None:
                self._changes.set_member(change, user_id, "leave", takeover.position, None)
            else:
                self._changes.take_in_membership(change, found, takeover.position)

    def _set_other(self, change: RoomChange, user_id: UserID, nid: int, takeover: Takeover) -> None:
        membership = takeover.members.get(nid, "leave")
        if membership not in NUMBERS:
            membership = "leave"
        at = takeover.position if nid == REMOVED else nid
        joined_nid = min(at, takeover.joined_by or at) if membership == "join" else None
        member = Member(membership, at, joined_nid, other_event=0 if nid == REMOVED else None)
        change.members[user_id] = member
        change.membership_rows.append(
            NewMembership(
                self._number(user_id),
                change.room.room_nid,
                NUMBERS[membership],
                at,
                joined_nid,
                left_nid=None,
                stripped_state=None,
            )
        )

    def _find(self, change: RoomChange, nid: int) -> TimelineEvent | None:
        return None if nid == REMOVED else find_event(change, nid)

    def _number(self, user_id: UserID) -> int:
        user_nid = self._dictionary.find_user(user_id)
        if user_nid is None:
            raise NotLoaded("number", user=user_id)
        return user_nid

    def _is_local(self, user_id: UserID) -> bool:
        return server_name_of(user_id) == self._server_name
