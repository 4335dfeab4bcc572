"""Filters: which events, rooms and properties a client asks for.

spec: client-server-api/#filtering and the schemas of POST /user/{userId}/filter, v1.19
Invariant: a parsed filter is bounded and precompiled; testing an event costs a few set look-ups.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from homeserver.core.errors import CoreError
from homeserver.core.glob_patterns import GlobPattern, GlobText, parse_type_pattern
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.property_paths import split_property_path

MAX_LIST_LENGTH = 1000
MAX_WILDCARD_TYPES = 50
MAX_ENTRY_LENGTH = 255
MAX_PATH_DEPTH = 16

T = TypeVar("T")


class FilterInvalid(CoreError, ValueError):
    """The message names the offending property."""


@dataclass(frozen=True, slots=True)
class TypeSet:
    """Event types, some with `*`."""

    exact: frozenset[str]
    prefixes: tuple[str, ...]
    patterns: tuple[GlobPattern, ...]

    def __contains__(self, event_type: str) -> bool:
        if event_type in self.exact or event_type.startswith(self.prefixes):
            return True
        if not self.patterns:
            return False
        text = GlobText(event_type, ignore_case=False)
        return any(pattern.matches_whole(text) for pattern in self.patterns)


NO_TYPES = TypeSet(frozenset(), (), ())


@dataclass(frozen=True, slots=True)
class EventFilter:
    """A filter of presence or of global account data; None: everything is included."""

    limit: int | None = None
    types: TypeSet | None = None
    not_types: TypeSet = NO_TYPES
    senders: frozenset[str] | None = None
    not_senders: frozenset[str] = frozenset()

    def allows_event(self, event_type: str, sender: str | None) -> bool:
        """Test an event; one that has no sender passes only if no senders are asked for."""
        return (
            (self.types is None or event_type in self.types)
            and event_type not in self.not_types
            and (self.senders is None or sender in self.senders)
            and sender not in self.not_senders
        )

    def clamp_limit(self, default: int, maximum: int) -> int:
        return min(default if self.limit is None else self.limit, maximum)


@dataclass(frozen=True, slots=True)
class RoomEventFilter(EventFilter):
    """A filter of events of rooms; the same for timeline, state, ephemeral and account data."""

    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()
    contains_url: bool | None = None
    lazy_load_members: bool = False
    include_redundant_members: bool = False
    unread_thread_notifications: bool = False

    @property
    def allows_all(self) -> bool:
        """Tell whether no event is left out, so that none need be looked at."""
        return (
            self.types is None
            and self.not_types == NO_TYPES
            and self.senders is None
            and self.rooms is None
            and self.contains_url is None
            and not self.not_senders
            and not self.not_rooms
        )

    def allows_room(self, room_id: str) -> bool:
        return (self.rooms is None or room_id in self.rooms) and room_id not in self.not_rooms

    def allows(
        self, event_type: str, sender: str | None, room_id: str, *, contains_url: bool
    ) -> bool:
        """Test an event; `contains_url` says whether its content has a key `url`."""
        return (
            (self.contains_url is None or self.contains_url == contains_url)
            and self.allows_room(room_id)
            and self.allows_event(event_type, sender)
        )


@dataclass(frozen=True, slots=True)
class RoomFilter:
    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()
    include_leave: bool = False
    timeline: RoomEventFilter = RoomEventFilter()
    state: RoomEventFilter = RoomEventFilter()
    ephemeral: RoomEventFilter = RoomEventFilter()
    account_data: RoomEventFilter = RoomEventFilter()

    def allows_room(self, room_id: str) -> bool:
        """Test a room; comes before the filters of its parts."""
        return (self.rooms is None or room_id in self.rooms) and room_id not in self.not_rooms


FieldTree = Mapping[str, "FieldTree | None"]
"""Names of properties to keep; None keeps all below."""


@dataclass(frozen=True, slots=True)
class SyncFilter:
    room: RoomFilter = RoomFilter()
    presence: EventFilter = EventFilter()
    account_data: EventFilter = EventFilter()
    event_fields: FieldTree | None = None
    is_federation_format: bool = False

    def select_fields(self, event: JsonObject) -> JsonObject:
        """Return the event, or a copy with only the properties asked for."""
        return event if self.event_fields is None else _select(event, self.event_fields)


def parse_filter(value: JsonValue) -> SyncFilter:
    """Read a filter of /sync. Unknown properties are ignored. Raises FilterInvalid."""
    body = _read_object(value, "filter")
    room = _read_object(body.get("room", {}), "room")
    event_format = body.get("event_format", "client")
    if event_format not in ("client", "federation"):
        raise FilterInvalid('event_format must be "client" or "federation"')
    return SyncFilter(
        room=RoomFilter(
            rooms=_find(room, "rooms", "room", _read_room_ids),
            not_rooms=_find(room, "not_rooms", "room", _read_room_ids) or frozenset(),
            include_leave=_read_flag(room, "include_leave", "room"),
            timeline=parse_room_event_filter(room.get("timeline", {}), "room.timeline"),
            state=parse_room_event_filter(room.get("state", {}), "room.state"),
            ephemeral=parse_room_event_filter(room.get("ephemeral", {}), "room.ephemeral"),
            account_data=parse_room_event_filter(room.get("account_data", {}), "room.account_data"),
        ),
        presence=parse_event_filter(body.get("presence", {}), "presence"),
        account_data=parse_event_filter(body.get("account_data", {}), "account_data"),
        event_fields=_find(body, "event_fields", "filter", _read_fields),
        is_federation_format=event_format == "federation",
    )


def parse_event_filter(value: JsonValue, where: str = "filter") -> EventFilter:
    """Read a filter of presence or global account data. Raises FilterInvalid."""
    body = _read_object(value, where)
    return EventFilter(
        limit=_read_limit(body, where),
        types=_find(body, "types", where, _read_types),
        not_types=_find(body, "not_types", where, _read_types) or NO_TYPES,
        senders=_find(body, "senders", where, _read_user_ids),
        not_senders=_find(body, "not_senders", where, _read_user_ids) or frozenset(),
    )


def parse_room_event_filter(value: JsonValue, where: str = "filter") -> RoomEventFilter:
    """Read a filter of /messages, /context, /search or a part of a room. Raises FilterInvalid."""
    body = _read_object(value, where)
    events = parse_event_filter(body, where)
    return RoomEventFilter(
        limit=events.limit,
        types=events.types,
        not_types=events.not_types,
        senders=events.senders,
        not_senders=events.not_senders,
        rooms=_find(body, "rooms", where, _read_room_ids),
        not_rooms=_find(body, "not_rooms", where, _read_room_ids) or frozenset(),
        contains_url=_read_flag(body, "contains_url", where) if "contains_url" in body else None,
        lazy_load_members=_read_flag(body, "lazy_load_members", where),
        include_redundant_members=_read_flag(body, "include_redundant_members", where),
        unread_thread_notifications=_read_flag(body, "unread_thread_notifications", where),
    )


def _find(body: JsonObject, key: str, where: str, read: Callable[[JsonValue, str], T]) -> T | None:
    return read(body[key], f"{where}.{key}") if key in body else None


def _read_object(value: JsonValue, where: str) -> JsonObject:
    if not isinstance(value, dict):
        raise FilterInvalid(f"{where} must be an object")
    return value


def _read_flag(body: JsonObject, key: str, where: str) -> bool:
    value = body.get(key, False)
    if not isinstance(value, bool):
        raise FilterInvalid(f"{where}.{key} must be true or false")
    return value


def _read_limit(body: JsonObject, where: str) -> int | None:
    # COMPAT: clients that want no timeline ask for 0 events, which the specification does not know.
    limit = body.get("limit", 0)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise FilterInvalid(f"{where}.limit must be an integer that is not negative")
    return limit if "limit" in body else None


def _read_texts(value: JsonValue, where: str) -> list[str]:
    if not isinstance(value, list):
        raise FilterInvalid(f"{where} must be a list of strings")
    if len(value) > MAX_LIST_LENGTH:
        raise FilterInvalid(f"{where} may have at most {MAX_LIST_LENGTH} entries")
    texts = [item for item in value if isinstance(item, str) and len(item) <= MAX_ENTRY_LENGTH]
    if len(texts) < len(value):
        raise FilterInvalid(f"{where} must hold strings of at most {MAX_ENTRY_LENGTH} characters")
    return texts


def _read_ids(value: JsonValue, where: str, sigil: str) -> frozenset[str]:
    texts = _read_texts(value, where)
    if not all(text.startswith(sigil) for text in texts):
        raise FilterInvalid(f"{where} must hold identifiers that start with {sigil}")
    return frozenset(texts)


def _read_user_ids(value: JsonValue, where: str) -> frozenset[str]:
    return _read_ids(value, where, "@")


def _read_room_ids(value: JsonValue, where: str) -> frozenset[str]:
    return _read_ids(value, where, "!")


def _read_types(value: JsonValue, where: str) -> TypeSet:
    texts = _read_texts(value, where)
    wild = {text for text in texts if "*" in text}
    if len(wild) > MAX_WILDCARD_TYPES:
        raise FilterInvalid(f"{where} may have at most {MAX_WILDCARD_TYPES} entries with *")
    prefixes = {text for text in wild if text.index("*") == len(text) - 1}
    return TypeSet(
        exact=frozenset(texts) - wild,
        prefixes=tuple(sorted(prefix[:-1] for prefix in prefixes)),
        patterns=tuple(parse_type_pattern(text) for text in sorted(wild - prefixes)),
    )


def _read_fields(value: JsonValue, where: str) -> FieldTree | None:
    """Merge the paths to a tree; an empty list, like an absent one, asks for everything."""
    tree: dict[str, FieldTree | None] = {}
    for text in _read_texts(value, where):
        path = split_property_path(text)
        if len(path) > MAX_PATH_DEPTH:
            raise FilterInvalid(f"{where} may have paths of at most {MAX_PATH_DEPTH} names")
        _plant(tree, path)
    return tree or None


def _plant(tree: dict[str, FieldTree | None], path: tuple[str, ...]) -> None:
    for name in path[:-1]:
        branch = tree.setdefault(name, {})
        if not isinstance(branch, dict):
            return
        tree = branch
    tree[path[-1]] = None


def _select(item: JsonObject, tree: FieldTree) -> JsonObject:
    selected: JsonObject = {}
    for name, branch in tree.items():
        value = item.get(name)
        if branch is None:
            if name in item:
                selected[name] = value
        elif isinstance(value, dict):
            below = _select(value, branch)
            if below:
                selected[name] = below
    return selected
