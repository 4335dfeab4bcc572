"""Room state as numbers, packed for storage and hashed for comparison.

A state maps slots, the numbers of (type, state_key) pairs, to event numbers.
Invariant: equal states have equal hashes and equal checkpoints, whatever the order in which they
came about; applying the packed changes since a checkpoint to it gives the state after them.
"""

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import sub

State = dict[int, int]
Change = Sequence[tuple[int, int]]
"""Slots and their new events, REMOVED for a slot that goes."""

REMOVED = 0

_HASH_BYTES = 16
_HASH_MODULUS = 1 << 8 * _HASH_BYTES
_PAIR = struct.Struct("<qq")
_NARROW = b"SC1I"
_WIDE = b"SC1Q"
_FAST = 1


class StateSet:
    """The hash of a set of (slot, event) pairs: the sum of the pairs' keyed hashes.

    The key is secret and of one server, so nobody outside can look for states that collide.
    """

    __slots__ = ("_keyed",)

    def __init__(self, key: bytes) -> None:
        """Take a key of 16 to 64 bytes."""
        if len(key) < _HASH_BYTES:
            raise ValueError(f"the key of a state hash needs at least {_HASH_BYTES} bytes")
        self._keyed = hashlib.blake2b(key=key, digest_size=_HASH_BYTES)

    def hash_pair(self, slot: int, event: int) -> int:
        keyed = self._keyed.copy()
        keyed.update(_PAIR.pack(slot, event))
        return int.from_bytes(keyed.digest(), "big")

    def hash_state(self, state: Mapping[int, int]) -> int:
        """Return the hash of a whole state, below 2^128. Cost: about a microsecond a slot."""
        return sum(map(self.hash_pair, state, state.values())) % _HASH_MODULUS

    def hash_after(self, state_hash: int, state: Mapping[int, int], change: Change) -> int:
        """Return the hash after a change, given hash and state before it.

        The change names each slot at most once.
        """
        for slot, event in change:
            old = state.get(slot, REMOVED)
            if old != REMOVED:
                state_hash -= self.hash_pair(slot, old)
            if event != REMOVED:
                state_hash += self.hash_pair(slot, event)
        return state_hash % _HASH_MODULUS


def pack_checkpoint(state: Mapping[int, int]) -> bytes:
    """Pack a whole state of non-negative numbers.

    1. Slots are sorted and stored as differences; the events follow in the same order.
    2. Each column is split into planes of bytes of equal significance, which compress well.
    """
    slots = sorted(state)
    events = [state[slot] for slot in slots]
    is_narrow = max((*slots[-1:], *events), default=0) < 1 << 32
    letter, width = ("I", 4) if is_narrow else ("Q", 8)
    steps = map(sub, slots, [0, *slots[:-1]])  # 1
    columns = struct.pack(f"<{2 * len(slots)}{letter}", *steps, *events)
    planes = b"".join(columns[plane::width] for plane in range(width))  # 2
    return (_NARROW if is_narrow else _WIDE) + zlib.compress(planes, _FAST)


def unpack_checkpoint(packed: bytes) -> State:
    """Raises ValueError for another format and zlib.error for damaged bytes."""
    form = packed[: len(_NARROW)]
    if form not in {_NARROW, _WIDE}:
        raise ValueError("not a checkpoint of a known format")
    letter, width = ("I", 4) if form == _NARROW else ("Q", 8)
    planes = zlib.decompress(memoryview(packed)[len(form) :])
    size = len(planes) // width
    columns = bytearray(len(planes))
    for plane in range(width):
        columns[plane::width] = planes[plane * size : (plane + 1) * size]
    numbers = struct.unpack(f"<{size}{letter}", columns)
    return dict(zip(accumulate(numbers[: size // 2]), numbers[size // 2 :], strict=True))


def pack_changes(changes: Sequence[Change]) -> bytes:
    """Pack changes so that later ones are appended by concatenating bytes.

    Each pair is two int64; the lowest bit of the first says that the pair belongs to the same
    change as the pair before it. A change has at least one pair.
    """
    if not all(changes):
        raise ValueError("a change without pairs cannot be packed")
    return b"".join(
        _PAIR.pack(slot << 1 | (place > 0), event)
        for change in changes
        for place, (slot, event) in enumerate(change)
    )


def unpack_changes(packed: bytes) -> list[list[tuple[int, int]]]:
    changes: list[list[tuple[int, int]]] = []
    for marked_slot, event in _PAIR.iter_unpack(packed):
        if not marked_slot & 1:
            changes.append([])
        changes[-1].append((marked_slot >> 1, event))
    return changes


def apply_changes(state: State, packed: bytes, count: int) -> None:
    """Bring a state forward, in place, by the first `count` changes.

    Raises ValueError when there are fewer, with the state then unusable.
    """
    for marked_slot, event in _PAIR.iter_unpack(packed):
        if not marked_slot & 1:
            if not count:
                return
            count -= 1
        if event == REMOVED:
            state.pop(marked_slot >> 1, None)
        else:
            state[marked_slot >> 1] = event
    if count:
        raise ValueError(f"{count} changes are missing")
