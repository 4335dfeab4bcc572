"""What a sliding sync asks for: lists, subscriptions, what to tell of each room, extensions.

spec: MSC4186 beside v1.19, "Request Body", "Combining room configs". Configs of one room are
combined by keeping each of them: what any of them asks for is told.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from homeserver.core.identifiers import RoomID, UserID
from homeserver.engine.live_room import MEMBER
from homeserver.requester import Requester

Pattern = tuple[str | None, str | None]
"""(event type, state key); None matches anything."""
ME = "$ME"
LAZY = "$LAZY"


@dataclass(frozen=True, slots=True)
class StateWish:
    """State events to tell: those of `include` without those of `exclude`."""

    include: frozenset[Pattern] = frozenset()
    exclude: frozenset[Pattern] = frozenset()
    lazy_members: bool = False
    """Of members, tell those that the timeline needs, beside those included by name."""

    def matches(self, event_type: str, state_key: str) -> bool:
        if _any_matches(self.exclude, event_type, state_key):
            return False
        if self.lazy_members and event_type == MEMBER:
            return (MEMBER, state_key) in self.include or (MEMBER, None) in self.include
        return _any_matches(self.include, event_type, state_key)

    @property
    def wants_all_members(self) -> bool:
        every = {(MEMBER, None)} if self.lazy_members else {(MEMBER, None), (None, None)}
        return bool(self.include & every)

    @property
    def named_members(self) -> set[UserID]:
        """Those that are included by name."""
        types = (MEMBER,) if self.lazy_members else (MEMBER, None)
        return {UserID(key) for kind, key in self.include if kind in types and key is not None}


@dataclass(frozen=True, slots=True)
class RoomConfig:
    """What to tell of a room that any number of lists and subscriptions match."""

    timeline_limit: int
    state: frozenset[StateWish]

    def combined(self, other: "RoomConfig") -> "RoomConfig":
        return RoomConfig(max(self.timeline_limit, other.timeline_limit), self.state | other.state)

    def wants(self, event_type: str, state_key: str) -> bool:
        return any(wish.matches(event_type, state_key) for wish in self.state)

    @property
    def wants_all_members(self) -> bool:
        return any(wish.wants_all_members for wish in self.state)

    @property
    def wants_lazy_members(self) -> bool:
        return any(wish.lazy_members for wish in self.state) and not self.wants_all_members

    @property
    def named_slots(self) -> set[tuple[str, str]] | None:
        """Every slot that may match, if all are named; None: there are wildcards."""
        slots = set()
        for wish in self.state:
            for event_type, state_key in wish.include:
                if event_type is None or state_key is None:
                    return None
                slots.add((event_type, state_key))
        return slots

    def named_members(self, members: Mapping[UserID, object]) -> list[UserID]:
        """Return the members to be told whatever the timeline says."""
        found: set[UserID] = set()
        for wish in self.state:
            excluded = {key for event_type, key in wish.exclude if event_type in (MEMBER, None)}
            if None not in excluded:
                everybody = wish.wants_all_members
                named = set(members) if everybody else wish.named_members & members.keys()
                found |= named.difference(excluded)
        return list(found)

    @property
    def named_keys(self) -> set[UserID]:
        """Every state key that is named; those of members are user ids."""
        return {UserID(key) for wish in self.state for _, key in wish.include if key is not None}


@dataclass(frozen=True, slots=True)
class Filters:
    """None: not filtered by this."""

    is_dm: bool | None = None
    spaces: list[str] | None = None
    is_encrypted: bool | None = None
    is_invited: bool | None = None
    room_types: list[str | None] | None = None
    not_room_types: list[str | None] | None = None
    tags: list[str] | None = None
    not_tags: list[str] | None = None


@dataclass(frozen=True, slots=True)
class ListWish:
    config: RoomConfig
    ranges: tuple[tuple[int, int], ...] | None
    """Inclusive, from 0; None: every room that the filters let pass."""
    filters: Filters


@dataclass(frozen=True, slots=True)
class ExtensionWish:
    lists: frozenset[str] | None = None
    """None: rooms of every list."""
    rooms: frozenset[str] | None = None
    """Of the rooms subscribed to; None: all of them."""


@dataclass(frozen=True, slots=True)
class SlidingRequest:
    requester: Requester
    conn_id: str
    pos: str | None
    timeout_ms: int
    lists: Mapping[str, ListWish] = field(default_factory=dict)
    subscriptions: Mapping[RoomID, RoomConfig] = field(default_factory=dict)
    room_extensions: Mapping[str, ExtensionWish] = field(default_factory=dict)
    """By name: account_data, receipts, typing; those that are enabled."""
    to_device_since: int | None = None
    """None: the extension is not enabled; 0: from the beginning."""
    to_device_limit: int | None = None
    wants_e2ee: bool = False


def _any_matches(patterns: frozenset[Pattern], event_type: str, state_key: str) -> bool:
    return any(
        pattern in patterns
        for pattern in (
            (event_type, state_key),
            (event_type, None),
            (None, state_key),
            (None, None),
        )
    )
