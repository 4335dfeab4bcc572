"""The states of a room's events once more, now that the state at their beginning is known.

spec: server-server-api/#rejection, #soft-failure, v1.19. Invariant: afterwards each event is
placed, and refused or not, as if the whole state had been known when it came; what has been shown
meanwhile stays shown.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from homeserver.clock import Clock
from homeserver.core.errors import EventRejected
from homeserver.core.event_auth import check_event_auth
from homeserver.core.state_map import State
from homeserver.engine.authorizing_events import AuthorizingEvents
from homeserver.engine.dictionary import Dictionary
from homeserver.engine.event_graph import EventGraph, Node
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.missing_events import in_graph_order
from homeserver.engine.policy_checks import lacks_signature
from homeserver.engine.state_at_event import StateAtEvent
from homeserver.engine.state_store import Snapshot, StateStore
from homeserver.engine.tips import Tip, make_tip
from homeserver.storage.events import HISTORICAL, REJECTED, SOFT_FAILED, PlacedEvent
from homeserver.storage.partial_state import PlacedNumber
from homeserver.storage.state_segments import Growth, Segment

_TURN_SECONDS = 0.02
"""So long it computes before others have their turn."""
_EVENTS_AT_ONCE = 100
"""Of those that have come in since, which may be too many for memory."""
_KEPT_BYTES = 8 * 2**20
"""Of the newest ones, which others build upon."""


@dataclass(frozen=True, slots=True)
class Recalculated:
    placed: Sequence[PlacedEvent]
    nodes: Sequence[Node]
    """The newest ones."""
    rows: Sequence[Segment | Growth]
    """What must be written of states."""
    tips: tuple[Tip, ...]
    current: Snapshot
    """The state they resolve to; its rows are among `rows`."""


class _Run:
    """The states found so far, as long as they are needed."""

    def __init__(self, ordered: Sequence[PlacedNumber], tips: Sequence[Tip]) -> None:
        self.rows: list[Segment | Growth] = []
        self.after: dict[int, Snapshot] = {}
        self.state_nids: dict[int, tuple[int, int]] = {}
        self.flags: dict[int, int] = {}
        self.replaced: dict[int, int] = {}
        self.nodes: deque[Node] = deque()
        self._size = 0
        self._last_use = {parent: one.event_nid for one in ordered for parent in one.prev_events}
        self._kept = {tip.event_nid for tip in tips}

    def fix(self, snapshot: Snapshot) -> Snapshot:
        """Let others go on after a state, and write it with all the rest."""
        self.rows += snapshot.rows
        return replace(snapshot, rows=(), tail=replace(snapshot.tail, can_grow=False))

    def keep(self, node: Node) -> None:
        self.nodes.append(node)
        self._size += len(node.event.pdu_bytes)
        while self._size > _KEPT_BYTES:
            self._size -= len(self.nodes.popleft().event.pdu_bytes)

    def forget(self, number: int, prev_events: Sequence[int]) -> None:
        """An event is placed: states that nobody else builds on are not needed any more."""
        if number not in self._last_use and number not in self._kept:
            del self.after[number]  # nobody builds on it, and it is no extremity
        if self.flags[number] & (REJECTED | SOFT_FAILED):
            self._kept.update(prev_events)  # they may become extremities in its place
            return
        for parent in prev_events:
            if self._last_use.get(parent) == number and parent not in self._kept:
                self.after.pop(parent, None)


class Recalculation:
    def __init__(
        self,
        graph: EventGraph,
        authorizing: AuthorizingEvents,
        dictionary: Dictionary,
        states: StateStore,
        state_at: StateAtEvent,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._graph = graph
        self._authorizing = authorizing
        self._dictionary = dictionary
        self._states = states
        self._state_at = state_at

    async def compute(
        self, room: LiveRoom, told: Snapshot, placed: Sequence[PlacedNumber]
    ) -> Recalculated:
        """Compute what follows from the state before a join.

        placed  the join, and what has come in since

        1. In the order in which they came, but parents first: the state before each. Behind other
           gaps it is as it was told.
        2. What is refused is no extremity any more; what was refused is let in, as history.
        3. The current state; what it alone refused is asked about again, but for what a policy
        server has not signed.
        """
        ordered = _parents_first(placed)
        run = _Run(ordered, room.tips)
        began = self._clock.monotonic()
        for start in range(0, len(ordered), _EVENTS_AT_ONCE):  # 1
            some = ordered[start : start + _EVENTS_AT_ONCE]
            self._graph.make_space(room)
            nodes = await self._graph.load_numbers(room, [one.event_nid for one in some])
            for one in some:
                if self._clock.monotonic() - began > _TURN_SECONDS:
                    await self._clock.sleep(0)
                    began = self._clock.monotonic()
                node = replace(nodes[one.event_nid], prev_events=one.prev_events)
                before = run.fix(told) if one is placed[0] else await self._before(room, run, node)
                if before is not None:
                    await self._place(room, run, node, before, is_join=one is placed[0])
                    run.keep(node)
                    run.forget(one.event_nid, one.prev_events)
        tips = await self._tips(room, run)  # 2
        branches = [run.after.get(t.event_nid) or await self._stored(room, t) for t in tips]
        current = run.fix(await self._state_at.merge(room, branches))
        for number, flags in run.flags.items():  # 3
            if flags & SOFT_FAILED:
                self._graph.make_space(room)
                node = (await self._graph.load_numbers(room, [number]))[number]
                if not lacks_signature(room, node.event) and await self._is_allowed(
                    room, run, node, current.state
                ):
                    run.flags[number] = flags & ~SOFT_FAILED | HISTORICAL
        return Recalculated(
            [self._row(room, run, one) for one in ordered if one.event_nid in run.state_nids],
            [_moved(node, run) for node in run.nodes],
            run.rows,
            tips,
            current,
        )

    async def _before(self, room: LiveRoom, run: _Run, node: Node) -> Snapshot | None:
        if len(node.prev_events) < len(set(node.event.prev_events)):
            return None
        others = [number for number in node.prev_events if number not in run.after]
        stored = await self._graph.load_numbers(room, others)
        branches = [
            run.after.get(number) or await self._state_at.after(room, stored[number])
            for number in node.prev_events
        ]
        return run.fix(await self._state_at.merge(room, branches))

    async def _place(
        self, room: LiveRoom, run: _Run, node: Node, before: Snapshot, *, is_join: bool
    ) -> None:
        flags, number, after = node.flags, node.event_nid, before
        if is_join or await self._is_allowed(room, run, node, before.state):
            if flags & REJECTED:
                flags = flags & ~REJECTED | HISTORICAL
            if node.event.state_key is not None:
                slot = (node.event.type, node.event.state_key)
                await self._dictionary.ensure([], [], [slot])
                slot_nid = self._dictionary.find_slot(*slot)
                assert slot_nid is not None
                if slot_nid in before.state:
                    run.replaced[number] = before.state[slot_nid]
                change = [(slot_nid, number)]
                after = run.fix(self._states.change(room.room_nid, before, change))
        else:
            flags = flags & ~SOFT_FAILED | REJECTED
        run.flags[number] = flags
        run.after[number] = after
        run.state_nids[number] = (before.tail.state_nid, after.tail.state_nid)

    async def _is_allowed(self, room: LiveRoom, run: _Run, node: Node, state: State) -> bool:
        found = await self._graph.load_numbers(room, node.auth_events)
        cited = [replace(one, flags=run.flags.get(n, one.flags)) for n, one in found.items()]
        try:
            await self._authorizing.check(room, node.event, cited)
            check_event_auth(
                node.event, await self._state_at.load_authorizing(room, state, node.event)
            )
        except EventRejected:
            return False
        return True

    async def _tips(self, room: LiveRoom, run: _Run) -> tuple[Tip, ...]:
        """Return the extremities, for one that is refused those before it."""
        tips: dict[int, Tip] = {}
        known = {tip.event_nid: tip for tip in room.tips}
        pending = deque(known)
        seen = set(known)
        while pending:
            number = pending.popleft()
            self._graph.make_space(room)
            node = (await self._graph.load_numbers(room, [number]))[number]
            if run.flags.get(number, node.flags) & (REJECTED | SOFT_FAILED):
                # Each once: there may be more ways back than can be gone.
                parents = dict.fromkeys(p for p in node.prev_events if p not in seen)
                pending += parents
                seen.update(parents)
                continue
            state_nids = run.state_nids.get(number)
            if state_nids is not None:
                tips[number] = make_tip(node.event, number, state_nids[1])
            elif number in known:
                tips[number] = known[number]
            elif node.state_after is not None:
                tips[number] = make_tip(node.event, number, node.state_after)
        return tuple(tips.values())

    async def _stored(self, room: LiveRoom, tip: Tip) -> Snapshot:
        for node in (await self._graph.load_numbers(room, [tip.event_nid])).values():
            if node.state_after == tip.state_nid:
                return await self._state_at.after(room, node)
        return await self._states.load_snapshot(room.room_nid, tip.state_nid)

    def _row(self, room: LiveRoom, run: _Run, one: PlacedNumber) -> PlacedEvent:
        before, after = run.state_nids[one.event_nid]
        return PlacedEvent(
            room.room_nid,
            one.event_nid,
            before,
            after,
            run.replaced.get(one.event_nid),
            run.flags[one.event_nid],
            one.prev_events,
            None if one.is_in_line else after,
        )


def _parents_first(placed: Sequence[PlacedNumber]) -> list[PlacedNumber]:
    """Order what is to be placed anew: all that is news, and what else builds upon that.

    The join comes first; what was before it, and came later, is no part of it.
    """
    children: dict[int, list[int]] = {}
    for one in placed:
        for parent in one.prev_events:
            children.setdefault(parent, []).append(one.event_nid)
    pending = [one.event_nid for one in placed if not one.is_historical]
    concerned = set(pending)
    while pending:
        further = [n for n in children.get(pending.pop(), ()) if n not in concerned]
        pending += further
        concerned.update(further)
    by_number = {one.event_nid: one for one in placed if one.event_nid in concerned}
    parents = {n: () if one is placed[0] else one.prev_events for n, one in by_number.items()}
    return [by_number[number] for number in in_graph_order(parents)]


def _moved(node: Node, run: _Run) -> Node:
    before, after = run.state_nids[node.event_nid]
    return replace(node, flags=run.flags[node.event_nid], state_before=before, state_after=after)
