"""Which rooms a request matches: the user's rooms by recency, through filters and ranges.

spec: MSC4186 beside v1.19, "Lists", "Subscriptions". Rooms the user has left by himself are not
listed, unless the connection has been told of them: it must learn that they are left.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from homeserver.core.identifiers import RoomID, UserID
from homeserver.engine.user_rooms import RoomOfUser, UserRooms
from homeserver.services.sliding_sync.marks import Marks
from homeserver.services.sliding_sync.room_facts import RoomFacts
from homeserver.services.sliding_sync.wishes import Filters, ListWish, RoomConfig
from homeserver.storage import sliding_sync
from homeserver.storage.database import Database

_MAX_REMEMBERED = 200_000


@dataclass(frozen=True, slots=True)
class Listed:
    """A room of the user's list."""

    mine: RoomOfUser
    position: int
    """Of its newest event; of the membership, if the user is not in."""


@dataclass(slots=True)
class Match:
    """A room that a request matches."""

    listed: Listed
    config: RoomConfig
    lists: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Matches:
    rooms: Mapping[RoomID, Match]
    counts: Mapping[str, int]
    """By list: how many rooms its filters let pass."""


class RoomList:
    def __init__(self, database: Database, user_rooms: UserRooms, facts: RoomFacts) -> None:
        self._db = database
        self._user_rooms = user_rooms
        self._facts = facts
        self._is_own: OrderedDict[int, bool] = OrderedDict()
        """By the event that ended a membership: whether it was the user's own doing."""
        self._listed: OrderedDict[UserID, Mapping[RoomID, Listed]] = OrderedDict()
        """What the newest request listed, for the next to take what has not moved from it."""
        self._remembered = 0
        """How many rooms that is in all."""

    async def all(
        self, user_id: UserID, rooms: Iterable[RoomOfUser], told: Collection[RoomID]
    ) -> dict[RoomID, Listed]:
        """Return the user's list, most recent first.

        rooms  with the memberships as they stood at the position of the answer
        told   rooms that the connection knows already
        """
        rooms = list(rooms)
        joined = [room for room in rooms if room.membership == "join"]
        last = await self._user_rooms.last_events(joined)
        before = self._listed.get(user_id, {})
        listed = [
            old
            if (old := before.get(room.room_id)) is not None
            and old.mine is room
            and old.position == last.get(room.room_nid, 0)
            else Listed(room, last.get(room.room_nid, 0))
            for room in joined
        ]
        others = [room for room in rooms if room.membership != "join"]
        listed += [
            Listed(room, room.event_nid)
            for room in others
            if room.room_id in told or await self._is_shown(user_id, room)
        ]
        listed.sort(key=attrgetter("position"), reverse=True)
        found = {each.mine.room_id: each for each in listed}
        self._remember(user_id, found)
        return found

    def _remember(self, user_id: UserID, listed: dict[RoomID, Listed]) -> None:
        self._remembered += len(listed) - len(self._listed.pop(user_id, ()))
        self._listed[user_id] = listed
        while self._remembered > _MAX_REMEMBERED:
            self._remembered -= len(self._listed.popitem(last=False)[1])

    async def match(
        self,
        user_id: UserID,
        listed: Mapping[RoomID, Listed],
        marks: Marks,
        lists: Mapping[str, ListWish],
        subscriptions: Mapping[RoomID, RoomConfig],
    ) -> Matches:
        matches: dict[RoomID, Match] = {}
        counts: dict[str, int] = {}

        def add(each: Listed, config: RoomConfig, list_name: str | None) -> None:
            match = matches.get(each.mine.room_id)
            if match is None:
                match = matches[each.mine.room_id] = Match(each, config)
            elif match.config is not config:
                match.config = match.config.combined(config)
            if list_name is not None:
                match.lists.append(list_name)

        for name, wish in lists.items():
            passed = await self._filter(user_id, listed, marks, wish.filters)
            counts[name] = len(passed)
            for each in _in_ranges(passed, wish.ranges):
                add(each, wish.config, name)
        for room_id, config in subscriptions.items():
            if room_id in listed:
                add(listed[room_id], config, None)
        for room_id, match in list(matches.items()):
            is_in = match.listed.mine.membership == "join"
            if is_in and match.config.wants_all_members and await self._facts.is_partial(room_id):
                del matches[room_id]  # it is told of when all members are known
        return Matches(matches, counts)

    async def _is_shown(self, user_id: UserID, room: RoomOfUser) -> bool:
        """Tell whether one who is not in the room, and never heard of it, hears of it."""
        if room.membership in ("invite", "knock"):
            return not await self._facts.is_ignored(user_id, room)
        if room.joined_nid is None:
            return False
        return room.membership == "ban" or not await self._has_left_himself(user_id, room)

    async def _has_left_himself(self, user_id: UserID, room: RoomOfUser) -> bool:
        if room.event_nid not in self._is_own:
            rooms = list((await self._user_rooms.rooms_of(user_id)).values())
            own = set(await self._db.read(sliding_sync.list_own_leaves, user_id))
            for other in (*rooms, room):
                if other.membership == "leave":
                    self._is_own[other.event_nid] = other.event_nid in own
            while len(self._is_own) > _MAX_REMEMBERED:
                self._is_own.popitem(last=False)
        return self._is_own.get(room.event_nid, False)

    async def _filter(
        self, user_id: UserID, listed: Mapping[RoomID, Listed], marks: Marks, filters: Filters
    ) -> list[Listed]:
        found = list(listed.values())
        if _asks_for_marks(filters):
            wanted_tags = None if filters.tags is None else frozenset(filters.tags)
            unwanted_tags = frozenset(filters.not_tags or ())
            found = [
                each
                for each in found
                if _passes_marks(each.mine, marks, filters)
                and _has_tags(marks.tags.get(each.mine.room_id), wanted_tags, unwanted_tags)
            ]
        if filters.spaces is not None:
            joined = {e.mine.room_id for e in listed.values() if e.mine.membership == "join"}
            in_spaces = await self._facts.in_spaces(filters.spaces, joined)
            found = [each for each in found if each.mine.room_id in in_spaces]
        by_facts = (filters.is_encrypted, filters.room_types, filters.not_room_types)
        if all(filter_ is None for filter_ in by_facts):
            return found
        wanted = None if filters.room_types is None else frozenset(filters.room_types)
        unwanted = frozenset(filters.not_room_types or ())
        passed = []
        for each in found:
            facts = self._facts.find(each.mine, each.position)
            if facts is None:
                facts = await self._facts.of(user_id, each.mine, each.position)
            if (
                filters.is_encrypted in (None, facts.is_encrypted)
                and (wanted is None or facts.room_type in wanted)
                and facts.room_type not in unwanted
            ):
                passed.append(each)
        return passed


def _asks_for_marks(filters: Filters) -> bool:
    asked = (filters.is_dm, filters.is_invited, filters.tags, filters.not_tags)
    return any(filter_ is not None for filter_ in asked)


def _passes_marks(mine: RoomOfUser, marks: Marks, filters: Filters) -> bool:
    return filters.is_dm in (None, mine.room_id in marks.direct) and filters.is_invited in (
        None,
        mine.membership == "invite",
    )


def _has_tags(
    tags: frozenset[str] | None, wanted: frozenset[str] | None, unwanted: frozenset[str]
) -> bool:
    if tags is None:
        return wanted is None
    return (wanted is None or not tags.isdisjoint(wanted)) and tags.isdisjoint(unwanted)


def _in_ranges(found: list[Listed], ranges: tuple[tuple[int, int], ...] | None) -> Iterable[Listed]:
    if ranges is None:
        return found
    shown: list[Listed] = []
    end = 0
    for first, last in sorted(ranges):
        shown += found[max(first, end) : last + 1]
        end = max(end, last + 1)
    return shown
