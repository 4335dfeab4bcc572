"""State resolution of room versions 2 and later, in its editions 2.0 and 2.1.

spec: rooms/v2/#state-resolution (2.0), rooms/v12/#state-resolution (2.1), v1.19. Invariant: equal
inputs in any order give equal outputs; hostile content never raises.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from homeserver.core.auth_events import auth_types_of
from homeserver.core.errors import EventRejected, MissingEvent
from homeserver.core.event_auth import check_event_auth
from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.core.power_levels import power_levels_of
from homeserver.core.room_versions import RoomVersion, StateResolution

__all__ = ["auth_chain_of", "resolve"]

_StateKey = tuple[str, str]
_CREATE = ("m.room.create", "")
_POWER_LEVELS = ("m.room.power_levels", "")


def resolve(
    version: RoomVersion,
    state_sets: Sequence[Mapping[_StateKey, EventID]],
    auth_chains: Sequence[AbstractSet[EventID]],
    events: Mapping[EventID, Event],
    rejected: AbstractSet[EventID] = frozenset(),
    conflicted_subgraph: AbstractSet[EventID] | None = None,
) -> dict[_StateKey, EventID]:
    """Merge forked room states into one.

    state_sets   at least one map (type, state_key) -> event id; a single one is returned unchanged
    auth_chains  full auth chain of each state set, same order; see `auth_chain_of`
    events       the conflicted events, the auth difference, their auth events and the mainlines of
                 power levels; for 2.1 the auth chains of all conflicted events. May load on demand.
    rejected     events that may not serve as auth events
    conflicted_subgraph   for 2.1, if the caller knows it: spares loading whole auth chains

    1. Select the power events of the full conflicted set with their auth chains in it; order them.
    2. Check them one by one, starting from the unconflicted state (2.0) or from nothing (2.1).
    3. Order the other events by the mainline of the power levels found.
    4. Check them one by one, starting from the state so far.
    5. Put the unconflicted state over the result.

    Raises MissingEvent when `events` lacks one.
    """
    unconflicted, conflicted = _separate(state_sets)
    if not conflicted:
        return unconflicted
    room = _Room(version, events, rejected)
    full_conflicted_set = conflicted | _auth_difference(state_sets, auth_chains)
    base = unconflicted
    if version.state_resolution is StateResolution.V2_1:
        if conflicted_subgraph is None:
            conflicted_subgraph = room.conflicted_subgraph(conflicted)
        full_conflicted_set |= conflicted_subgraph
        base = {}
    room.require(full_conflicted_set, base)

    # 1
    power_events = room.sort_power_events(full_conflicted_set)
    # 2
    resolved = dict(base)
    room.apply_allowed(power_events, resolved)
    # 3
    others = full_conflicted_set.difference(power_events)
    ordered = room.sort_by_mainline(others, resolved.get(_POWER_LEVELS))
    # 4
    room.apply_allowed(ordered, resolved)
    # 5
    return resolved | unconflicted


def auth_chain_of(event_ids: Iterable[EventID], events: Mapping[EventID, Event]) -> set[EventID]:
    """Return the events with all their auth events, and theirs. Raises MissingEvent."""
    chain: set[EventID] = set()
    pending = list(event_ids)
    missing = set()
    while pending:
        event_id = pending.pop()
        if event_id in chain:
            continue
        chain.add(event_id)
        if event_id in events:
            pending.extend(events[event_id].auth_events)
        else:
            missing.add(event_id)
    if missing:
        raise MissingEvent(missing)
    return chain


def _separate(
    state_sets: Sequence[Mapping[_StateKey, EventID]],
) -> tuple[dict[_StateKey, EventID], set[EventID]]:
    """Return the state all sets agree on, and the events of all other keys."""
    first, *others = state_sets
    agreed = set(first.items()).intersection(*(other.items() for other in others))
    conflicted = {
        event_id for state_set in state_sets for _, event_id in state_set.items() - agreed
    }
    return dict(agreed), conflicted


def _auth_difference(
    state_sets: Sequence[Mapping[_StateKey, EventID]], auth_chains: Sequence[AbstractSet[EventID]]
) -> set[EventID]:
    """Return the events that are in some auth chains but not in all.

    NOTSPEC: the state's own events count as part of its chain, as deployed servers have it.
    """
    chains = [
        set(state_set.values()) | chain
        for state_set, chain in zip(state_sets, auth_chains, strict=True)
    ]
    return set().union(*chains) - chains[0].intersection(*chains[1:])


@dataclass(frozen=True, slots=True)
class _Room:
    """What every step of one resolution looks at."""

    version: RoomVersion
    events: Mapping[EventID, Event]
    rejected: AbstractSet[EventID]
    auth_types: dict[EventID, list[_StateKey]] = field(default_factory=dict)
    """Memo of `auth_types_of`, by event."""

    def require(self, event_ids: AbstractSet[EventID], base: Mapping[_StateKey, EventID]) -> None:
        """Raise MissingEvent for what checking these events on this state lacks, all at once."""
        needed = set(event_ids)
        keys: set[_StateKey] = set()
        for event in map(self.events.get, event_ids):
            if event is not None:
                needed.update(event.auth_events)
                keys.update(self._auth_types_of(event))
        needed.update(base[key] for key in keys if key in base)
        missing = [event_id for event_id in needed if event_id not in self.events]
        if missing:
            raise MissingEvent(missing)

    def conflicted_subgraph(self, conflicted: set[EventID]) -> set[EventID]:
        """Return every event on a path of auth events from one conflicted event to another."""
        cited_by: dict[EventID, list[EventID]] = {}
        for event_id in auth_chain_of(conflicted, self.events):
            for auth_id in self.events[event_id].auth_events:
                cited_by.setdefault(auth_id, []).append(event_id)
        # All citing events found lie in the auth chain of a conflicted one, so what can reach a
        # conflicted event is on a path between two.
        subgraph = set(conflicted)
        pending = list(conflicted)
        while pending:
            for citing in cited_by.get(pending.pop(), ()):
                if citing not in subgraph:
                    subgraph.add(citing)
                    pending.append(citing)
        return subgraph

    def sort_power_events(self, full_conflicted_set: set[EventID]) -> list[EventID]:
        """Return step 1's events in reverse topological power ordering (Kahn's algorithm).

        NOTSPEC: an auth chain is followed only as far as it stays in the full conflicted set, as
        deployed servers do.
        """
        cites: dict[EventID, set[EventID]] = {}
        pending = [
            event_id for event_id in full_conflicted_set if _is_power_event(self.events[event_id])
        ]
        while pending:
            event_id = pending.pop()
            if event_id not in cites:
                cites[event_id] = full_conflicted_set.intersection(
                    self.events[event_id].auth_events
                )
                pending.extend(cites[event_id])
        cited_by: dict[EventID, list[EventID]] = {}
        for event_id, cited in cites.items():
            for auth_id in cited:
                cited_by.setdefault(auth_id, []).append(event_id)

        uncited_left = {event_id: len(cited) for event_id, cited in cites.items()}
        candidates = [
            self._power_rank(event_id) for event_id, left in uncited_left.items() if not left
        ]
        heapq.heapify(candidates)
        ordered = []
        while candidates:
            _, _, event_id = heapq.heappop(candidates)
            ordered.append(event_id)
            for citing in cited_by.get(event_id, ()):
                uncited_left[citing] -= 1
                if not uncited_left[citing]:
                    heapq.heappush(candidates, self._power_rank(citing))
        # Ids of versions 1 and 2 are not hashes, so their events can cite each other in a circle.
        # Whatever hangs on a circle proves nothing and is left to the other events.
        return ordered

    def sort_by_mainline(
        self, event_ids: Iterable[EventID], power_levels_id: EventID | None
    ) -> list[EventID]:
        """Order events from the oldest power levels of the mainline to the newest, then by time."""
        positions = {
            event_id: index for index, event_id in enumerate(self._mainline(power_levels_id))
        }
        beyond = len(positions)
        known: dict[EventID, int] = {}

        def position_of(event: Event) -> int:
            walked = []
            position = beyond
            for ancestor in self._mainline(self._power_levels_cited_by(event)):
                found = positions.get(ancestor, known.get(ancestor))
                if found is not None:
                    position = found
                    break
                walked.append(ancestor)
            known.update(dict.fromkeys(walked, position))
            return position

        def rank(event_id: EventID) -> tuple[int, int, EventID]:
            event = self.events[event_id]
            return (-position_of(event), event.origin_server_ts, event_id)

        return sorted(event_ids, key=rank)

    def apply_allowed(self, ordered: Iterable[EventID], state: dict[_StateKey, EventID]) -> None:
        """Run the iterative auth checks: let each event that is allowed into the state."""
        for event_id in ordered:
            event = self.events[event_id]
            if event.state_key is None:
                continue
            try:
                check_event_auth(event, self._auth_state(event, state))
            except EventRejected:
                continue
            state[event.type, event.state_key] = event_id

    def _auth_state(
        self, event: Event, state: Mapping[_StateKey, EventID]
    ) -> dict[_StateKey, Event]:
        """Return what authorizes the event: from the state, or else from its auth events."""
        auth_state = self._cited_state(event, without=self.rejected)
        for key in self._auth_types_of(event):
            event_id = state.get(key)
            if event_id is not None:
                auth_state[key] = self.get(event_id)
        return auth_state

    def _cited_state(
        self, event: Event, without: AbstractSet[EventID] = frozenset()
    ) -> dict[_StateKey, Event]:
        """Return the event's auth events, and m.room.create also where it is not cited."""
        cited: dict[_StateKey, Event] = {}
        for auth_id in event.auth_events:
            auth_event = self.get(auth_id)
            if auth_event.state_key is not None and auth_id not in without:
                cited[auth_event.type, auth_event.state_key] = auth_event
        if self.version.room_id_is_create_hash and event.type != "m.room.create":
            cited[_CREATE] = self.get(EventID("$" + event.room_id[1:]))
        return cited

    def _auth_types_of(self, event: Event) -> list[_StateKey]:
        types = self.auth_types.get(event.event_id)
        if types is None:
            types = self.auth_types[event.event_id] = auth_types_of(
                self.version, event.type, event.sender, event.state_key, event.content
            )
        return types

    def get(self, event_id: EventID) -> Event:
        try:
            return self.events[event_id]
        except KeyError as error:
            raise MissingEvent([event_id]) from error

    def _power_rank(self, event_id: EventID) -> tuple[int, int, EventID]:
        event = self.events[event_id]
        return (-self._level_of_sender(event), event.origin_server_ts, event_id)

    def _level_of_sender(self, event: Event) -> int:
        """Return the sender's level by the event's own auth events."""
        cited = self._cited_state(event)
        if _CREATE not in cited:
            return 0
        return power_levels_of(self.version, cited).user_level(event.sender)

    def _power_levels_cited_by(self, event: Event) -> EventID | None:
        for auth_id in event.auth_events:
            auth_event = self.get(auth_id)
            if (auth_event.type, auth_event.state_key) == _POWER_LEVELS:
                return auth_id
        return None

    def _mainline(self, power_levels_id: EventID | None) -> Iterable[EventID]:
        """Yield the power levels, those it cites, and so on; a circle ends it."""
        seen = set()
        while power_levels_id is not None and power_levels_id not in seen:
            seen.add(power_levels_id)
            yield power_levels_id
            power_levels_id = self._power_levels_cited_by(self.get(power_levels_id))


def _is_power_event(event: Event) -> bool:
    """Tell whether the event may take away someone's ability to do something."""
    if event.state_key is None:
        return False
    if event.type in {"m.room.power_levels", "m.room.join_rules"}:
        return True
    return (
        event.type == "m.room.member"
        and event.membership in {"leave", "ban"}
        and event.sender != event.state_key
    )
