"""Events in the database: order, visibility flags, redaction, identifiers."""

from collections.abc import Sequence
from typing import Any

import pytest

from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.storage import dictionaries, events, rooms
from homeserver.storage.events import NewEvent, StoredEvent, decode_event_id, encode_event_id
from homeserver.storage.query import Txn

ALICE = UserID("@alice:hs.test")
START, END = (-1, -1), (2**62, 2**62)


class Room:
    """Rows of one room; every event is of the same type and sender."""

    def __init__(self, txn: Txn, room_id: str = "!a:hs.test") -> None:
        self.txn = txn
        found = rooms.insert_room(txn, RoomID(room_id), "11")
        assert found is not None
        self.nid = found
        self._sender_nid = dictionaries.intern_users(txn, [ALICE])[ALICE]
        self._type_nid = dictionaries.intern_types(txn, ["m.test"])["m.test"]

    def row(self, event_nid: int, depth: int, **values: Any) -> NewEvent:
        fields: dict[str, Any] = {
            "event_id": event_nid.to_bytes(32, "big"),
            "slot_nid": None,
            "state_before": 1,
            "state_after": 1,
            "replaces": None,
            "flags": 0,
            "auth_events": [],
            "pdu": b'{"nid":%d}' % event_nid,
        }
        return NewEvent(
            room_nid=self.nid,
            event_nid=event_nid,
            type_nid=self._type_nid,
            sender_nid=self._sender_nid,
            depth=depth,
            origin_server_ts=0,
            prev_events=[],
            **{**fields, **values},
        )

    def add(self, event_nid: int, depth: int, **values: Any) -> None:
        events.insert_events(self.txn, [self.row(event_nid, depth, **values)])

    def backwards(self, before: tuple[int, int] = END, limit: int = 100) -> list[int]:
        return nids(events.list_timeline_backwards(self.txn, self.nid, before, START, limit))


def nids(found: Sequence[StoredEvent]) -> list[int]:
    return [event.event_nid for event in found]


def test_the_timeline_goes_by_depth_and_then_by_arrival(txn: Txn) -> None:
    room = Room(txn)
    for event_nid, depth in ((1, 1), (2, 3), (3, 2), (4, 3)):
        room.add(event_nid, depth)

    assert room.backwards() == [4, 2, 3, 1]
    assert room.backwards(before=(3, 4)) == [2, 3, 1]
    assert room.backwards(limit=2) == [4, 2]
    forwards = events.list_timeline_forwards(txn, room.nid, (2, 3), END, 100)
    assert nids(forwards) == [2, 4]


def test_both_ends_of_a_page_are_exclusive(txn: Txn) -> None:
    room = Room(txn)
    for event_nid in range(1, 6):
        room.add(event_nid, event_nid)

    backwards = events.list_timeline_backwards(txn, room.nid, (5, 5), (1, 1), 100)
    forwards = events.list_timeline_forwards(txn, room.nid, (1, 1), (5, 5), 100)

    assert nids(backwards) == [4, 3, 2]
    assert nids(forwards) == [2, 3, 4]


def test_the_stream_goes_by_arrival(txn: Txn) -> None:
    room, other = Room(txn), Room(txn, "!b:hs.test")
    for event_nid, depth in ((1, 9), (3, 2), (5, 5)):
        room.add(event_nid, depth)
    other.add(2, 1)

    assert nids(events.list_stream_backwards(txn, room.nid, 5, 1, 100)) == [5, 3]
    assert nids(events.list_stream_forwards(txn, room.nid, 1, 5, 100)) == [3, 5]
    assert nids(events.list_stream_forwards(txn, room.nid, 0, 4, 1)) == [1]


@pytest.mark.parametrize("flag", [events.OUTLIER, events.REJECTED, events.SOFT_FAILED])
def test_attack_8_hidden_events_are_in_no_timeline(txn: Txn, flag: int) -> None:
    room = Room(txn)
    room.add(1, 1)
    room.add(2, 2, flags=flag)

    assert room.backwards() == [1]
    assert nids(events.list_timeline_forwards(txn, room.nid, START, END, 9)) == [1]
    assert nids(events.list_stream_backwards(txn, room.nid, 9, 0, 9)) == [1]
    assert nids(events.list_stream_forwards(txn, room.nid, 0, 9, 9)) == [1]


def test_historical_events_are_in_the_timeline_but_not_in_the_stream(txn: Txn) -> None:
    room = Room(txn)
    room.add(1, 5)
    room.add(2, 2, flags=events.HISTORICAL)

    assert room.backwards() == [1, 2]
    assert nids(events.list_stream_backwards(txn, room.nid, 9, 0, 9)) == [1]


def test_the_first_redaction_stands(txn: Txn) -> None:
    room = Room(txn)
    for event_nid in (1, 2, 3):
        room.add(event_nid, event_nid)

    events.update_redacted_by(txn, room.nid, 1, 2)
    events.update_redacted_by(txn, room.nid, 1, 3)

    (found,) = events.list_events(txn, room.nid, [1])
    assert found.redaction_pdu == b'{"nid":2}'


def test_an_event_knows_what_it_replaced_and_whether_that_was_redacted(txn: Txn) -> None:
    room = Room(txn)
    room.add(1, 1)
    room.add(2, 2, replaces=1)
    (before,) = events.list_events(txn, room.nid, [2])

    room.add(3, 3)
    events.update_redacted_by(txn, room.nid, 1, 3)

    (after,) = events.list_events(txn, room.nid, [2])
    assert before.replaced_pdu == after.replaced_pdu == b'{"nid":1}'
    assert (before.is_replaced_redacted, after.is_replaced_redacted) == (False, True)


def test_an_event_is_found_only_in_its_room(txn: Txn) -> None:
    room, other = Room(txn), Room(txn, "!b:hs.test")
    room.add(1, 1)
    event_id = (1).to_bytes(32, "big")

    assert events.find_event_nid(txn, room.nid, event_id) == 1
    assert events.find_event_nid(txn, other.nid, event_id) is None
    assert events.list_events(txn, other.nid, [1]) == []
    assert (events.has_event(txn, room.nid, 1), events.has_event(txn, other.nid, 1)) == (
        True,
        False,
    )


def test_the_newest_number_counts_hidden_events_too(txn: Txn) -> None:
    room = Room(txn)
    room.add(10**12, 1, flags=events.REJECTED)

    assert events.max_event_nid(txn) == 10**12


@pytest.mark.parametrize(
    ("version", "event_id"),
    [
        ("1", "$abc:hs.test"),
        ("3", "$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk"),
        ("11", "$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"),
    ],
)
def test_event_ids_come_back_as_they_were(version: str, event_id: str) -> None:
    stored = encode_event_id(ROOM_VERSIONS[version], EventID(event_id))

    assert decode_event_id(ROOM_VERSIONS[version], stored) == event_id
    assert version == "1" or len(stored) == 32


def test_a_page_has_what_was_done_to_its_events(txn: Txn) -> None:
    room = Room(txn)
    room.add(1, 1)
    room.add(2, 2, pdu='{"a":"\u00e4"}'.encode())
    room.add(3, 3, replaces=1)
    room.add(4, 4)
    events.update_redacted_by(txn, room.nid, 2, 4)

    backwards = events.list_timeline_backwards(txn, room.nid, END, START, 9)
    forwards = events.list_timeline_forwards(txn, room.nid, START, END, 9)

    assert nids(backwards) == [4, 3, 2, 1]
    assert backwards == forwards[::-1]
    assert [event.replaced_pdu for event in forwards] == [None, None, b'{"nid":1}', None]
    assert [event.redaction_pdu for event in forwards] == [None, b'{"nid":4}', None, None]
    assert sorted(forwards) == sorted(events.list_events(txn, room.nid, [1, 2, 3, 4]))


def test_many_events_are_stored_as_few_are(txn: Txn) -> None:
    few, many = Room(txn), Room(txn, "!b:hs.test")
    pdu = '{"text":"ä\\\\n\\t"}'.encode()
    rows = [
        few.row(n, n, event_id=n.to_bytes(32), pdu=pdu, slot_nid=n or None, auth_events=[n])
        for n in range(60)
    ]
    for row in rows:
        events.insert_events(txn, [row])
    events.insert_events(txn, [row._replace(room_nid=many.nid) for row in rows])

    numbers = list(range(60))
    assert events.list_events(txn, many.nid, numbers) == events.list_events(txn, few.nid, numbers)
    assert len(many.backwards()) == 60


@pytest.mark.parametrize("last", "BCDfh-_")
def test_an_id_with_bits_to_spare_is_none_of_a_hash(last: str) -> None:
    event_id = EventID("$" + "A" * 42 + last)

    with pytest.raises(ValueError, match="not written as"):
        encode_event_id(ROOM_VERSIONS["11"], event_id)
