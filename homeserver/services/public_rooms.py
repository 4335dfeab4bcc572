"""The directory of published rooms: its pages, and what is in it.

spec: client-server-api/#published-room-directory, server-server-api/#published-room-directory,
v1.19. The order is by members, largest first, then by room id; a page's token names where it ends
in that order, so rooms that come and go move no others. Invariant: nothing is in the directory that
nobody has put there, and no room that this server has left.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import DeferredLock

from homeserver.clock import Clock
from homeserver.core.identifiers import RoomID, ServerName, UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.errors import Forbidden, InvalidParam, NotFound
from homeserver.services.room_summaries import published_entry
from homeserver.storage import network_rooms, rooms
from homeserver.storage.database import Database

_FRESH_SECONDS = 5.0
"""A change in a room may show so much later."""
_MAX_ROOMS = 20_000
_MAX_PAGE = 500
_ROOMS_AT_ONCE = 100
"""Looked at before others get their turn."""
_Key = tuple[int, str]
"""Place in the order: members, negative, and room id."""


@dataclass(frozen=True)
class RoomFilter:
    generic_search_term: str | None = None
    room_types: list[str | None] | None = None


@dataclass(frozen=True)
class RoomsQuery:
    """The body of queryPublicRooms."""

    limit: int | None = None
    since: str | None = None
    filter: RoomFilter = field(default_factory=RoomFilter)
    include_all_networks: bool = False
    third_party_instance_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Listed:
    key: _Key
    entry: JsonObject
    text: str
    """What is searched, in small letters."""
    is_federated: bool
    networks: Collection[str]
    """Ids of the networks it is listed for; "" for the directory of the server itself."""


@dataclass(frozen=True, slots=True)
class _Known:
    last_event: int
    room: tuple[_Key, JsonObject, str, bool] | None
    """None: this server is not in the room any more."""


class PublicRooms:
    def __init__(
        self, database: Database, live_rooms: LiveRooms, clock: Clock, server_name: ServerName
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._clock = clock
        self._server_name = server_name
        self._known: dict[RoomID, _Known] = {}
        """What the listed rooms looked like; a room that has not moved since is not loaded."""
        self._listed: list[_Listed] = []
        self._fresh_until = float("-inf")
        self._reading = DeferredLock()

    async def list_page(self, query: RoomsQuery, *, for_server: bool = False) -> JsonObject:
        """Return a page of the directory.

        for_server  another server asks: it is not shown rooms that it could not join
        Raises InvalidParam.
        """
        if query.limit is not None and query.limit < 0:
            raise InvalidParam("limit must not be negative")
        limit = min(query.limit or _MAX_PAGE, _MAX_PAGE)
        listed = [
            room
            for room in await self._list()
            if (room.is_federated or not for_server)
            and (
                query.include_all_networks or (query.third_party_instance_id or "") in room.networks
            )
        ]
        found = _matching(listed, query.filter)
        start, end = _bounds(found, query.since, limit)
        page: JsonObject = {
            "chunk": [room.entry for room in found[start:end]],
            "total_room_count_estimate": len(listed),
        }
        if end < len(found) and end > start:
            page["next_batch"] = _token("n", found[end - 1].key)
        if start > 0 and end > start:
            page["prev_batch"] = _token("p", found[start].key)
        return page

    async def get_visibility(self, room_id: RoomID) -> str:
        room = await self._get_room(room_id)
        is_public = await self._db.read(rooms.is_public_room, room.room_nid)
        return "public" if is_public else "private"

    async def set_visibility(self, user_id: UserID, room_id: RoomID, *, is_public: bool) -> None:
        """By a member who may set the room's canonical alias. Raises NotFound, Forbidden."""
        room = await self._get_room(room_id)
        levels = room.power_levels
        if room.membership_of(user_id) != "join":
            raise Forbidden("You are not in this room")
        needed = levels.event_level("m.room.canonical_alias", is_state=True)
        if levels.user_level(user_id) < needed:
            raise Forbidden("You may not change whether the room is in the directory")
        change = rooms.insert_public_room if is_public else rooms.delete_public_room
        await self._db.run(change, room.room_nid)
        self._fresh_until = float("-inf")

    async def set_network_visibility(
        self, appservice_id: str, network_id: str, room_id: RoomID, *, is_public: bool
    ) -> None:
        """Put a room into the directory of a network, or take it out. Raises NotFound."""
        if "\0" in network_id:
            raise InvalidParam("NUL is not possible in the name of a network")
        room = await self._get_room(room_id)
        change = (
            network_rooms.insert_network_room if is_public else network_rooms.delete_network_room
        )
        await self._db.run(change, appservice_id, network_id, room.room_nid)
        self._fresh_until = float("-inf")

    async def _get_room(self, room_id: RoomID) -> LiveRoom:
        room = await self._live_rooms.find(room_id)
        if room is None:
            raise NotFound("Unknown room")
        return room

    async def _list(self) -> Sequence[_Listed]:
        """Return every listed room in order, as it was a few seconds ago at most."""
        if self._clock.monotonic() >= self._fresh_until:
            await self._reading.acquire()
            try:
                if self._clock.monotonic() >= self._fresh_until:
                    self._listed = await self._read()
                    self._fresh_until = self._clock.monotonic() + _FRESH_SECONDS
            finally:
                self._reading.release()
        return self._listed

    async def _read(self) -> list[_Listed]:
        """1 which rooms are listed 2 look at those that have moved 3 put them in order."""
        networks: dict[int, list[str]] = {}
        for listing in await self._db.read(network_rooms.list_network_rooms):  # 1
            instance_id = f"{listing.appservice_id}|{listing.network_id}"
            networks.setdefault(listing.room_nid, []).append(instance_id)
        rows = await self._db.read(rooms.list_listed_rooms, _MAX_ROOMS)
        known: dict[RoomID, _Known] = {}
        listed = []
        for number, row in enumerate(rows, 1):
            found = self._known.get(row.room_id)
            if found is None or found.last_event != row.last_event:  # 2
                found = await self._look(row.room_id, row.last_event)
                if number % _ROOMS_AT_ONCE == 0:
                    await self._clock.sleep(0)
            known[row.room_id] = found
            if found.room is not None:
                own = [""] if row.is_public else []
                listed.append(_Listed(*found.room, (*own, *networks.get(row.room_nid, ()))))
        self._known = known
        listed.sort(key=lambda room: room.key)  # 3
        return listed

    async def _look(self, room_id: RoomID, last_event: int) -> _Known:
        room = await self._live_rooms.find(room_id)
        if room is None or self._server_name not in room.servers:
            return _Known(last_event, None)
        entry = published_entry(room)
        texts = (entry.get(name, "") for name in ("name", "topic", "canonical_alias"))
        is_federated = room.find_content("m.room.create").get("m.federate") is not False
        key = (-len(room.joined), str(room_id))
        text = "\n".join(str(text) for text in texts).casefold()
        return _Known(last_event, (key, entry, text, is_federated))


def _matching(listed: Sequence[_Listed], wanted: RoomFilter) -> list[_Listed]:
    term = wanted.generic_search_term or ""
    text = term.casefold()
    types = None if wanted.room_types is None else frozenset(wanted.room_types)
    return [
        room
        for room in listed
        if (text in room.text or term == room.entry["room_id"])
        and (types is None or room.entry.get("room_type") in types)
    ]


def _bounds(found: Sequence[_Listed], since: str | None, limit: int) -> tuple[int, int]:
    """Return where a page begins and ends. Raises InvalidParam."""
    if since is None:
        return 0, limit
    direction, _, place = since.partition("~")
    count, _, room_id = place.partition("~")
    if direction not in ("n", "p") or not count.isascii() or not count.isdigit() or not room_id:
        raise InvalidParam("since is no token of this server")
    key = (-int(count[:18]), room_id)
    if direction == "n":
        start = sum(room.key <= key for room in found)
        return start, min(start + limit, len(found))
    end = sum(room.key < key for room in found)
    return max(0, end - limit), end


def _token(direction: str, key: _Key) -> str:
    return f"{direction}~{-key[0]}~{key[1]}"
