"""Creating a room.

spec: client-server-api/#creation, #room-upgrades (for the v12 rules), v1.19. All events of a new
room are committed together: a room is there whole or not at all.

Order of events: 1 create, 2 the creator's join, 3 power levels, 4 alias, 5 preset, 6 initial_state,
7 name and topic, 8 invitations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from homeserver.clock import Clock
from homeserver.core.errors import EventMalformed, EventRejected
from homeserver.core.events import Event, make_event
from homeserver.core.identifiers import (
    IdentifierInvalid,
    RoomAlias,
    RoomID,
    ServerName,
    UserID,
    parse_room_alias,
)
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.room_versions import CREATABLE_ROOM_VERSIONS, RoomVersion, find_room_version
from homeserver.core.signing import SigningKey
from homeserver.engine.event_author import EventAuthor
from homeserver.engine.live_rooms import MEMBER, LiveRoom, LiveRooms
from homeserver.engine.room_change import EventTemplate
from homeserver.errors import (
    BadJSON,
    BadRequest,
    DatabaseUnavailable,
    InvalidParam,
    LimitExceeded,
    RoomInUse,
)
from homeserver.randomness import Randomness
from homeserver.services.profiles import Profiles
from homeserver.storage import aliases, rooms
from homeserver.storage.database import Database
from homeserver.storage.query import Txn

_MAX_INVITES = 100
_MAX_ROOMS_AT_ONCE = 50
_MAX_INITIAL_STATE = 200


@dataclass(frozen=True)
class InitialState:
    type: str
    content: JsonObject
    state_key: str = ""


@dataclass(frozen=True)
class RoomWish:
    """The body of createRoom."""

    name: str | None = None
    topic: str | None = None
    preset: str | None = None
    visibility: str = "private"
    room_alias_name: str | None = None
    room_version: str | None = None
    invite: list[UserID] = field(default_factory=list)
    invite_3pid: list[JsonObject] = field(default_factory=list)
    is_direct: bool = False
    creation_content: JsonObject = field(default_factory=dict)
    initial_state: list[InitialState] = field(default_factory=list)
    power_level_content_override: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class _Preset:
    join_rule: str
    guest_access: str
    trusts_invitees: bool = False


_PRESETS: Mapping[str, _Preset] = {
    "private_chat": _Preset("invite", "can_join"),
    "trusted_private_chat": _Preset("invite", "can_join", trusts_invitees=True),
    "public_chat": _Preset("public", "forbidden"),
}


@dataclass(frozen=True)
class RoomMaker:
    """What makes the first event of a room."""

    server_name: ServerName
    signing_key: SigningKey
    clock: Clock
    randomness: Randomness
    default_version: str


class RoomCreation:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        author: EventAuthor,
        profiles: Profiles,
        maker: RoomMaker,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._author = author
        self._profiles = profiles
        self._maker = maker

    async def create(self, creator: UserID, wish: RoomWish) -> RoomID:
        """Raises BadRequest and its kin, Forbidden, RoomInUse."""
        version_id = wish.room_version or self._maker.default_version
        version = find_room_version(version_id)
        if version is None or version_id not in CREATABLE_ROOM_VERSIONS:
            raise BadRequest(
                f"Rooms of version {version_id} are not made here",
                errcode="M_UNSUPPORTED_ROOM_VERSION",
            )
        preset = _preset_of(wish)
        if wish.invite_3pid:
            raise InvalidParam("This server has no identity server to invite by e-mail or phone")
        if len(wish.invite) > _MAX_INVITES or len(wish.initial_state) > _MAX_INITIAL_STATE:
            raise InvalidParam(
                f"At most {_MAX_INVITES} invitations and {_MAX_INITIAL_STATE} initial states"
            )
        alias = self._alias(wish)
        try:
            room_nid, create = await self._begin(creator, version, preset, wish, alias)
        except _AliasTaken as error:
            raise RoomInUse(f"{alias} is taken") from error
        room_id = create.room_id
        self._live_rooms.add(LiveRoom(room_nid, room_id, version))
        try:
            templates = await self._templates(creator, create, version, preset, wish, alias)
            await self._author.send_all(room_id, templates)
        except DatabaseUnavailable:
            # Nobody knows whether the room is there; if it is not, its traces go at the next start.
            self._live_rooms.drop(room_id)
            raise
        except BaseException:
            self._live_rooms.drop(room_id)
            await self._db.run(delete_unfinished_txn, room_nid)
            raise
        return room_id

    async def _templates(
        self,
        creator: UserID,
        create: Event,
        version: RoomVersion,
        preset: _Preset,
        wish: RoomWish,
        alias: RoomAlias | None,
    ) -> list[EventTemplate]:
        templates = [
            EventTemplate("m.room.create", creator, create.content, "", event=create),
            EventTemplate(MEMBER, creator, await self._member(creator, "join"), creator),
            EventTemplate(
                "m.room.power_levels", creator, _power_levels(creator, version, preset, wish), ""
            ),
        ]
        if alias is not None:
            templates.append(EventTemplate("m.room.canonical_alias", creator, {"alias": alias}, ""))
        templates += _preset_state(creator, preset, wish)
        templates += _wished_state(creator, wish)
        for user_id in dict.fromkeys(wish.invite):
            if user_id == creator:
                continue
            content = await self._member(user_id, "invite")
            if wish.is_direct:
                content["is_direct"] = True
            templates.append(EventTemplate(MEMBER, creator, content, user_id))
        return templates

    def _alias(self, wish: RoomWish) -> RoomAlias | None:
        if wish.room_alias_name is None:
            return None
        try:
            return parse_room_alias(f"#{wish.room_alias_name}:{self._maker.server_name}")
        except IdentifierInvalid as error:
            raise InvalidParam(f"room_alias_name: {error}") from error

    async def _begin(
        self,
        creator: UserID,
        version: RoomVersion,
        preset: _Preset,
        wish: RoomWish,
        alias: RoomAlias | None,
    ) -> tuple[int, Event]:
        """Return the number of the new room and its first event.

        From version 12 on the id is the hash of that event: rooms made alike in the same
        millisecond would be one, so the next free millisecond is taken.
        """
        now_ms = self._maker.clock.now_ms()
        for later_ms in range(_MAX_ROOMS_AT_ONCE):
            event = self._create_event(creator, version, preset, wish, now_ms + later_ms)
            room_nid = await self._db.run(
                begin_txn, event, alias, is_public=wish.visibility == "public"
            )
            if room_nid is not None:
                return room_nid, event
        raise LimitExceeded("Too many rooms at once; wait a little", retry_after_ms=1000)

    def _create_event(
        self,
        creator: UserID,
        version: RoomVersion,
        preset: _Preset,
        wish: RoomWish,
        origin_server_ts: int,
    ) -> Event:
        content: JsonObject = {**wish.creation_content, "room_version": version.id}
        if not version.implicit_room_creator:
            content["creator"] = creator
        if version.privileged_creators and preset.trusts_invitees and wish.invite:
            named = content.get("additional_creators")
            others = list(named) if isinstance(named, list) else []
            content["additional_creators"] = list(dict.fromkeys([*others, *wish.invite]))
        room_id = (
            None
            if version.room_id_is_create_hash
            else RoomID(f"!{self._maker.randomness.token(18)}:{self._maker.server_name}")
        )
        try:
            return make_event(
                version,
                room_id=room_id,
                type="m.room.create",
                sender=creator,
                state_key="",
                content=content,
                depth=1,
                origin_server_ts=origin_server_ts,
                prev_events=[],
                auth_events=[],
                server_name=self._maker.server_name,
                signing_key=self._maker.signing_key,
            )
        except (EventMalformed, EventRejected) as error:
            raise BadJSON(f"creation_content: {error}") from error

    async def _member(self, user_id: UserID, membership: str) -> JsonObject:
        content: JsonObject = {"membership": membership}
        content |= await self._profiles.get_member_fields(user_id)
        return content


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


def _preset_of(wish: RoomWish) -> _Preset:
    if wish.visibility not in ("public", "private"):
        raise InvalidParam("visibility must be public or private")
    name = wish.preset or ("public_chat" if wish.visibility == "public" else "private_chat")
    preset = _PRESETS.get(name)
    if preset is None:
        raise InvalidParam("preset must be one of " + ", ".join(_PRESETS))
    return preset


def _power_levels(
    creator: UserID, version: RoomVersion, preset: _Preset, wish: RoomWish
) -> JsonObject:
    users: dict[str, JsonValue] = {}
    if not version.privileged_creators:
        users[creator] = 100
        if preset.trusts_invitees:
            users |= dict.fromkeys(wish.invite, 100)
    events: JsonObject = {
        "m.room.name": 50,
        "m.room.avatar": 50,
        "m.room.canonical_alias": 50,
        "m.room.power_levels": 100,
        "m.room.history_visibility": 100,
        "m.room.encryption": 100,
        "m.room.server_acl": 100,
        "m.room.tombstone": 150 if version.privileged_creators else 100,
    }
    content: JsonObject = {
        "users": users,
        "users_default": 0,
        "events": events,
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 0,
    }
    return {**content, **wish.power_level_content_override}


def _preset_state(creator: UserID, preset: _Preset, wish: RoomWish) -> list[EventTemplate]:
    """The preset's state, but for what initial_state says otherwise."""
    wished = {(state.type, state.state_key) for state in wish.initial_state}
    values: list[tuple[str, JsonObject]] = [
        ("m.room.join_rules", {"join_rule": preset.join_rule}),
        ("m.room.history_visibility", {"history_visibility": "shared"}),
        ("m.room.guest_access", {"guest_access": preset.guest_access}),
    ]
    return [
        EventTemplate(event_type, creator, content, "")
        for event_type, content in values
        if (event_type, "") not in wished
    ]


def _wished_state(creator: UserID, wish: RoomWish) -> Sequence[EventTemplate]:
    templates = []
    for state in wish.initial_state:
        if state.type in ("m.room.create", MEMBER):
            raise InvalidParam(f"initial_state cannot set {state.type}")
        templates.append(EventTemplate(state.type, creator, state.content, state.state_key))
    if wish.name is not None:
        templates.append(EventTemplate("m.room.name", creator, {"name": wish.name}, ""))
    if wish.topic is not None:
        content: JsonObject = {
            "topic": wish.topic,
            "m.topic": {"m.text": [{"body": wish.topic}]},
        }
        templates.append(EventTemplate("m.room.topic", creator, content, ""))
    return templates
