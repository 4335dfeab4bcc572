"""What one group commit does to one room: built in memory, written at once, then applied.

spec: server-server-api/#authorization-rules, #auth-events-selection, v1.19. Invariant: a live room
is not touched until its change is committed; until then later events of the batch see the earlier
ones through the change.
"""

from dataclasses import dataclass, replace
from typing import Any

from homeserver.clock import Clock
from homeserver.core.auth_events import auth_types_of
from homeserver.core.errors import EventRejected
from homeserver.core.event_auth import check_event_auth
from homeserver.core.events import MAX_PREV_EVENTS, Event, make_event, reference_hash
from homeserver.core.identifiers import ServerName, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.power_levels import power_levels_of
from homeserver.core.signing import SigningKey
from homeserver.core.state_map import REMOVED, State
from homeserver.engine.audience import Notified
from homeserver.engine.dictionary import Dictionary, Slot
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.members import Member, next_member
from homeserver.engine.not_loaded import NotLoaded
from homeserver.engine.received_rows import ReceivedRows
from homeserver.engine.state_store import StateStore
from homeserver.engine.streams import Stream
from homeserver.engine.stripped_state import make_stripped_state
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.engine.tips import make_tip
from homeserver.storage.client_transactions import NewTransaction
from homeserver.storage.events import NewEvent, encode_event_id
from homeserver.storage.memberships import NUMBERS, NewMembership
from homeserver.storage.notifications import NewNotification
from homeserver.storage.relations import NewRelation, new_relation
from homeserver.storage.rooms import NewHead
from homeserver.storage.state_segments import Growth, Segment

_CREATE = ("m.room.create", "")


@dataclass(frozen=True, slots=True)
class EventTemplate:
    """What an author says of a new event; the graph, hashes and signature are added."""

    type: str
    sender: UserID
    content: JsonObject
    state_key: str | None = None
    redacted: TimelineEvent | None = None
    """For m.room.redaction: its target."""
    origin_server_ts: int | None = None
    """None: now."""
    device_id: str | None = None
    txn_id: str | None = None
    txn_scope: str = ""
    """Endpoints beside `send`, whose transaction ids are others, name themselves."""
    event: Event | None = None
    """Made already: the m.room.create whose hash is the room id."""
    skip_if_unchanged: bool = False
    """Answer the current state event when it says the same by the same sender."""

    @property
    def scoped_txn_id(self) -> str | None:
        return None if self.txn_id is None else self.txn_scope + self.txn_id


class RoomChange:
    def __init__(self, room: LiveRoom) -> None:
        self.room = room
        self.tips = room.tips
        self.tail = room.tail
        self.state: dict[int, int] = {}
        self.state_events: dict[Slot, TimelineEvent | None] = {}
        """None: a resolution has emptied the slot."""
        self.members: dict[UserID, Member] = {}
        self.new_events: list[TimelineEvent] = []
        self.event_rows: list[NewEvent] = []
        self.segments: list[Segment] = []
        self.growths: list[Growth] = []
        self.membership_rows: list[NewMembership] = []
        self.relation_rows: list[NewRelation] = []
        self.transactions: list[NewTransaction] = []
        self.redactions: list[tuple[int, int]] = []
        """(event number of the target, of the redaction)"""
        self.redaction_events: list[tuple[TimelineEvent, TimelineEvent]] = []
        self.received = ReceivedRows()
        self.partial = room.partial
        self.whole_nid = room.whole_nid
        self.forgets_recent = False
        """The states of recent events were computed again."""
        self.forgets_member_events = False
        """The state was replaced as a whole: of the members, only what they are is in memory."""
        self.notified: list[Notified] = []
        self.notification_rows: list[NewNotification] = []
        self.has_old_notifications = False
        self.moved_at = 0
        """Position at which the current state changed without an event that is shown."""

    def mark(self) -> dict[str, Any]:
        """Return what `undo` needs to go back to now."""
        return {
            name: value.copy() if isinstance(value, (dict, list, ReceivedRows)) else value
            for name, value in vars(self).items()
        }

    def undo(self, mark: dict[str, Any]) -> None:
        vars(self).update(mark)

    def find_state(self, slot: Slot) -> TimelineEvent | None:
        """Return the state event before the next event. Raises NotLoaded."""
        if slot in self.state_events:
            return self.state_events[slot]
        if slot[0] == MEMBER and UserID(slot[1]) in self.members:
            # It has changed with many others, and is not in memory before the commit.
            raise NotLoaded("member event", user=UserID(slot[1]))
        found = self.room.find_state(*slot)
        if found is None and slot[0] == MEMBER:
            member = self.room.members.get(UserID(slot[1]))
            if member is not None and member.member_event:
                raise NotLoaded("member event", user=UserID(slot[1]))
        return found

    def state_number(self, slot_nid: int) -> int | None:
        if slot_nid in self.state:
            return self.state[slot_nid] or None
        return self.room.state.get(slot_nid)

    def whole_state(self) -> State:
        """Return the current state as a new dictionary."""
        whole = self.room.state | self.state
        for slot_nid, event_nid in self.state.items():
            if event_nid == REMOVED:
                del whole[slot_nid]
        return whole

    @property
    def has_rows(self) -> bool:
        return bool(self.event_rows or self.transactions or self.received)

    @property
    def last_position(self) -> int:
        """The newest position that a row remembers; 0 when there is none."""
        last_row = self.event_rows[-1].event_nid if self.event_rows else 0
        return max(last_row, self.moved_at, self.received.last_position)

    def stay_out(self) -> None:
        """Let a room without a state have none after this change either."""
        if self.room.tail is None:
            self.tail = None
            self.segments.clear()

    @property
    def shown_up_to(self) -> int:
        """The newest position with anything to show; 0 when there is none."""
        last_shown = self.new_events[-1].event_nid if self.new_events else 0
        return max(last_shown, self.moved_at)

    def add_state_row(self, row: Segment | Growth) -> None:
        if isinstance(row, Segment):
            self.segments.append(row)
        elif self.growths and self.growths[-1].segment_nid == row.segment_nid:
            last = self.growths[-1]
            self.growths[-1] = replace(
                row, changes=last.changes + row.changes, count_before=last.count_before
            )
        else:
            self.growths.append(row)

    def head(self) -> NewHead:
        assert self.tail is not None
        return NewHead(
            self.room.room_nid,
            [tip.event_nid for tip in self.tips],
            self.tail.state_nid,
            self.shown_up_to,
        )

    def apply(self) -> None:
        """Bring the live room up to date, after the commit."""
        room = self.room
        room.tips, room.tail = self.tips, self.tail
        room.partial, room.whole_nid = self.partial, self.whole_nid
        if self.forgets_member_events:
            room.forget_member_events()
        room.set_state(self.state)
        for user_id, member in self.members.items():
            room.set_member(user_id, member)
        for slot, found in self.state_events.items():
            if found is None:
                room.forget_state_event(slot)
            elif slot[0] == MEMBER:
                room.remember_member_event(found)
            else:
                room.set_state_event(found)
        if self.relation_rows:
            room.has_relations = True
        for found in self.new_events:
            room.append_recent(found)
        if room.audience is not None:
            room.audience.append(self.notified)
        room.last_event = max(room.last_event, self.moved_at)
        if self.forgets_recent:
            room.forget_recent()
        room.forked_at = max(room.forked_at, self.moved_at)
        for target, redaction in self.redaction_events:
            room.redact(target.event_nid, redaction, target.event.event_id)


class RoomChanges:
    """Builds events into room changes; one batch at a time."""

    def __init__(
        self,
        server_name: ServerName,
        signing_key: SigningKey,
        clock: Clock,
        dictionary: Dictionary,
        states: StateStore,
        stream: Stream,
    ) -> None:
        self._server_name = server_name
        self._signing_key = signing_key
        self._clock = clock
        self._dictionary = dictionary
        self._states = states
        self._stream = stream
        self._positions: list[int] = []

    def begin(self, room: LiveRoom) -> RoomChange:
        change = RoomChange(room)
        if change.tail is None:
            change.tail, first = self._states.first_segment(room.room_nid)
            change.segments.append(first)
        return change

    def end_batch(self, last_committed: int) -> None:
        """Let readers see up to `last_committed`, the batch's last durable position; 0: nothing is.

        Positions after it, which no row remembers, must not get into a token: the next process
        gives them to other events. The first of them stays under way until a later commit.
        """
        for position in [p for p in self._positions if p <= last_committed]:
            self._stream.release(position)
        unused = sorted(p for p in self._positions if p > last_committed)
        for position in unused[1:]:
            self._stream.release(position)
        self._positions = unused[:1]

    def add(self, change: RoomChange, template: EventTemplate) -> TimelineEvent:
        """Build, authorise and take in one event.

        1. An unchanged state event is answered by the current one.
        2. The auth events are selected from the state before.
        3. The event is made, and checked against that state.
        4. A user redacts his own events, or those of others if he has the power.
        5. The rows are made, and later events see this one.

        Raises EventRejected, EventMalformed, NotLoaded; the change is then to be undone.
        """
        unchanged = _find_unchanged(change, template)  # 1
        if unchanged is not None:
            self.note_transaction(change, template, unchanged)
            return unchanged
        return self._take_in(change, template, *self._make_allowed(change, template))

    def make(self, room: LiveRoom, template: EventTemplate) -> Event | TimelineEvent:
        """Return the event `add` would take in now; or the current one it would answer instead.

        Raises as `add`.
        """
        change = RoomChange(room)
        return _find_unchanged(change, template) or self._make_allowed(change, template)[0]

    def _make_allowed(
        self, change: RoomChange, template: EventTemplate
    ) -> tuple[Event, list[TimelineEvent]]:
        room = change.room
        auth: dict[Slot, Event] = {}
        cited: list[TimelineEvent] = []
        for auth_slot in auth_types_of(
            room.version, template.type, template.sender, template.state_key, template.content
        ):  # 2
            found = change.find_state(auth_slot)
            if found is not None:
                cited.append(found)
                auth[auth_slot] = found.event
        create = change.find_state(_CREATE)
        if create is not None:
            auth[_CREATE] = create.event
        event = template.event or self._make(change, template, cited)
        check_event_auth(event, auth)  # 3
        if template.redacted is not None and event.sender != template.redacted.event.sender:  # 4
            levels = power_levels_of(room.version, auth)
            if levels.user_level(event.sender) < levels.redact:
                raise EventRejected("redaction.power", "you may not redact events of others here")
        return event, cited

    def _make(
        self, change: RoomChange, template: EventTemplate, cited: list[TimelineEvent]
    ) -> Event:
        tips = change.tips[-MAX_PREV_EVENTS:]
        depth = max((tip.depth for tip in tips), default=0) + 1
        version = change.room.version
        hashes = {tip.event_id: tip.reference_hash for tip in tips if tip.reference_hash}
        if hashes:
            hashes |= {found.event.event_id: reference_hash(found.event) for found in cited}
        return make_event(
            version,
            room_id=change.room.room_id,
            type=template.type,
            sender=template.sender,
            state_key=template.state_key,
            content=template.content,
            depth=min(depth, version.max_depth),
            origin_server_ts=(
                self._clock.now_ms()
                if template.origin_server_ts is None
                else template.origin_server_ts
            ),
            prev_events=[tip.event_id for tip in tips],
            auth_events=[found.event.event_id for found in cited],
            redacts=None if template.redacted is None else template.redacted.event.event_id,
            server_name=self._server_name,
            signing_key=self._signing_key,
            reference_hashes=hashes,
        )

    def _take_in(
        self,
        change: RoomChange,
        template: EventTemplate,
        event: Event,
        cited: list[TimelineEvent],
    ) -> TimelineEvent:
        room = change.room
        replaced = _find_replaced(change, template)
        type_nid = self._dictionary.find_type(event.type)
        sender_nid = self._dictionary.find_user(event.sender)
        if type_nid is None or sender_nid is None:
            raise NotLoaded("number", user=event.sender, event_type=event.type)
        slot_nid = None
        if event.state_key is not None:
            slot_nid = self._dictionary.find_slot(event.type, event.state_key)
            if slot_nid is None:
                raise NotLoaded("slot number", slot=(event.type, event.state_key))
        event_nid = self.allocate()
        assert change.tail is not None
        state_before = change.tail.state_nid
        if slot_nid is not None:
            self.extend_state(change, slot_nid, event_nid)
        found = TimelineEvent(
            event,
            event_nid,
            state_before=state_before,
            state_after=change.tail.state_nid,
            replaced=replaced.shown if replaced is not None else None,
            replaces=replaced.event_nid if replaced is not None else None,
            sender_device=template.device_id,
            txn_id=template.txn_id,
        )
        change.event_rows.append(
            NewEvent(
                room_nid=room.room_nid,
                event_nid=event_nid,
                event_id=encode_event_id(room.version, event.event_id),
                type_nid=type_nid,
                sender_nid=sender_nid,
                slot_nid=slot_nid,
                depth=event.depth,
                origin_server_ts=event.origin_server_ts,
                state_before=state_before,
                state_after=change.tail.state_nid,
                replaces=replaced.event_nid if replaced is not None else None,
                flags=0,
                prev_events=[tip.event_nid for tip in change.tips[-MAX_PREV_EVENTS:]],
                auth_events=[auth.event_nid for auth in cited],
                pdu=event.pdu_bytes,
            )
        )
        relation = new_relation(room.version, event, change.event_rows[-1])
        if relation is not None:
            change.relation_rows.append(relation)
        after = change.tail.state_nid
        change.tips = (make_tip(event, event_nid, after),)
        change.new_events.append(found)
        if event.state_key is not None:
            change.state_events[(event.type, event.state_key)] = found
            if event.type == MEMBER:
                self.take_in_membership(change, found, found.event_nid)
        if template.redacted is not None:
            change.redactions.append((template.redacted.event_nid, event_nid))
            change.redaction_events.append((template.redacted, found))
        self.note_transaction(change, template, found)
        return found

    def allocate(self) -> int:
        """Return a position for the batch being built."""
        position = self._stream.allocate()
        self._positions.append(position)
        return position

    def extend_state(self, change: RoomChange, slot_nid: int, event_nid: int) -> None:
        """Put an event into the current state."""
        room = change.room
        assert change.tail is not None
        before = change.state_number(slot_nid)
        change.tail, row = self._states.append(
            room.room_nid,
            change.tail,
            {} if before is None else {slot_nid: before},
            [(slot_nid, event_nid)],
            whole=change.whole_state,
            size=len(room.state),
        )
        change.state[slot_nid] = event_nid
        change.add_state_row(row)

    def take_in_membership(self, change: RoomChange, found: TimelineEvent, position: int) -> None:
        """Let a member event that is now in the current state take effect, from `position` on."""
        event = found.event
        membership = event.membership if event.membership in NUMBERS else "leave"
        self.set_member(
            change, UserID(event.state_key or ""), membership or "leave", position, found
        )

    def set_member(
        self,
        change: RoomChange,
        user_id: UserID,
        membership: str,
        position: int,
        found: TimelineEvent | None,
    ) -> None:
        """`found` is the member event; None when a resolution has left the user without one."""
        user_nid = self._dictionary.find_user(user_id)
        if user_nid is None:
            raise NotLoaded("number", user=user_id)
        before = change.members.get(user_id) or change.room.members.get(user_id)
        member = next_member(before, membership, position)
        member_event = 0 if found is None else found.event_nid
        if member_event != position:
            member = replace(member, other_event=member_event)
        change.members[user_id] = member
        change.membership_rows.append(
            NewMembership(
                user_nid=user_nid,
                room_nid=change.room.room_nid,
                membership=NUMBERS[membership],
                event_nid=position,
                joined_nid=member.joined_nid,
                left_nid=member.left_nid,
                stripped_state=(
                    make_stripped_state(change.find_state, found.event)
                    if found is not None and membership in ("invite", "knock")
                    else None
                ),
            )
        )

    def note_transaction(
        self, change: RoomChange, template: EventTemplate, found: TimelineEvent
    ) -> None:
        if template.txn_id is None or template.device_id is None:
            return
        sender_nid = self._dictionary.find_user(template.sender)
        if sender_nid is None:
            raise NotLoaded("number", user=template.sender)
        change.transactions.append(
            NewTransaction(
                user_nid=sender_nid,
                device_id=template.device_id,
                txn_id=template.scoped_txn_id or "",
                room_nid=change.room.room_nid,
                event_nid=found.event_nid,
                created_ts=self._clock.now_ms(),
            )
        )


def _find_replaced(change: RoomChange, template: EventTemplate) -> TimelineEvent | None:
    """Return the state event in whose place the new one comes."""
    if template.state_key is None:
        return None
    return change.find_state((template.type, template.state_key))


def _find_unchanged(change: RoomChange, template: EventTemplate) -> TimelineEvent | None:
    """Return the state event that says the same already, if that is enough."""
    found = _find_replaced(change, template) if template.skip_if_unchanged else None
    if (
        found is None
        or found.is_redacted
        or found.event.content != template.content
        or found.event.sender != template.sender
    ):
        return None
    return found
