"""The extensions that tell of rooms beside their events: account data, receipts, typing.

spec: MSC3959 (account data), MSC3960 (receipts), MSC3961 (typing) beside v1.19. Each tells all
there is of a room when it first comes into the extension's scope, and what has changed since while
it is there or when it comes back.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.services.account_data import AccountData, Changes
from homeserver.services.receipts import Receipts
from homeserver.services.sliding_sync.connections import Answer, Heard
from homeserver.services.sliding_sync.room_list import Match
from homeserver.services.sliding_sync.wishes import ExtensionWish
from homeserver.services.sync.token import SyncToken
from homeserver.services.typing import Typing

ACCOUNT_DATA = "account_data"
RECEIPTS = "receipts"
TYPING = "typing"


@dataclass(frozen=True, slots=True)
class Scene:
    """What the extensions need to know of an answer under way."""

    user_id: UserID
    before: Answer | None
    now: SyncToken
    matches: Mapping[RoomID, Match]
    subscribed: Collection[RoomID]
    timelines: Mapping[RoomID, Sequence[EventID]]
    """The events told of each room in this answer."""
    account_data: Changes
    """What has changed since the answer before, or all there is."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """The rooms an extension tells of."""

    fresh: frozenset[RoomID]
    """Never told of before."""
    known: frozenset[RoomID]
    since: int
    """What was told of `known` reaches to here at least."""
    heard: Heard
    """Where it stands afterwards."""


@dataclass(frozen=True, slots=True)
class Extension:
    told: JsonObject
    """Empty: there is nothing to tell."""
    heard: Heard


class RoomExtensions:
    def __init__(self, account_data: AccountData, receipts: Receipts, typing: Typing) -> None:
        self._account_data = account_data
        self._receipts = receipts
        self._typing = typing

    async def tell(self, name: str, wish: ExtensionWish, scene: Scene) -> Extension:
        """`name` is one of the three above."""
        if name == ACCOUNT_DATA:
            return await self._tell_account_data(wish, scene)
        if name == RECEIPTS:
            return await self._tell_receipts(wish, scene)
        return self._tell_typing(wish, scene)

    async def _tell_account_data(self, wish: ExtensionWish, scene: Scene) -> Extension:
        now = scene.now.account_data
        scope = _scope(ACCOUNT_DATA, wish, scene, now, only_joined=False)
        before = scene.before
        is_new = before is None or ACCOUNT_DATA not in before.heard
        if before is None or (not is_new and scope.since == before.now.account_data):
            of_user, changed = scene.account_data
        elif is_new:
            of_user, changed = await self._account_data.initial(scene.user_id)
        else:
            of_user, changed = await self._account_data.changes(scene.user_id, scope.since, now)
        of_rooms = {room_id: changed[room_id] for room_id in scope.known & changed.keys()}
        if scope.fresh:
            every = changed
            if not is_new:
                _, every = await self._account_data.initial(scene.user_id)
            of_rooms |= {room_id: every[room_id] for room_id in scope.fresh & every.keys()}
        told: JsonObject = {}
        if of_user:
            told["global"] = list(of_user)
        if of_rooms:
            told["rooms"] = {room_id: list(events) for room_id, events in of_rooms.items()}
        return Extension(told, scope.heard)

    async def _tell_receipts(self, wish: ExtensionWish, scene: Scene) -> Extension:
        """Of a room told of for the first time, only those of its timeline, and the user's own."""
        now = scene.now.receipts
        scope = _scope(RECEIPTS, wish, scene, now, only_joined=True)
        contents: dict[RoomID, JsonObject] = {}
        if scope.fresh:
            found = await self._receipts.initial(scope.fresh, scene.user_id)
            for room_id, content in found.items():
                contents[room_id] = _of_timeline(
                    content, scene.timelines.get(room_id), scene.user_id
                )
        if scope.known and scope.since < now:
            contents |= await self._receipts.changes(scope.known, scope.since, now, scene.user_id)
        return _of_rooms("m.receipt", contents, scope)

    def _tell_typing(self, wish: ExtensionWish, scene: Scene) -> Extension:
        scope = _scope(TYPING, wish, scene, scene.now.typing, only_joined=True)
        contents = {}
        for room_id in scope.fresh:
            content = self._typing.current(room_id)
            if content["user_ids"]:
                contents[room_id] = content
        if scope.since < scene.now.typing:
            for room_id in scope.known:
                if self._typing.position_of(room_id) > scope.since:
                    contents[room_id] = self._typing.current(room_id)
        return _of_rooms("m.typing", contents, scope)


def _scope(name: str, wish: ExtensionWish, scene: Scene, now: int, *, only_joined: bool) -> _Scope:
    """Find the rooms an extension tells of, and where it stands when it has."""
    rooms = frozenset(
        room_id
        for room_id, match in scene.matches.items()
        if (match.listed.mine.membership == "join" or not only_joined)
        and (
            (room_id in scene.subscribed and (wish.rooms is None or room_id in wish.rooms))
            or (match.lists and (wish.lists is None or not wish.lists.isdisjoint(match.lists)))
        )
    )
    before = None if scene.before is None else scene.before.heard.get(name)
    if before is None:
        return _Scope(rooms, frozenset(), 0, Heard(now, rooms, {}))
    if rooms == before.live:
        return _Scope(frozenset(), rooms, before.up_to, Heard(now, before.live, before.behind))
    back = rooms & before.behind.keys()
    behind = {room_id: at for room_id, at in before.behind.items() if room_id not in rooms}
    behind |= dict.fromkeys(before.live - rooms, before.up_to)
    since = min([before.up_to, *(before.behind[room_id] for room_id in back)])
    return _Scope(
        rooms - before.live - back, rooms & (before.live | back), since, Heard(now, rooms, behind)
    )


def _of_rooms(event_type: str, contents: Mapping[RoomID, JsonObject], scope: _Scope) -> Extension:
    rooms: JsonObject = {
        room_id: {"type": event_type, "content": content}
        for room_id, content in contents.items()
        if content
    }
    return Extension({"rooms": rooms} if rooms else {}, scope.heard)


def _of_timeline(
    content: JsonObject, timeline: Sequence[EventID] | None, user_id: UserID
) -> JsonObject:
    if timeline is None:
        return content
    kept: JsonObject = {}
    for event_id, kinds in content.items():
        assert isinstance(kinds, dict), "a receipt's content is by event, kind and user"
        if event_id in timeline:
            kept[event_id] = kinds
            continue
        own: JsonObject = {
            kind: {user_id: by_user[user_id]}
            for kind, by_user in kinds.items()
            if isinstance(by_user, dict) and user_id in by_user
        }
        if own:
            kept[event_id] = own
    return kept
