"""Taking events of other servers into a room's change.

spec: server-server-api/#rejection, #soft-failure, v1.19. The event has passed the checks that
depend on nothing but the graph; here, where the current state is known and cannot move, it gets
the last one and its place. Invariants: a rejected or soft-failed event is stored and no more: it
is no extremity, nobody is shown it. The tail's segment grows only by the current state.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from homeserver.core.auth_events import auth_types_of
from homeserver.core.errors import EventRejected
from homeserver.core.event_auth import check_event_auth
from homeserver.core.events import MAX_PREV_EVENTS, Event, redact_event
from homeserver.core.identifiers import EventID, UserID
from homeserver.core.state_map import REMOVED, State
from homeserver.engine.dictionary import Dictionary, Slot
from homeserver.engine.event_graph import Node, node_of
from homeserver.engine.event_rows import find_event, make_row, note_parents, slot_number
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.not_loaded import NotLoaded, Wanted
from homeserver.engine.room_change import EventTemplate, RoomChange, RoomChanges
from homeserver.engine.state_at_event import StateAtEvent
from homeserver.engine.state_store import Snapshot, StateStore
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.engine.tips import Tip, make_tip
from homeserver.storage.event_graph import WaitingRedaction
from homeserver.storage.events import (
    AFTER_GAP,
    HISTORICAL,
    OUTLIER,
    REJECTED,
    SOFT_FAILED,
    NewEvent,
    PlacedEvent,
    decode_event_id,
    encode_event_id,
)
from homeserver.storage.relations import new_relation

_CREATE = ("m.room.create", "")


@dataclass(frozen=True, slots=True)
class Outlier:
    """An event whose place in the graph is not known; it serves to authorize others."""

    event: Event
    is_rejected: bool


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    event: Event
    before: Snapshot | None
    """State before the event; None: its parents were the room's extremities, see `Moved`."""
    is_rejected: bool
    parents: Sequence[int]
    """Those known."""
    missing_parents: Sequence[EventID]
    cited: Sequence[Node]
    """Its auth events."""
    covered: Collection[int]
    """Its parents, and theirs where a parent is hidden: no longer extremities if it is let in."""
    has_child: bool
    """An event that is let in names it as a parent: it is no extremity."""
    outlier: Node | None
    """Set if it is stored already, without its place."""
    redacted: TimelineEvent | None
    """For an m.room.redaction that takes effect: its target."""
    target_is_unknown: bool
    """For an m.room.redaction: it may take effect once its target is seen."""
    redaction: Node | None
    """An accepted redaction of this event that was there before it."""
    is_history: bool = False
    """It was fetched because it is old: the room has long moved on."""
    is_unwanted: bool = False
    """The room's policy server has not signed it."""
    template: EventTemplate | None = None
    """What a local user said, if it was made here."""

    @property
    def marks(self) -> int:
        """Flags of its row that say how it came, not what it is worth."""
        is_after_gap = bool(self.missing_parents)
        return HISTORICAL * self.is_history | AFTER_GAP * is_after_gap

    @property
    def auth_events(self) -> list[int]:
        return [node.event_nid for node in self.cited]


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of an event, once the change is committed."""

    node: Node
    states: Mapping[int, State]
    """New states by number."""
    event: TimelineEvent


class Moved(NotLoaded):
    """The room has moved on since the event was prepared: prepare it again."""


class ReceivedEvents:
    def __init__(
        self,
        changes: RoomChanges,
        dictionary: Dictionary,
        states: StateStore,
        state_at: StateAtEvent,
    ) -> None:
        self._changes = changes
        self._dictionary = dictionary
        self._states = states
        self._state_at = state_at

    def take_in_outliers(
        self, change: RoomChange, outliers: Sequence[Outlier], known: Mapping[EventID, int]
    ) -> list[NewEvent]:
        """Store events, each after those it cites. `known` numbers what is stored of those."""
        change.stay_out()
        numbers = dict(known)
        rows = []
        for outlier in outliers:
            event = outlier.event
            row = make_row(
                self._dictionary,
                change,
                event,
                self._changes.allocate(),
                state=None,
                flags=OUTLIER | (REJECTED if outlier.is_rejected else 0),
                auth_events=[numbers[auth_id] for auth_id in event.auth_events],
            )
            numbers[event.event_id] = row.event_nid
            rows.append(row)
        change.event_rows += rows
        return rows

    def take_in(self, change: RoomChange, received: ReceivedEvent) -> Taken:
        """Give an event its place.

        1. If its parents are the extremities, the state before it is the current one.
        2. The current state refuses it: it is soft-failed (or rejected, see 1).
        3. The state after it.
        4. Its row.
        5. The extremities, and the current state by theirs.
        6. Clients are shown it, and whatever else has changed.

        History, which is old, is not asked about 2, and moves nothing in 5 and 6.
        Raises NotLoaded and Moved, TooFarToWalk, for an event made here EventRejected in 2; the
        change is then to be undone.
        """
        event = received.event
        assert change.tail is not None
        flags = self._judge(change, received)  # 1, 2
        template = received.template
        if flags and template is not None:
            raise EventRejected("own.moved", "the room does not allow this any more")
        is_news = not flags and not received.is_history
        number = (
            self._changes.allocate() if received.outlier is None else received.outlier.event_nid
        )
        replaced = self._find_replaced(change, received)
        slot_nid = slot_number(self._dictionary, event)
        state_before = (received.before.tail if received.before else change.tail).state_nid
        after = received.before
        if slot_nid is not None and flags & REJECTED == 0:  # 3
            if after is None:
                self._changes.extend_state(change, slot_nid, number)
            else:
                after = self._states.change(change.room.room_nid, after, [(slot_nid, number)])
        for state_row in after.rows if after is not None else ():
            change.add_state_row(state_row)
        state_after = (after.tail if after is not None else change.tail).state_nid
        found = TimelineEvent(
            event,
            number,
            state_before=state_before,
            state_after=state_after,
            replaced=None if replaced is None else _as_shown(replaced),
            replaces=None if replaced is None else replaced.event_nid,
            redaction=None if received.redaction is None else received.redaction.event,
            redacted_by=None if received.redaction is None else received.redaction.event_nid,
            follows_gap=bool(received.missing_parents),
            sender_device=None if template is None else template.device_id,
            txn_id=None if template is None else template.txn_id,
        )
        if is_news:
            position = number
            if received.outlier is not None:
                position = change.moved_at = self._changes.allocate()
            change.tips = self._tips_after(change, received, found)  # 5
            if after is not None:
                fresh = Node(event, number, 0, None, None, (), received.auth_events)
                self._move(change, after, found, position, fresh)
            elif slot_nid is not None:
                self._note_state(change, found, position)
        is_in_line = received.before is None and received.outlier is None
        if not received.is_history and not (is_in_line and change.tail.state_nid == state_after):
            found.room_state = change.tail.state_nid
        row = make_row(  # 4
            self._dictionary,
            change,
            event,
            number,
            state=(state_before, state_after),
            flags=flags | received.marks,
            auth_events=received.auth_events,
            replaces=None if replaced is None else replaced.event_nid,
            parents=received.parents,
            room_state=found.room_state,
        )
        row = self._store(change, received, row)
        if not flags:
            self._show(change, received, found, row)  # 6
        if template is not None:
            self._changes.note_transaction(change, template, found)
        states = {} if after is None else {state_after: after.state}
        if received.before is not None:
            states[state_before] = received.before.state
        return Taken(node_of(event, row), states, found)

    def _judge(self, change: RoomChange, received: ReceivedEvent) -> int:
        """Return the flags of an event that is refused; 0 if it is not."""
        tips = {tip.event_id for tip in change.tips}
        is_next = tips == set(received.event.prev_events) and not received.is_history
        if received.before is None and not is_next:
            raise Moved("extremities")
        if received.is_rejected:
            return REJECTED
        if received.is_unwanted:
            return SOFT_FAILED
        if received.is_history or self._is_allowed_now(change, received):
            return 0
        return REJECTED if received.before is None else SOFT_FAILED

    def _is_allowed_now(self, change: RoomChange, received: ReceivedEvent) -> bool:
        """Check an event by the current state.

        NOTSPEC: the branch it comes by counts as part of the current state. Behind a gap, that
        branch alone may know who has joined; what took rights away wins in the resolution.
        """
        event = received.event
        auth: dict[Slot, Event] = {}
        wanted = auth_types_of(
            change.room.version, event.type, event.sender, event.state_key, event.content
        )
        for slot in (*wanted, _CREATE):
            found = change.find_state(slot)
            if found is not None:
                auth[slot] = found.event
        if change.room.is_partial:
            auth = add_members(auth, received.cited)
        if _is_allowed(event, auth):
            return True
        if received.before is None:
            return False
        room = change.room
        resolved = self._state_at.resolve(room, [change.whole_state(), received.before.state])
        return _is_allowed(event, self._state_at.authorizing(room, resolved, event))

    def _find_replaced(self, change: RoomChange, received: ReceivedEvent) -> TimelineEvent | None:
        """Return the state event that held the slot before, in the event's own branch."""
        event = received.event
        if event.state_key is None:
            return None
        if received.before is None:
            return change.find_state((event.type, event.state_key))
        slot_nid = slot_number(self._dictionary, event)
        assert slot_nid is not None
        number = received.before.state.get(slot_nid)
        return None if number is None else find_event(change, number)

    def _tips_after(
        self, change: RoomChange, received: ReceivedEvent, found: TimelineEvent
    ) -> tuple[Tip, ...]:
        """Return the extremities with an event that is let in.

        There are never more than one event can have parents. If there would be, the server that
        has the most loses its oldest, which counts again once somebody builds on it: who opens
        branch after branch only displaces his own.
        """
        assert found.state_after is not None
        tips = [tip for tip in change.tips if tip.event_nid not in received.covered]
        if not received.has_child or not tips:
            tips.append(make_tip(found.event, found.event_nid, found.state_after))
        if len(tips) > MAX_PREV_EVENTS:
            servers = [tip.server for tip in tips]
            most = max(servers, key=servers.count)
            tips.remove(next(tip for tip in tips if tip.server == most))
        return tuple(tips)

    def _move(
        self,
        change: RoomChange,
        after: Snapshot,
        found: TimelineEvent,
        position: int,
        fresh: Node,
    ) -> None:
        """Bring the current state to what the extremities resolve to.

        `after` is the state after the event, which is an extremity or below one.
        """
        room = change.room
        branches: dict[int, State] = {}
        for tip in change.tips:
            if tip.event_nid == found.event_nid:
                branches[tip.state_nid] = after.state
                continue
            state = self._states.find_state(room.room_nid, tip.state_nid)
            if state is None:
                raise NotLoaded("state", graph=Wanted(states=[tip.state_nid]))
            branches[tip.state_nid] = state
        resolved = self._state_at.resolve_with(room, fresh, list(branches.values()))
        before = change.whole_state()
        slots = [slot for slot, nid in resolved.items() if before.get(slot) != nid]
        slots += before.keys() - resolved.keys()
        if not slots:
            return
        assert change.tail is not None
        changed = [(slot, resolved.get(slot, REMOVED)) for slot in slots]
        if resolved == after.state:
            change.tail = after.tail
        else:
            change.tail, state_row = self._states.append(
                room.room_nid,
                change.tail,
                before,
                changed,
                whole=lambda: dict(before),
                size=len(before),
            )
            change.add_state_row(state_row)
        change.state.update(changed)
        self._note_changes(change, changed, found, position)

    def _note_changes(
        self,
        change: RoomChange,
        changed: Sequence[tuple[int, int]],
        found: TimelineEvent,
        position: int,
    ) -> None:
        """Let what the current state has become take effect; members last, as they see the rest."""
        members: list[tuple[UserID, TimelineEvent | None]] = []
        unknown = [nid for nid, _ in changed if self._dictionary.find_slot_name(nid) is None]
        if unknown:
            raise NotLoaded("slots", graph=Wanted(slot_nids=unknown))
        for slot_nid, number in changed:
            slot = self._dictionary.find_slot_name(slot_nid)
            assert slot is not None
            now: TimelineEvent | None = None
            if number == found.event_nid:
                now = found
            elif number != REMOVED:
                now = find_event(change, number)
            change.state_events[slot] = now
            if slot[0] == MEMBER:
                members.append((UserID(slot[1]), now))
        for user_id, member in members:
            if member is None:
                self._changes.set_member(change, user_id, "leave", position, None)
            else:
                self._changes.take_in_membership(change, member, position)

    def _note_state(self, change: RoomChange, found: TimelineEvent, position: int) -> None:
        event = found.event
        change.state_events[(event.type, event.state_key or "")] = found
        if event.type == MEMBER:
            self._changes.take_in_membership(change, found, position)

    def _store(self, change: RoomChange, received: ReceivedEvent, row: NewEvent) -> NewEvent:
        """Put the row into the change; return it as it will be stored."""
        note_parents(change, row, received.missing_parents)
        if received.outlier is None:
            change.event_rows.append(row)
            return row
        assert row.state_before is not None
        assert row.state_after is not None
        change.received.placed.append(
            PlacedEvent(
                row.room_nid,
                row.event_nid,
                row.state_before,
                row.state_after,
                row.replaces,
                row.flags | HISTORICAL,
                row.prev_events,
                row.room_state,
            )
        )
        return row

    def _show(
        self,
        change: RoomChange,
        received: ReceivedEvent,
        found: TimelineEvent,
        row: NewEvent,
    ) -> None:
        event = received.event
        room = change.room
        if received.outlier is None and not received.is_history:
            change.new_events.append(found)
        relation = new_relation(room.version, event, row)
        if relation is not None:
            change.relation_rows.append(relation)
            if change.new_events[-1:] != [found] and _is_recent(room, relation.parent_id):
                change.forgets_recent = True  # they know but the children that came in their turn
        if received.redaction is not None:
            change.redactions.append((found.event_nid, received.redaction.event_nid))
        if received.redacted is not None:
            change.redactions.append((received.redacted.event_nid, found.event_nid))
            change.redaction_events.append((received.redacted, found))
        elif received.target_is_unknown and event.redacts is not None:
            try:
                target_id = encode_event_id(room.version, event.redacts)
            except ValueError:
                return  # no event of this room version has such an id
            change.received.waiting_redactions.append(
                WaitingRedaction(room.room_nid, target_id, found.event_nid)
            )


def add_members(auth: Mapping[Slot, Event], cited: Sequence[Node]) -> dict[Slot, Event]:
    """Add the members that a state may lack, if it lacks them, as an event itself cites them."""
    members = {
        (MEMBER, node.event.state_key or ""): node.event
        for node in cited
        if node.event.type == MEMBER and not node.is_rejected
    }
    return members | dict(auth)


def _is_allowed(event: Event, auth: Mapping[Slot, Event]) -> bool:
    try:
        check_event_auth(event, auth)
    except EventRejected:
        return False
    return True


def _is_recent(room: LiveRoom, stored_id: bytes) -> bool:
    event_id = decode_event_id(room.version, stored_id)
    return any(found.event_id == event_id for found in room.recent)


def _as_shown(found: TimelineEvent) -> Event:
    return redact_event(found.event) if found.is_redacted else found.event
