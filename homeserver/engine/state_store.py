"""Room states by number: how a new one is written, and how a historic one is read.

State id = segment_nid * 128 + n, the state after the first n changes of the segment; see
`storage/state_segments.py`. A change goes to the end of the last segment; a full checkpoint is
written when the changes since the last one reach max(128, size / 4), which keeps both the storage
of a change and the reading of any state proportional to what they must be.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from homeserver.core.state_map import (
    REMOVED,
    Change,
    State,
    StateSet,
    apply_changes,
    pack_changes,
    pack_checkpoint,
    unpack_checkpoint,
)
from homeserver.engine.streams import Stream
from homeserver.storage import server_identity, state_segments
from homeserver.storage.database import Database
from homeserver.storage.state_segments import Growth, Segment

_CHANGES_BITS = 7
_MAX_CHANGES = (1 << _CHANGES_BITS) - 1
_MIN_CHECKPOINT_SPACING = 128
_MAX_GROWTH = 8
"""Slots one change may have without counting as several towards the next checkpoint."""
_CACHED_STATES = 200
_CACHED_SLOTS = 500_000
"""Some 60 MB."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of the segment that a room's current state is in."""

    segment_nid: int
    base_segment: int
    change_count: int
    since_checkpoint: int
    state_hash: int
    can_grow: bool = True
    """False: the segment may go on after this state already, in another fork of the room."""

    @property
    def state_nid(self) -> int:
        return self.segment_nid << _CHANGES_BITS | self.change_count


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A whole state, and the place after which another one is written."""

    tail: Tail
    state: State
    """Not to be altered."""
    rows: tuple[Segment | Growth, ...] = ()
    """What must be written with the event that brings it about; empty when it is stored."""


class StateStore:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._segment_nids = Stream("state_segments")
        self._hashes = StateSet(bytes(32))
        self._cache: OrderedDict[tuple[int, int], State] = OrderedDict()
        self._cached_slots = 0

    async def start(self) -> None:
        self._hashes = StateSet(await self._db.read(server_identity.get_state_hash_key))
        self._segment_nids.start_at(await self._db.read(state_segments.max_segment_nid))

    def first_segment(self, room_nid: int) -> tuple[Tail, Segment]:
        """Return the empty state of a new room."""
        return self._checkpoint(room_nid, {}, 0)

    def checkpoint(self, room_nid: int, state: State) -> Snapshot:
        """Return a state that follows from none before it."""
        tail, row = self._checkpoint(room_nid, state, self._hashes.hash_state(state))
        return Snapshot(tail, state, (row,))

    def append(
        self,
        room_nid: int,
        tail: Tail,
        before: Mapping[int, int],
        change: Change,
        *,
        whole: Callable[[], State],
        size: int,
    ) -> tuple[Tail, Segment | Growth]:
        """Return the tail after `change` and the row that must be written with the event.

        before  what the changed slots held before; empty slots are left out
        whole   gives the whole state before the change, as a new dictionary
        size    how many slots that is, roughly
        """
        state_hash = self._hashes.hash_after(tail.state_hash, before, change)
        if tail.can_grow and tail.change_count < _MAX_CHANGES and len(change) <= _MAX_GROWTH:
            grown = replace(tail, change_count=tail.change_count + 1, state_hash=state_hash)
            return grown, Growth(
                room_nid=room_nid,
                segment_nid=tail.segment_nid,
                changes=pack_changes([change]),
                count_before=tail.change_count,
                change_count=grown.change_count,
                state_hash=_hash_bytes(state_hash),
            )
        since = tail.since_checkpoint + tail.change_count + len(change) - 1
        if since + 1 >= max(_MIN_CHECKPOINT_SPACING, size // 4):
            after = {
                slot: event for slot, event in (whole() | dict(change)).items() if event != REMOVED
            }
            return self._checkpoint(room_nid, after, state_hash)
        segment_nid = self._new_segment_nid()
        grown = Tail(segment_nid, tail.base_segment, 1, since, state_hash)
        return grown, Segment(
            room_nid=room_nid,
            segment_nid=segment_nid,
            parent_state=tail.state_nid,
            base_segment=tail.base_segment,
            checkpoint=None,
            changes=pack_changes([change]),
            change_count=1,
            since_checkpoint=since,
            state_hash=_hash_bytes(state_hash),
        )

    def _checkpoint(self, room_nid: int, state: State, state_hash: int) -> tuple[Tail, Segment]:
        segment_nid = self._new_segment_nid()
        return Tail(segment_nid, segment_nid, 0, 0, state_hash), Segment(
            room_nid=room_nid,
            segment_nid=segment_nid,
            parent_state=None,
            base_segment=segment_nid,
            checkpoint=pack_checkpoint(state),
            changes=b"",
            change_count=0,
            since_checkpoint=0,
            state_hash=_hash_bytes(state_hash),
        )

    def _new_segment_nid(self) -> int:
        segment_nid = self._segment_nids.allocate()
        self._segment_nids.release(segment_nid)
        return segment_nid

    async def load_current(self, room_nid: int, state_nid: int) -> tuple[Tail, State]:
        """Read a room's current state, to go on writing after it."""
        segment = await self._find_segment(room_nid, state_nid)
        cached = self._cache.get((room_nid, state_nid))
        # Not to be cached: who asks for it keeps it, and changes it.
        state = await self._read_state(room_nid, state_nid) if cached is None else dict(cached)
        return self._tail(segment, state_nid, state, is_current=True), state

    async def load_snapshot(
        self, room_nid: int, state_nid: int, *, is_current: bool = False
    ) -> Snapshot:
        """Read any state, to go on writing after it.

        A segment grows at its end only, and only while it holds the room's current state.
        """
        segment = await self._find_segment(room_nid, state_nid)
        state = await self.load_state(room_nid, state_nid)
        return Snapshot(self._tail(segment, state_nid, state, is_current=is_current), state)

    async def _find_segment(self, room_nid: int, state_nid: int) -> Segment:
        segment = await self._db.read(
            state_segments.find_segment, room_nid, state_nid >> _CHANGES_BITS
        )
        if segment is None:
            raise LookupError(f"state {state_nid} of room {room_nid} is not stored")
        return segment

    def _tail(self, segment: Segment, state_nid: int, state: State, *, is_current: bool) -> Tail:
        count = state_nid & _MAX_CHANGES
        is_end = count == segment.change_count
        return Tail(
            segment.segment_nid,
            segment.base_segment,
            count,
            segment.since_checkpoint,
            int.from_bytes(segment.state_hash, "big") if is_end else self._hashes.hash_state(state),
            can_grow=is_current and is_end,
        )

    def change(self, room_nid: int, before: Snapshot, change: Change) -> Snapshot:
        """Return the state after a change; its rows are those of the state before and one more."""
        after = {**before.state, **dict(change)}
        for slot, event in change:
            if event == REMOVED:
                del after[slot]
        tail, row = self.append(
            room_nid,
            before.tail,
            before.state,
            change,
            whole=lambda: dict(before.state),
            size=len(before.state),
        )
        return Snapshot(tail, after, (*before.rows, row))

    def find_state(self, room_nid: int, state_nid: int) -> State | None:
        """Return a state that is in memory; not to be altered."""
        return self._cache.get((room_nid, state_nid))

    def remember(self, room_nid: int, state_nid: int, state: State) -> None:
        """Keep a state that has been committed; before that its number may become another's."""
        if (room_nid, state_nid) not in self._cache:
            self._remember((room_nid, state_nid), state)

    async def load_state(self, room_nid: int, state_nid: int) -> State:
        """Return slot -> event number of any state; the caller must not alter it."""
        key = (room_nid, state_nid)
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
            return cached
        state = await self._read_state(room_nid, state_nid)
        self.remember(room_nid, state_nid, state)
        return state

    async def _read_state(self, room_nid: int, state_nid: int) -> State:
        """Read a state that the caller may keep.

        1. One query follows `parent_state` back to the checkpoint: other forks are not read.
        2. The wanted state and each parent say how many changes of their segment count.
        3. The checkpoint is brought forward by each segment's changes.
        """
        key = (room_nid, state_nid)
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
            return cached
        segment_nid = state_nid >> _CHANGES_BITS
        chain = await self._db.read(state_segments.list_chain, room_nid, segment_nid)  # 1
        by_nid = {segment.segment_nid: segment for segment in chain}
        steps: list[tuple[Segment, int]] = []
        wanted: int | None = state_nid
        while wanted is not None:  # 2
            segment = by_nid[wanted >> _CHANGES_BITS]
            steps.append((segment, wanted & _MAX_CHANGES))
            wanted = segment.parent_state
        state: State = {}
        for segment, count in reversed(steps):  # 3
            if segment.checkpoint is not None:
                state = unpack_checkpoint(segment.checkpoint)
            apply_changes(state, segment.changes, count)
        return state

    async def find_slots(
        self, room_nid: int, state_nids: Iterable[int], slot_nids: Sequence[int]
    ) -> dict[int, tuple[int, ...]]:
        """Return of each state which events hold these slots, 0 where none does.

        Cheaper than the whole states: one query for all the states of a segment, and a checkpoint
        is unpacked once.
        """
        found: dict[int, tuple[int, ...]] = {}
        segments: dict[int, Segment] = {}
        for state_nid in sorted(set(state_nids), reverse=True):
            cached = self._cache.get((room_nid, state_nid))
            if cached is not None:
                found[state_nid] = tuple(cached.get(slot, 0) for slot in slot_nids)
                continue
            if state_nid >> _CHANGES_BITS not in segments:
                chain = await self._db.read(
                    state_segments.list_chain, room_nid, state_nid >> _CHANGES_BITS
                )
                segments |= {segment.segment_nid: segment for segment in chain}
            steps = []
            wanted: int | None = state_nid
            while wanted is not None and wanted not in found:
                steps.append(wanted)
                wanted = segments[wanted >> _CHANGES_BITS].parent_state
            for step in reversed(steps):
                segment = segments[step >> _CHANGES_BITS]
                before = segment.parent_state
                if segment.checkpoint is not None:
                    before = segment.segment_nid << _CHANGES_BITS
                    if before not in found:
                        whole = unpack_checkpoint(segment.checkpoint)
                        found[before] = tuple(whole.get(slot, 0) for slot in slot_nids)
                assert before is not None, "a segment has a checkpoint or a parent"
                held = dict(zip(slot_nids, found[before], strict=True))
                apply_changes(held, segment.changes, step & _MAX_CHANGES)
                found[step] = tuple(held.get(slot, 0) for slot in slot_nids)
        return found

    def _remember(self, key: tuple[int, int], state: State) -> None:
        self._cache[key] = state
        self._cached_slots += len(state)
        while len(self._cache) > _CACHED_STATES or (
            self._cached_slots > _CACHED_SLOTS and len(self._cache) > 1
        ):
            _, dropped = self._cache.popitem(last=False)
            self._cached_slots -= len(dropped)


def _hash_bytes(state_hash: int) -> bytes:
    return state_hash.to_bytes(16, "big")
