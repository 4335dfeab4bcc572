import zlib
from random import Random
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.core.state_map import (
    REMOVED,
    StateSet,
    apply_changes,
    pack_changes,
    pack_checkpoint,
    unpack_changes,
    unpack_checkpoint,
)

SLOTS = st.integers(0, 2**62 - 1) | st.integers(0, 20)
EVENTS = st.integers(1, 2**62 - 1) | st.integers(1, 20)
STATES = st.dictionaries(SLOTS, EVENTS, max_size=40)
CHANGES = st.lists(
    st.lists(
        st.tuples(SLOTS, EVENTS | st.just(REMOVED)), min_size=1, unique_by=lambda pair: pair[0]
    ),
    max_size=10,
)
HASHES = StateSet(b"k" * 32)
BRIEF = settings(deadline=None, max_examples=60)


@BRIEF
@given(STATES)
def test_a_checkpoint_gives_its_state_back(state: dict[int, int]) -> None:
    assert unpack_checkpoint(pack_checkpoint(state)) == state


@BRIEF
@given(STATES, st.randoms())
def test_checkpoint_and_hash_do_not_depend_on_order(state: dict[int, int], random: Random) -> None:
    pairs = list(state.items())
    random.shuffle(pairs)
    shuffled = dict(pairs)

    assert pack_checkpoint(shuffled) == pack_checkpoint(state)
    assert HASHES.hash_state(shuffled) == HASHES.hash_state(state)


@BRIEF
@given(STATES, CHANGES)
def test_the_hash_follows_every_change(
    state: dict[int, int], changes: list[list[tuple[int, int]]]
) -> None:
    state_hash = HASHES.hash_state(state)

    for change in changes:
        state_hash = HASHES.hash_after(state_hash, state, change)
        apply_changes(state, pack_changes([change]), 1)

        assert state_hash == HASHES.hash_state(state)


@BRIEF
@given(STATES, STATES)
def test_different_states_have_different_hashes(one: dict[int, int], other: dict[int, int]) -> None:
    assert (HASHES.hash_state(one) == HASHES.hash_state(other)) is (one == other)


def test_exchanged_events_change_the_hash() -> None:
    assert HASHES.hash_state({1: 2, 3: 4}) != HASHES.hash_state({1: 4, 3: 2})


def test_the_hash_depends_on_the_key_and_fits_16_bytes() -> None:
    state = {slot: slot + 1 for slot in range(1000)}

    assert HASHES.hash_state(state) != StateSet(b"x" * 32).hash_state(state)
    assert len(HASHES.hash_state(state).to_bytes(16, "big")) == 16
    assert HASHES.hash_state({}) == 0


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        StateSet(b"short")


@BRIEF
@given(CHANGES, CHANGES)
def test_packed_changes_are_appended_by_concatenation(
    first: list[list[tuple[int, int]]], second: list[list[tuple[int, int]]]
) -> None:
    assert unpack_changes(pack_changes(first) + pack_changes(second)) == first + second


@BRIEF
@given(STATES, CHANGES, st.data())
def test_the_first_changes_are_applied_and_no_more(
    state: dict[int, int], changes: list[list[tuple[int, int]]], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(changes)))
    expected = dict(state)
    for change in changes[:count]:
        expected |= dict(change)
    expected = {slot: event for slot, event in expected.items() if event != REMOVED}

    apply_changes(state, pack_changes(changes), count)

    assert state == expected


def test_missing_changes_are_reported() -> None:
    with pytest.raises(ValueError, match="1 changes are missing"):
        apply_changes({}, pack_changes([[(1, 2)]]), 2)


def test_a_change_without_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="without pairs"):
        pack_changes([[(1, 2)], []])


@pytest.mark.parametrize("state", [{}, {1: 2}, {2**32: 1}, {1: 2**32}])
def test_a_checkpoint_of_another_format_or_cut_short_is_refused(state: dict[int, int]) -> None:
    packed = pack_checkpoint(state)

    with pytest.raises(ValueError, match="known format"):
        unpack_checkpoint(b"XX" + packed[2:])
    with pytest.raises(zlib.error):
        unpack_checkpoint(packed[:-1])


def test_a_hundred_thousand_slots_take_six_bytes_each_and_are_read_at_once() -> None:
    random = Random(1)
    slots = random.sample(range(2_000_000), 100_000)
    state = {slot: random.randrange(1, 20_000_000) for slot in slots}
    packed = pack_checkpoint(state)

    started = process_time()
    unpacked = unpack_checkpoint(packed)

    assert process_time() - started < 0.5
    assert len(packed) < 6 * len(state)
    assert unpacked == state
