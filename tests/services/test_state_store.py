"""Room states by number: hundreds of changes, every historic state, and what storing them costs."""

import random

import pytest

from homeserver.core.identifiers import RoomID
from homeserver.core.state_map import State
from homeserver.engine.state_store import StateStore, Tail
from homeserver.storage import rooms, state_segments
from homeserver.storage.query import Txn, fetch_value
from homeserver.storage.state_segments import Growth, Segment, SegmentMoved
from tests.database import InlineDatabase
from tests.results import result_of

MEMBERS = 2_000
CHANGES = 1_500
MAX_BYTES_A_CHANGE = 60


class Room:
    """A room whose state changes through the store, and a plain dictionary beside it."""

    def __init__(
        self,
        database: InlineDatabase,
        room_id: str = "!a:hs.test",
        store: StateStore | None = None,
    ) -> None:
        self.database = database
        room_nid = result_of(database.run(rooms.insert_room, RoomID(room_id), "11"))
        assert room_nid is not None
        self.room_nid = room_nid
        self.store = store or opened(database)
        self.tail, first = self.store.first_segment(self.room_nid)
        self.write(first)
        self.state: State = {}

    def write(self, row: Segment | Growth) -> None:
        if isinstance(row, Segment):
            result_of(self.database.run(state_segments.insert_segments, [row]))
        else:
            result_of(self.database.run(state_segments.append_changes, [row]))

    def change(self, slot: int, event: int) -> int:
        """Return the number of the new state."""
        before = {slot: self.state[slot]} if slot in self.state else {}
        self.tail, row = self.store.append(
            self.room_nid,
            self.tail,
            before,
            [(slot, event)],
            whole=lambda: dict(self.state),
            size=len(self.state),
        )
        self.state[slot] = event
        self.write(row)
        return self.tail.state_nid


def opened(database: InlineDatabase) -> StateStore:
    store = StateStore(database)
    result_of(store.start())
    return store


@pytest.mark.parametrize("slots", [1, 5, 700])
def test_every_historic_state_loads_as_it_was(database: InlineDatabase, slots: int) -> None:
    chosen = random.Random(slots)
    room = Room(database)
    history = {}
    for event in range(1, 900):
        state_nid = room.change(chosen.randrange(1, slots + 1), event)
        history[state_nid] = dict(room.state)

    anew = opened(database)

    assert len(history) == 899
    assert all(
        result_of(anew.load_state(room.room_nid, nid)) == state for nid, state in history.items()
    )


def test_the_current_state_is_found_again_and_goes_on(database: InlineDatabase) -> None:
    room = Room(database)
    for event in range(1, 300):
        room.change(event % 7 + 1, event)

    tail, state = result_of(opened(database).load_current(room.room_nid, room.tail.state_nid))

    assert (tail, state) == (room.tail, room.state)


def test_what_memory_gives_out_is_not_altered_by_what_comes_later(
    database: InlineDatabase,
) -> None:
    room = Room(database)
    first = room.change(1, 1)
    loaded = result_of(room.store.load_state(room.room_nid, first))

    room.change(1, 2)

    assert loaded == {1: 1}
    _, current = result_of(room.store.load_current(room.room_nid, room.tail.state_nid))
    current[1] = 99
    assert result_of(room.store.load_state(room.room_nid, room.tail.state_nid)) == {1: 2}


def test_equal_states_have_equal_hashes_whatever_the_way_there(database: InlineDatabase) -> None:
    one, other = Room(database), Room(database, "!b:hs.test")
    for slot in range(1, 200):
        one.change(slot, slot)
    for slot in reversed(range(1, 200)):
        other.change(slot, 1000 + slot)
        other.change(slot, slot)

    assert one.state == other.state
    assert one.tail.state_hash == other.tail.state_hash


def test_segments_of_two_rooms_do_not_mix(database: InlineDatabase) -> None:
    one = Room(database)
    other = Room(database, "!b:hs.test", one.store)
    history = []
    for event in range(1, 400):
        room = (one, other)[event % 2]
        history.append((room, room.change(event % 5, event), dict(room.state)))

    anew = opened(database)

    assert all(result_of(anew.load_state(r.room_nid, nid)) == state for r, nid, state in history)


def test_a_writer_that_does_not_know_the_newest_change_is_refused(
    database: InlineDatabase,
) -> None:
    room = Room(database)
    room.change(1, 1)
    stale: Tail = room.tail
    room.change(1, 2)

    _, row = room.store.append(room.room_nid, stale, {1: 1}, [(1, 3)], whole=lambda: {1: 1}, size=1)

    with pytest.raises(SegmentMoved):
        room.write(row)
    assert result_of(opened(database).load_state(room.room_nid, room.tail.state_nid)) == {1: 2}


def test_a_change_in_a_large_room_costs_few_bytes(database: InlineDatabase) -> None:
    chosen = random.Random(1)
    room = Room(database)
    for slot in range(1, MEMBERS + 1):
        room.change(slot, slot)
    before = result_of(database.run(_stored_bytes, room.room_nid))

    for event in range(MEMBERS + 1, MEMBERS + CHANGES + 1):
        room.change(chosen.randrange(1, MEMBERS + 1), event)

    after = result_of(database.run(_stored_bytes, room.room_nid))
    assert (after - before) / CHANGES < MAX_BYTES_A_CHANGE


def _stored_bytes(txn: Txn, room_nid: int) -> int:
    """Return the size of the rows as stored, headers and keys of index included, roughly."""
    return fetch_value(
        txn,
        int,
        "SELECT sum(pg_column_size(s.*) + 24 + 24)::bigint FROM state_segments AS s"
        " WHERE room_nid = %s",
        (room_nid,),
    )
