"""Bringing a room into being: its id, its m.room.create and the events after it.

spec: client-server-api/#creation, rooms/v12/#event-format, v1.19.
Invariant: the events given are committed together; a room is there whole or not at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.clock import Clock
from homeserver.core.errors import EventMalformed, EventRejected
from homeserver.core.event_auth import check_event_auth
from homeserver.core.events import Event, make_event
from homeserver.core.identifiers import RoomAlias, RoomID, ServerName, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import RoomVersion, find_room_version
from homeserver.core.signing import SigningKey
from homeserver.engine.event_author import EventAuthor
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.room_change import EventTemplate
from homeserver.errors import BadJSON, BadRequest, DatabaseUnavailable, LimitExceeded, RoomInUse
from homeserver.randomness import Randomness
from homeserver.services.profiles import Profiles
from homeserver.storage import aliases, rooms
from homeserver.storage.database import Database
from homeserver.storage.query import Txn

_MAX_ROOMS_AT_ONCE = 50
_ROOM_ID_LENGTH = 18


@dataclass(frozen=True)
class Beginning:
    """What a room is from its first event on."""

    creator: UserID
    version: RoomVersion
    content: JsonObject
    """Of m.room.create, but for what follows from the two above."""
    alias: RoomAlias | None = None
    is_public: bool = False
    """In the room directory."""


@dataclass(frozen=True)
class Origin:
    """What the first event of a room is made with."""

    server_name: ServerName
    signing_key: SigningKey
    clock: Clock
    randomness: Randomness


class NewRooms:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        author: EventAuthor,
        profiles: Profiles,
        origin: Origin,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._author = author
        self._profiles = profiles
        self._origin = origin

    async def make(self, beginning: Beginning, templates: Sequence[EventTemplate]) -> RoomID:
        """Commit m.room.create, the creator's join and what follows.

        Raises BadRequest and its kin, Forbidden, RoomInUse when the alias is taken.
        """
        try:
            room_nid, create = await self._begin(beginning)
        except _AliasTaken as error:
            raise RoomInUse(f"{beginning.alias} is taken") from error
        room_id = create.room_id
        self._live_rooms.add(LiveRoom(room_nid, room_id, beginning.version))
        first = EventTemplate("m.room.create", create.sender, create.content, "", event=create)
        try:
            member: JsonObject = {"membership": "join"}
            member |= await self._profiles.get_member_fields(create.sender)
            join = EventTemplate(MEMBER, create.sender, member, create.sender)
            await self._author.send_all(room_id, [first, join, *templates])
        except DatabaseUnavailable:
            # Nobody knows whether the room is there; if it is not, its traces go at the next start.
            self._live_rooms.drop(room_id)
            raise
        except BaseException:
            self._live_rooms.drop(room_id)
            await self._db.run(delete_unfinished_txn, room_nid)
            raise
        return room_id

    async def _begin(self, beginning: Beginning) -> tuple[int, Event]:
        """Return the number of the new room and its first event.

        From version 12 on the id is the hash of that event: rooms made alike in the same
        millisecond would be one, so the next free millisecond is taken.
        """
        now_ms = self._origin.clock.now_ms()
        for later_ms in range(_MAX_ROOMS_AT_ONCE):
            event = self._create_event(beginning, now_ms + later_ms)
            room_nid = await self._db.run(
                begin_txn, event, beginning.alias, is_public=beginning.is_public
            )
            if room_nid is not None:
                return room_nid, event
        raise LimitExceeded("Too many rooms at once; wait a little", retry_after_ms=1000)

    def _create_event(self, beginning: Beginning, origin_server_ts: int) -> Event:
        version = beginning.version
        content: JsonObject = {
            key: value for key, value in beginning.content.items() if key != "creator"
        }
        content["room_version"] = version.id
        if not version.implicit_room_creator:
            content["creator"] = beginning.creator
        origin = self._origin
        room_id = None
        if not version.room_id_is_create_hash:
            room_id = RoomID(f"!{origin.randomness.token(_ROOM_ID_LENGTH)}:{origin.server_name}")
        try:
            event = make_event(
                version,
                room_id=room_id,
                type="m.room.create",
                sender=beginning.creator,
                state_key="",
                content=content,
                depth=1,
                origin_server_ts=origin_server_ts,
                prev_events=[],
                auth_events=[],
                server_name=origin.server_name,
                signing_key=origin.signing_key,
            )
            check_event_auth(event, {})
        except (EventMalformed, EventRejected) as error:
            raise BadJSON(f"creation_content: {error}") from error
        return event


def get_room_version(version_id: str) -> RoomVersion:
    """Raises BadRequest for a version that this server does not know."""
    version = find_room_version(version_id)
    if version is None:
        raise BadRequest(
            f"Rooms of version {version_id} are not made here",
            errcode="M_UNSUPPORTED_ROOM_VERSION",
        )
    return version


class _AliasTaken(Exception):
    """Another room has the alias."""


def begin_txn(txn: Txn, create: Event, alias: RoomAlias | None, *, is_public: bool) -> int | None:
    """Put down all of a room but its events; without them nobody finds it.

    Returns None when the room id is taken. Raises _AliasTaken.
    """
    room_nid = rooms.insert_room(txn, create.room_id, create.room_version.id)
    if room_nid is None:
        return None
    if alias is not None and not aliases.insert_alias(txn, alias, room_nid, create.sender):
        raise _AliasTaken
    if is_public:
        rooms.insert_public_room(txn, room_nid)
    return room_nid


def delete_unfinished_txn(txn: Txn, room_nid: int | None = None) -> None:
    """Take away what rooms without events have left: this room, or all of them."""
    unfinished = rooms.list_unfinished_rooms(txn, room_nid)
    aliases.delete_aliases_of(txn, unfinished)
    rooms.delete_rooms(txn, unfinished)
