"""Walking through spaces, and what rooms look like to who is not in them.

spec: client-server-api/#discovering-rooms-within-spaces, #room-previews, v1.19. Invariants: a room
is shown only to who may join it, ask to, or read it; what this server knows itself goes before
what others say; a walk is bounded in rooms, depth and requests to other servers, whatever the
spaces look like, and shows each room once.

A page's token says how many rooms came before it: each page walks from the beginning, over what is
in memory, so that nothing must be remembered between pages.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import orjson

from homeserver.core.history_visibility import HistoryVisibility
from homeserver.core.identifiers import RoomID, ServerName, UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.user_rooms import UserRooms
from homeserver.errors import Forbidden, InvalidParam, MissingToken, NotFound
from homeserver.services.federation.remote_membership import RemoteMembership
from homeserver.services.federation.remote_spaces import (
    Allowance,
    AllowanceSpent,
    RemoteSpace,
    RemoteSpaces,
)
from homeserver.services.room_summaries import (
    SPACE,
    allowed_rooms,
    children_of,
    find_room_id,
    join_rule_of,
    list_via,
    summary_of,
)

_DEFAULT_PAGE = 50
_MAX_PAGE = 100
_MAX_PAGE_BYTES = 4 * 1_048_576
_DEFAULT_DEPTH = 10
_MAX_DEPTH = 50
_MAX_ROOMS = 2_000
"""Shown by one walk, all pages together."""
_MAX_STEPS = 10_000
"""Of a walk: a room in many spaces is come to more than once."""
_REQUESTS_A_PAGE = 20
_REMOTE_SECONDS = 20.0
"""After this a page asks no further server."""
_OPEN = ("public", "knock", "knock_restricted")


@dataclass(frozen=True, slots=True)
class HierarchyWish:
    suggested_only: bool = False
    limit: int | None = None
    max_depth: int | None = None
    from_token: str | None = None


@dataclass(frozen=True, slots=True)
class _Step:
    """A room that a walk comes to."""

    room_id: RoomID
    depth: int
    via: tuple[ServerName, ...]
    told: JsonObject | None = None
    """What the server that was asked about the space above says of it."""
    is_closed: bool = False
    """That server says that nobody of this server could join it."""


@dataclass(frozen=True, slots=True)
class _Found:
    summary: JsonObject
    children: Sequence[JsonObject]
    remote: RemoteSpace | None = None
    """Where it comes from, unless this server knows it itself."""


class Spaces:
    def __init__(
        self,
        server_name: ServerName,
        live_rooms: LiveRooms,
        user_rooms: UserRooms,
        membership: RemoteMembership,
        remote: RemoteSpaces,
    ) -> None:
        self._server_name = server_name
        self._live_rooms = live_rooms
        self._user_rooms = user_rooms
        self._membership = membership
        self._remote = remote

    async def get_hierarchy(self, user_id: UserID, room_id: RoomID, wish: HierarchyWish) -> bytes:
        """Return a page of a space's tree, depth first. Raises InvalidParam, Forbidden."""
        limit = _DEFAULT_PAGE if wish.limit is None else wish.limit
        max_depth = _DEFAULT_DEPTH if wish.max_depth is None else wish.max_depth
        if limit < 1 or max_depth < 0:
            raise InvalidParam("limit must be above zero, and max_depth not below")
        wish = replace(wish, limit=min(limit, _MAX_PAGE), max_depth=min(max_depth, _MAX_DEPTH))
        walk = _Walk(self, user_id, wish, self._remote.allowance(_REQUESTS_A_PAGE, _REMOTE_SECONDS))
        via = await self._membership.list_candidates(user_id, room_id, [])
        return await walk.page(_Step(room_id, 0, tuple(via)))

    async def get_summary(
        self, user_id: UserID | None, room_id: RoomID, via: Sequence[str]
    ) -> JsonObject:
        """Return what a room looks like to a user; None: to who is not logged in.

        Raises NotFound; MissingToken when another server would have to be asked for a stranger.
        """
        room = await self._find_resident(room_id)
        if user_id is None:
            if room is None:
                raise MissingToken("Log in to ask about rooms that this server is not in")
            if not _is_open(join_rule_of(room), room.history_visibility):
                raise NotFound("Unknown room")
            return summary_of(room)
        if room is not None:
            found: JsonObject | None = summary_of(room)
            if not await self.is_accessible(user_id, room):
                found = None
        else:
            found = await self._fetch_summary(user_id, room_id, via)
        if found is None:
            raise NotFound("Unknown room")
        mine = (await self._user_rooms.rooms_of(user_id)).get(room_id)
        return {**found, "membership": "leave" if mine is None else mine.membership}

    async def _fetch_summary(
        self, user_id: UserID, room_id: RoomID, via: Sequence[str]
    ) -> JsonObject | None:
        servers = await self._membership.list_candidates(user_id, room_id, via)
        allowance = self._remote.allowance(_REQUESTS_A_PAGE, _REMOTE_SECONDS)
        try:
            remote = await self._remote.find(room_id, servers, allowance, suggested_only=False)
        except AllowanceSpent:
            return None
        if remote is None or not await self.is_remote_accessible(user_id, remote.summary):
            return None
        return remote.summary

    async def look(
        self, user_id: UserID, step: _Step, allowance: Allowance, *, suggested_only: bool
    ) -> _Found | None:
        """Return what a user is shown of a room; None: nothing. Raises AllowanceSpent.

        What was told of a room with the space above will do, unless it is a space itself.
        """
        room = await self._find_resident(step.room_id)
        if room is not None:
            if not await self.is_accessible(user_id, room):
                return None
            return _Found(summary_of(room), children_of(room, suggested_only=suggested_only))
        summary, remote = step.told, None
        if step.is_closed:
            return None
        if summary is None or summary.get("room_type") == SPACE:
            remote = await self._remote.find(
                step.room_id, step.via, allowance, suggested_only=suggested_only
            )
        if remote is not None:
            summary = remote.summary
        if summary is None or not await self.is_remote_accessible(user_id, summary):
            return None
        return _Found(summary, () if remote is None else remote.children_state, remote)

    async def is_accessible(self, user_id: UserID, room: LiveRoom) -> bool:
        """Tell whether a user is in a room that is known here, may join it, ask to, or read it."""
        membership = room.membership_of(user_id)
        if membership in ("join", "invite"):
            return True
        if membership == "ban":
            return False
        if _is_open(join_rule_of(room), room.history_visibility):
            return True
        return await self._is_in_any(user_id, allowed_rooms(room))

    async def is_remote_accessible(self, user_id: UserID, summary: JsonObject) -> bool:
        """As `is_accessible`, of a room that is known by another server's words alone."""
        mine = await self._user_rooms.rooms_of(user_id)
        known = mine.get(RoomID(str(summary["room_id"])))
        if known is not None and known.membership in ("invite", "ban"):
            return known.membership == "invite"
        if summary.get("join_rule", "public") in _OPEN or summary["world_readable"] is True:
            return True
        allowed = summary.get("allowed_room_ids")
        return isinstance(allowed, list) and await self._is_in_any(user_id, allowed)

    async def _is_in_any(self, user_id: UserID, room_ids: Iterable[object]) -> bool:
        mine = await self._user_rooms.rooms_of(user_id)
        found = (mine.get(RoomID(str(room_id))) for room_id in room_ids)
        return any(room is not None and room.membership == "join" for room in found)

    async def _find_resident(self, room_id: RoomID) -> LiveRoom | None:
        """Return the room if this server is in it, so that what it knows of it is the present."""
        room = await self._live_rooms.find(room_id)
        return room if room is not None and self._server_name in room.servers else None


class _Walk:
    """One walk through a space for one page."""

    def __init__(
        self, spaces: Spaces, user_id: UserID, wish: HierarchyWish, allowance: Allowance
    ) -> None:
        self._spaces = spaces
        self._user_id = user_id
        self._wish = wish
        self._allowance = allowance
        self._depths: dict[RoomID, int] = {}
        """The rooms that the walk has come to, and the least depth at which it has."""
        self._shown: set[RoomID] = set()

    async def page(self, root: _Step) -> bytes:
        """Return the page that the token asks for. Raises InvalidParam, Forbidden.

        1. Go to the next room, unless it has been come to by as short a way.
        2. Look at it; if too many servers would have to be asked, the page ends before it.
        3. Show it, once, unless an earlier page has.   4. Go on with its rooms.
        """
        skip = _parse_token(self._wish, root.room_id)
        rooms: list[bytes] = []
        size = 0
        stack = [root]
        for _ in range(_MAX_STEPS):
            if not stack or len(self._shown) >= _MAX_ROOMS:
                return _page(rooms, None)
            step = stack.pop()
            if self._depths.get(step.room_id, _MAX_DEPTH + 1) <= step.depth:  # 1
                continue
            try:
                found = await self._look(step)  # 2
            except AllowanceSpent:
                if rooms:
                    token = _make_token(self._wish, root.room_id, skip + len(rooms))
                    return _page(rooms, token)
                found = None  # a page has something in it; the walk goes on with what is known
            if found is None:
                if step is root:
                    raise Forbidden("You are not allowed to view this room")
                continue
            if step.room_id not in self._shown:  # 3
                if len(self._shown) >= skip:
                    if len(rooms) == self._wish.limit or size > _MAX_PAGE_BYTES:
                        token = _make_token(self._wish, root.room_id, skip + len(rooms))
                        return _page(rooms, token)
                    shown = {**found.summary, "children_state": list(found.children)}
                    rooms.append(orjson.dumps(shown))
                    size += len(rooms[-1])
                self._shown.add(step.room_id)
            self._depths[step.room_id] = step.depth
            if step.depth < (self._wish.max_depth or 0):  # 4
                stack += reversed(list(_children(found, step.depth + 1)))
        return _page(rooms, None)

    async def _look(self, step: _Step) -> _Found | None:
        return await self._spaces.look(
            self._user_id,
            step,
            self._allowance,
            suggested_only=self._wish.suggested_only,
        )


def _children(found: _Found, depth: int) -> Iterator[_Step]:
    remote = found.remote
    for child in found.children:
        room_id = find_room_id(child["state_key"])
        if room_id is not None:
            yield _Step(
                room_id,
                depth,
                tuple(list_via(child)),
                told=None if remote is None else remote.children.get(room_id),
                is_closed=remote is not None and room_id in remote.inaccessible,
            )


def _page(rooms: Sequence[bytes], next_batch: str | None) -> bytes:
    head = b'{"rooms":[' + b",".join(rooms) + b"]"
    if next_batch is None:
        return head + b"}"
    return head + b',"next_batch":' + orjson.dumps(next_batch) + b"}"


def _make_token(wish: HierarchyWish, room_id: RoomID, shown: int) -> str:
    """The rest of the token must stay the same from page to page."""
    asked = f"{wish.max_depth}|{wish.suggested_only}|{room_id}"
    return f"{shown}_{hashlib.sha256(asked.encode()).hexdigest()[:16]}"


def _parse_token(wish: HierarchyWish, room_id: RoomID) -> int:
    """Return how many rooms earlier pages have shown. Raises InvalidParam."""
    if wish.from_token is None:
        return 0
    count = wish.from_token.partition("_")[0]
    shown = int(count) if count.isascii() and count.isdigit() and len(count) < 6 else 0  # noqa: PLR2004 - more is none of ours
    if not 0 < shown <= _MAX_ROOMS or wish.from_token != _make_token(wish, room_id, shown):
        raise InvalidParam("from is no token of this walk; suggested_only and max_depth must stay")
    return shown


def _is_open(join_rule: str, visibility: HistoryVisibility) -> bool:
    return join_rule in _OPEN or visibility is HistoryVisibility.WORLD_READABLE
