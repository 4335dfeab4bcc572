"""Creating a room: from what a user wishes for to its first events.

spec: client-server-api/#creation, v1.19.

Order of events: 1 create, 2 the creator's join, 3 power levels, 4 alias, 5 preset, 6 initial_state,
7 name and topic, 8 invitations. Users of other servers are invited afterwards: their servers have
a say in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from homeserver.core.identifiers import (
    IdentifierInvalid,
    RoomAlias,
    RoomID,
    ServerName,
    UserID,
    parse_room_alias,
    server_name_of,
)
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.room_versions import RoomVersion
from homeserver.engine.live_room import MEMBER
from homeserver.engine.room_change import EventTemplate
from homeserver.errors import BadRequest, Forbidden, InvalidParam
from homeserver.services.invitees import Invitees
from homeserver.services.membership import Membership
from homeserver.services.new_rooms import Beginning, NewRooms, get_room_version
from homeserver.services.profiles import Profiles

_MAX_INVITES = 100
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


class RoomCreation:
    def __init__(
        self,
        new_rooms: NewRooms,
        profiles: Profiles,
        membership: Membership,
        invitees: Invitees,
        server_name: ServerName,
        *,
        default_version: str,
    ) -> None:
        self._new_rooms = new_rooms
        self._profiles = profiles
        self._membership = membership
        self._invitees = invitees
        self._server_name = server_name
        self._default_version = default_version

    async def create(self, creator: UserID, wish: RoomWish) -> RoomID:
        """Raises BadRequest and its kin, RoomInUse.

        When a server cannot be told of an invitation of its user the room is there nevertheless,
        and the error says why: MatrixError, as `Membership.invite` raises it.
        """
        version = get_room_version(wish.room_version or self._default_version)
        preset = _preset_of(wish)
        if wish.invite_3pid:
            raise InvalidParam("This server has no identity server to invite by e-mail or phone")
        if len(wish.invite) > _MAX_INVITES or len(wish.initial_state) > _MAX_INITIAL_STATE:
            raise InvalidParam(
                f"At most {_MAX_INVITES} invitations and {_MAX_INITIAL_STATE} initial states"
            )
        beginning = Beginning(
            creator,
            version,
            _creation_content(version, preset, wish),
            self._alias(wish),
            is_public=wish.visibility == "public",
        )
        invited = [user_id for user_id in dict.fromkeys(wish.invite) if user_id != creator]
        here = [user_id for user_id in invited if server_name_of(user_id) == self._server_name]
        await self._invitees.check_willing(here)
        templates = await self._templates(beginning, preset, wish, here)
        try:
            room_id = await self._new_rooms.make(beginning, templates)
        except Forbidden as error:
            if error.errcode != Forbidden.errcode:
                raise
            raise BadRequest(error.message, errcode="M_INVALID_ROOM_STATE") from error
        for user_id in invited:
            if user_id not in here:
                await self._membership.invite(creator, room_id, user_id, is_direct=wish.is_direct)
        return room_id

    async def _templates(
        self, beginning: Beginning, preset: _Preset, wish: RoomWish, invited: Sequence[UserID]
    ) -> list[EventTemplate]:
        creator = beginning.creator
        levels = _power_levels(creator, beginning.version, preset, wish)
        templates = [
            EventTemplate("m.room.power_levels", creator, levels, ""),
        ]
        if beginning.alias is not None:
            alias: JsonObject = {"alias": beginning.alias}
            templates.append(EventTemplate("m.room.canonical_alias", creator, alias, ""))
        templates += _preset_state(creator, preset, wish)
        templates += _wished_state(creator, wish)
        for user_id in invited:
            content: JsonObject = {"membership": "invite"}
            content |= await self._profiles.get_member_fields(user_id)
            if wish.is_direct:
                content["is_direct"] = True
            templates.append(EventTemplate(MEMBER, creator, content, user_id))
        return templates

    def _alias(self, wish: RoomWish) -> RoomAlias | None:
        if wish.room_alias_name is None:
            return None
        try:
            return parse_room_alias(f"#{wish.room_alias_name}:{self._server_name}")
        except IdentifierInvalid as error:
            raise InvalidParam(f"room_alias_name: {error}") from error


def _creation_content(version: RoomVersion, preset: _Preset, wish: RoomWish) -> JsonObject:
    content = dict(wish.creation_content)
    if version.privileged_creators and preset.trusts_invitees and wish.invite:
        named = content.get("additional_creators")
        others = list(named) if isinstance(named, list) else []
        invited = [user_id for user_id in dict.fromkeys(wish.invite) if user_id not in others]
        content["additional_creators"] = [*others, *invited]
    return content


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
