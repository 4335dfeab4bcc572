"""From events of other servers to rows.

Invariant: what a row says of parents is completed when a missing one comes.
"""

from collections.abc import Collection, Sequence

from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.not_loaded import NotLoaded, Wanted
from homeserver.engine.room_change import RoomChange
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.storage.event_graph import MissingParent, StatePlace
from homeserver.storage.events import NewEvent, encode_event_id


def find_event(change: RoomChange, number: int) -> TimelineEvent:
    """Return an event that is in memory. Raises NotLoaded."""
    for found in (*change.new_events, *change.room.recent):
        if found.event_nid == number:
            return found
    awaited = change.room.awaited.get(number)
    if awaited is None:
        raise NotLoaded("event", graph=Wanted(timeline=[number]))
    return awaited


def slot_number(dictionary: Dictionary, event: Event) -> int | None:
    if event.state_key is None:
        return None
    slot = (event.type, event.state_key)
    number = dictionary.find_slot(*slot)
    if number is None:
        raise NotLoaded("slot number", slot=slot)
    return number


def make_row(
    dictionary: Dictionary,
    change: RoomChange,
    event: Event,
    number: int,
    *,
    state: tuple[int, int] | None,
    flags: int,
    auth_events: Sequence[int],
    replaces: int | None = None,
    parents: Sequence[int] = (),
    room_state: int | None = None,
) -> NewEvent:
    type_nid = dictionary.find_type(event.type)
    sender_nid = dictionary.find_user(event.sender)
    if type_nid is None or sender_nid is None:
        raise NotLoaded("number", user=event.sender, event_type=event.type)
    return NewEvent(
        room_nid=change.room.room_nid,
        event_nid=number,
        event_id=encode_event_id(change.room.version, event.event_id),
        type_nid=type_nid,
        sender_nid=sender_nid,
        slot_nid=slot_number(dictionary, event),
        depth=event.depth,
        origin_server_ts=event.origin_server_ts,
        state_before=None if state is None else state[0],
        state_after=None if state is None else state[1],
        replaces=replaces,
        flags=flags,
        prev_events=parents,
        auth_events=auth_events,
        pdu=event.pdu_bytes,
        room_state=room_state,
    )


def will_store(change: RoomChange, event_ids: Collection[EventID]) -> bool:
    """Tell whether the change brings a row of one of these events already."""
    if not change.event_rows:
        return False
    rows = {row.event_id for row in change.event_rows}
    return any(encode_event_id(change.room.version, event_id) in rows for event_id in event_ids)


def note_parents(change: RoomChange, row: NewEvent, missing: Sequence[EventID]) -> None:
    """Remember whom an event still waits for; those who waited for it need not any more."""
    room = change.room
    change.received.now_known.append((room.room_nid, row.event_nid, row.event_id))
    for parent_id in missing:
        stored_id = encode_event_id(room.version, parent_id)
        change.received.missing_parents.append(
            MissingParent(room.room_nid, row.event_nid, stored_id)
        )


def place_of(row: NewEvent) -> StatePlace:
    return StatePlace(row.event_id, row.event_nid, row.slot_nid, row.flags)
