"""State resolution of room version 1.

spec: rooms/v1/#state-resolution, v1.19. Invariant: equal inputs in any order give equal outputs.
It is known to reset state; it exists to agree with other servers about rooms of version 1.
"""

import hashlib
from collections import ChainMap
from collections.abc import Mapping, Sequence

from homeserver.core.errors import EventRejected, MissingEvent
from homeserver.core.event_auth import check_event_auth
from homeserver.core.events import Event
from homeserver.core.identifiers import EventID

__all__ = ["resolve"]

_StateKey = tuple[str, str]


def resolve(
    state_sets: Sequence[Mapping[_StateKey, EventID]], events: Mapping[EventID, Event]
) -> dict[_StateKey, EventID]:
    """Merge forked room states into one.

    1. What is not in conflict is kept. Absence is no conflict.
    2. Power levels, 3. join rules, 4. memberships: the oldest event is taken as it is; each later
       one replaces it if the state so far allows it; the first that is not allowed ends the list.
    5. Of all others the newest that is allowed is taken.

    `events` holds every event of the state sets; raises MissingEvent when it lacks one.
    """
    candidates: dict[_StateKey, set[EventID]] = {}
    for state_set in state_sets:
        for key, event_id in state_set.items():
            candidates.setdefault(key, set()).add(event_id)
    missing = set().union(*candidates.values()) - events.keys()
    if missing:
        raise MissingEvent(missing)

    resolved = {
        key: events[event_id]
        for key, event_ids in candidates.items()
        if len(event_ids) == 1
        for event_id in event_ids
    }
    conflicts = {
        key: sorted((events[event_id] for event_id in event_ids), key=_age)
        for key, event_ids in candidates.items()
        if len(event_ids) > 1
    }
    for event_type in ("m.room.power_levels", "m.room.join_rules", "m.room.member"):
        keys = sorted(key for key in conflicts if key[0] == event_type)
        # Conflicts of one type do not see each other's outcome.
        resolved |= {
            key: _newest_of_allowed_chain(key, conflicts.pop(key), resolved) for key in keys
        }
    resolved |= {key: _newest_allowed(listed, resolved) for key, listed in conflicts.items()}
    return {key: event.event_id for key, event in resolved.items()}


def _age(event: Event) -> tuple[int, int]:
    """Order by ascending depth, then descending hash of the event id."""
    digest = hashlib.sha1(event.event_id.encode(), usedforsecurity=False).digest()
    return (event.depth, -int.from_bytes(digest, "big"))


def _newest_of_allowed_chain(
    key: _StateKey, oldest_first: Sequence[Event], resolved: dict[_StateKey, Event]
) -> Event:
    state = ChainMap({key: oldest_first[0]}, resolved)
    for event in oldest_first[1:]:
        if not _is_allowed(event, state):
            break
        state[key] = event
    return state[key]


def _newest_allowed(oldest_first: Sequence[Event], resolved: Mapping[_StateKey, Event]) -> Event:
    for event in reversed(oldest_first):
        if _is_allowed(event, resolved):
            return event
    # NOTSPEC: the text leaves open what happens if none is allowed; deployed servers take this one.
    return oldest_first[0]


def _is_allowed(event: Event, state: Mapping[_StateKey, Event]) -> bool:
    try:
        check_event_auth(event, state)
    except EventRejected:
        return False
    return True
