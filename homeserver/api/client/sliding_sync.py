"""Simplified sliding sync, on its unstable path.

spec: MSC4186 beside v1.19, "API". NOTSPEC: clients in use speak earlier drafts too, so those are
understood: `pos` and `timeout` in the query, `ranges` for `range`, `is_invite` for `is_invited`,
and `required_state` as a list of [type, state key] with `*`, `$ME` and `$LAZY`.
"""

from dataclasses import dataclass, field
from typing import Literal

from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonValue
from homeserver.errors import InvalidParam
from homeserver.requester import Requester
from homeserver.services.presence import Presence
from homeserver.services.sliding_sync.service import SlidingSync
from homeserver.services.sliding_sync.wishes import (
    LAZY,
    ME,
    ExtensionWish,
    Filters,
    ListWish,
    Pattern,
    RoomConfig,
    SlidingRequest,
    StateWish,
)
from homeserver.transport.endpoint import Auth, RawJSON, endpoint

_MEMBER = "m.room.member"
_MAX_LISTS = 100
_MAX_SUBSCRIPTIONS = 100
_MAX_PATTERNS = 200
_MAX_TIMELINE = 100
_MAX_NAME = 255
_ROOM_EXTENSIONS = ("account_data", "receipts", "typing")


@dataclass(frozen=True)
class FiltersBody:
    is_dm: bool | None = None
    spaces: list[str] | None = None
    is_encrypted: bool | None = None
    is_invited: bool | None = None
    is_invite: bool | None = None
    room_types: list[str | None] | None = None
    not_room_types: list[str | None] | None = None
    tags: list[str] | None = None
    not_tags: list[str] | None = None


@dataclass(frozen=True)
class SubscriptionBody:
    timeline_limit: int
    required_state: JsonValue


@dataclass(frozen=True)
class ListBody:
    timeline_limit: int
    required_state: JsonValue
    range: list[int] | None = None
    ranges: list[list[int]] | None = None
    filters: FiltersBody | None = None


@dataclass(frozen=True)
class ExtensionBody:
    enabled: bool | None = None
    lists: list[str] | None = None
    rooms: list[str] | None = None


@dataclass(frozen=True)
class ToDeviceBody:
    enabled: bool | None = None
    since: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class ExtensionsBody:
    to_device: ToDeviceBody | None = None
    e2ee: ExtensionBody | None = None
    account_data: ExtensionBody | None = None
    receipts: ExtensionBody | None = None
    typing: ExtensionBody | None = None


@dataclass(frozen=True)
class SlidingSyncBody:
    conn_id: str | None = None
    pos: str | None = None
    timeout: int | None = None
    set_presence: Literal["offline", "online", "unavailable"] | None = None
    lists: dict[str, ListBody] | None = None
    room_subscriptions: dict[str, SubscriptionBody] | None = None
    extensions: ExtensionsBody = field(default_factory=ExtensionsBody)


class SlidingSyncAPI:
    """The client's view of the rooms it looks at, and how it learns of changes."""

    def __init__(
        self, sliding_sync: SlidingSync, presence: Presence, *, max_timeout_seconds: int
    ) -> None:
        self._sliding_sync = sliding_sync
        self._presence = presence
        self._max_timeout_ms = max_timeout_seconds * 1000

    @endpoint(
        "slidingSync", "POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
        auth=Auth.CLIENT, extra="MSC4186: simplified sliding sync, which Element X needs",
    )  # fmt: skip
    async def sliding_sync(
        self,
        requester: Requester,
        body: SlidingSyncBody,
        *,
        pos: str | None = None,
        timeout: int | None = None,  # noqa: ASYNC109 - the wire name
        set_presence: Literal["offline", "online", "unavailable"] = "online",
    ) -> RawJSON:
        timeout_ms = timeout if timeout is not None else body.timeout or 0
        lists = body.lists or {}
        subscriptions = body.room_subscriptions or {}
        if len(lists) > _MAX_LISTS or len(subscriptions) > _MAX_SUBSCRIPTIONS:
            raise InvalidParam(
                f"At most {_MAX_LISTS} lists and {_MAX_SUBSCRIPTIONS} room subscriptions"
            )
        conn_id = body.conn_id or ""
        if len(conn_id) > _MAX_NAME or any(len(name) > _MAX_NAME for name in lists):
            raise InvalidParam(f"Names have at most {_MAX_NAME} characters")
        user_id = requester.user_id
        extensions = body.extensions
        to_device = extensions.to_device
        wants_to_device = to_device is not None and to_device.enabled is True
        request = SlidingRequest(
            requester=requester,
            conn_id=conn_id,
            pos=pos or body.pos or None,
            timeout_ms=max(0, min(timeout_ms, self._max_timeout_ms)),
            lists={
                name: ListWish(
                    _config(wish.timeline_limit, wish.required_state, user_id),
                    _ranges(wish),
                    _filters(wish.filters or FiltersBody()),
                )
                for name, wish in lists.items()
            },
            subscriptions={
                RoomID(room_id): _config(wish.timeline_limit, wish.required_state, user_id)
                for room_id, wish in subscriptions.items()
            },
            room_extensions={
                name: ExtensionWish(_chosen(wish.lists), _chosen(wish.rooms))
                for name in _ROOM_EXTENSIONS
                if (wish := getattr(extensions, name)) is not None and wish.enabled
            },
            to_device_since=_since(to_device) if wants_to_device else None,
            to_device_limit=to_device.limit if to_device is not None else None,
            wants_e2ee=extensions.e2ee is not None and extensions.e2ee.enabled is True,
        )
        wish = body.set_presence or set_presence
        with self._presence.syncing(user_id, requester.device_id, wish):
            return RawJSON(await self._sliding_sync.sync(request))


def _since(to_device: ToDeviceBody | None) -> int:
    since = to_device.since if to_device is not None else None
    if not since:
        return 0
    if not (since.isascii() and since.isdigit() and len(since) <= 18):  # noqa: PLR2004 - bigint
        raise InvalidParam("since of to_device is not a token of this server")
    return int(since)


def _chosen(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None or "*" in names else frozenset(names)


def _ranges(wish: ListBody) -> tuple[tuple[int, int], ...] | None:
    given = wish.ranges if wish.range is None else [wish.range]
    if given is None:
        return None
    ranges = []
    for one in given:
        if len(one) != 2 or not 0 <= one[0] <= one[1]:  # noqa: PLR2004 - first and last
            raise InvalidParam("A range is [first, last], counted from 0")
        ranges.append((one[0], one[1]))
    return tuple(ranges)


def _filters(body: FiltersBody) -> Filters:
    return Filters(
        is_dm=body.is_dm,
        spaces=body.spaces,
        is_encrypted=body.is_encrypted,
        is_invited=body.is_invited if body.is_invited is not None else body.is_invite,
        room_types=body.room_types,
        not_room_types=body.not_room_types,
        tags=body.tags,
        not_tags=body.not_tags,
    )


def _config(timeline_limit: int, required_state: JsonValue, user_id: UserID) -> RoomConfig:
    if timeline_limit < 0:
        raise InvalidParam("timeline_limit must not be negative")
    if isinstance(required_state, list):
        state = _state_of_pairs(required_state, user_id)
    elif isinstance(required_state, dict):
        lazy = required_state.get("lazy_members", False)
        if not isinstance(lazy, bool):
            raise InvalidParam("lazy_members must be true or false")
        state = StateWish(
            _patterns(required_state.get("include")),
            _patterns(required_state.get("exclude")),
            lazy,
        )
    else:
        raise InvalidParam("required_state must be an object, or a list of pairs")
    return RoomConfig(min(timeline_limit, _MAX_TIMELINE), frozenset({state}))


def _state_of_pairs(pairs: list[JsonValue], user_id: UserID) -> StateWish:
    """Read an earlier draft's required_state."""
    _check_length(pairs)
    include: set[Pattern] = set()
    is_lazy = False
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2):  # noqa: PLR2004 - type, state key
            raise InvalidParam("required_state must be pairs of a type and a state key")
        event_type, state_key = pair
        if not (isinstance(event_type, str) and isinstance(state_key, str)):
            raise InvalidParam("required_state must be pairs of strings")
        if state_key == LAZY:
            is_lazy = is_lazy or event_type == _MEMBER
            continue
        key = user_id if state_key == ME else state_key
        include.add((None if event_type == "*" else event_type, None if key == "*" else key))
    return StateWish(frozenset(include), frozenset(), is_lazy)


def _patterns(elements: JsonValue) -> frozenset[Pattern]:
    if elements is None:
        return frozenset()
    if not isinstance(elements, list):
        raise InvalidParam("include and exclude must be lists")
    _check_length(elements)
    found: set[Pattern] = set()
    for element in elements:
        if not isinstance(element, dict):
            raise InvalidParam("include and exclude must be lists of objects")
        event_type, state_key = element.get("type"), element.get("state_key")
        if not (isinstance(event_type, str | None) and isinstance(state_key, str | None)):
            raise InvalidParam("type and state_key must be strings")
        found.add((event_type, state_key))
    return frozenset(found)


def _check_length(patterns: list[JsonValue]) -> None:
    if len(patterns) > _MAX_PATTERNS:
        raise InvalidParam(f"required_state has at most {_MAX_PATTERNS} elements")
