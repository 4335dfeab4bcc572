"""Rows of the chains of room states."""

import pytest

from homeserver.core.identifiers import RoomID
from homeserver.core.state_map import pack_changes, pack_checkpoint
from homeserver.storage import rooms, state_segments
from homeserver.storage.query import Txn
from homeserver.storage.state_segments import Growth, Segment, SegmentMoved


@pytest.fixture
def room_nid(txn: Txn) -> int:
    found = rooms.insert_room(txn, RoomID("!a:hs.test"), "11")
    assert found is not None
    return found


def segment(room_nid: int, segment_nid: int, base: int, parent: int | None = None) -> Segment:
    return Segment(
        room_nid=room_nid,
        segment_nid=segment_nid,
        parent_state=parent,
        base_segment=base,
        checkpoint=pack_checkpoint({1: 1}) if segment_nid == base else None,
        changes=b"" if segment_nid == base else pack_changes([[(1, segment_nid)]]),
        change_count=0 if segment_nid == base else 1,
        since_checkpoint=0,
        state_hash=bytes(16),
    )


def growth(room_nid: int, before: int, changes: int, byte: bytes = b"h") -> Growth:
    return Growth(
        room_nid=room_nid,
        segment_nid=1,
        changes=pack_changes([[(1, n + 2)] for n in range(changes)]),
        count_before=before,
        change_count=before + changes,
        state_hash=byte * 16,
    )


def test_a_segment_is_read_back_as_it_was_written(txn: Txn, room_nid: int) -> None:
    written = [segment(room_nid, 1, 1), segment(room_nid, 2, 1, parent=1 << 7)]

    state_segments.insert_segments(txn, written)

    assert [state_segments.find_segment(txn, room_nid, nid) for nid in (1, 2)] == written
    assert state_segments.find_segment(txn, room_nid, 3) is None
    assert state_segments.max_segment_nid(txn) >= 2


def test_growth_goes_to_the_end(txn: Txn, room_nid: int) -> None:
    state_segments.insert_segments(txn, [segment(room_nid, 1, 1)])

    state_segments.append_changes(txn, [growth(room_nid, 0, 2), growth(room_nid, 2, 1, b"i")])

    found = state_segments.find_segment(txn, room_nid, 1)
    assert found is not None
    assert found.changes == growth(room_nid, 0, 2).changes + growth(room_nid, 2, 1).changes
    assert (found.change_count, found.state_hash) == (3, b"i" * 16)


@pytest.mark.parametrize("before", [0, 2])
def test_growth_from_another_end_is_refused(txn: Txn, room_nid: int, before: int) -> None:
    state_segments.insert_segments(txn, [segment(room_nid, 1, 1)])
    state_segments.append_changes(txn, [growth(room_nid, 0, 1)])

    with pytest.raises(SegmentMoved):
        state_segments.append_changes(txn, [growth(room_nid, before, 1)])


def test_a_chain_goes_back_to_its_checkpoint_and_leaves_out_other_forks(
    txn: Txn, room_nid: int
) -> None:
    other = rooms.insert_room(txn, RoomID("!b:hs.test"), "11")
    assert other is not None
    state_segments.insert_segments(
        txn,
        [
            segment(room_nid, 1, 1),
            segment(room_nid, 2, 1, parent=1 << 7),
            segment(other, 3, 3),
            segment(room_nid, 4, 4),
            segment(room_nid, 5, 4, parent=4 << 7),
            segment(room_nid, 6, 4, parent=4 << 7),
            segment(room_nid, 7, 4, parent=5 << 7 | 1),
        ],
    )

    def chain(segment_nid: int) -> list[int]:
        found = state_segments.list_chain(txn, room_nid, segment_nid)
        return sorted(one.segment_nid for one in found)

    assert chain(6) == [4, 6]
    assert chain(7) == [4, 5, 7]
    assert chain(2) == [1, 2]
