"""The authorization rules, all but those of m.room.member.

spec: rooms/v12/#authorization-rules and the earlier versions, v1.19. Invariant: the answer depends
on the event and the state given, on nothing else; a malformed value is refused, never an accident.

Rule names are stable and do not follow the specification's numbers, which differ by version.
"""

from collections.abc import Mapping, Sequence

from homeserver.core.auth_events import auth_types_of
from homeserver.core.errors import EventRejected, IdentifierInvalid
from homeserver.core.events import Event
from homeserver.core.identifiers import parse_user_id, server_name_of
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.membership_auth import check_membership
from homeserver.core.power_levels import (
    DEFAULT_LEVELS,
    PowerLevels,
    creators_of,
    parse_level,
    power_levels_of,
)
from homeserver.core.room_versions import ROOM_VERSIONS, RoomVersion

__all__ = [
    "EventRejected",
    "StateMap",
    "check_auth_events_selection",
    "check_event_auth",
    "may_apply_redaction",
]

StateMap = Mapping[tuple[str, str], Event]


def check_event_auth(event: Event, state: StateMap) -> None:
    """Raise EventRejected unless the state allows the event.

    `state` holds m.room.create in every room version, also where auth_events leave it out. The
    choice of auth_events is checked by `check_auth_events_selection`; signatures by the caller.
    """
    if event.type == "m.room.create":
        _check_create(event)
        return
    version = event.room_version
    create_event = state.get(("m.room.create", ""))
    if create_event is None:
        raise EventRejected("room.no_create", "the state has no m.room.create")
    if create_event.room_id != event.room_id:
        raise EventRejected("room.other_create", "m.room.create belongs to another room")
    _check_federation(event, create_event)
    if event.type == "m.room.aliases" and version.special_case_aliases:
        _check_aliases(event)
        return
    power_levels = power_levels_of(version, state)
    if event.type == "m.room.member":
        check_membership(event, state, create_event, power_levels)
        return
    _check_sender(event, state, power_levels)
    if event.type == "m.room.power_levels":
        _check_power_levels(event, state, create_event, power_levels)
    elif event.type == "m.room.redaction" and version.redaction_is_authorized:
        _check_redaction(event, power_levels)


def check_auth_events_selection(event: Event, auth_events: Sequence[Event]) -> None:
    """Raise EventRejected unless the event cites what it may cite.

    `auth_events` are those of the event. Whether one was itself rejected is the caller's to know.
    """
    version = event.room_version
    expected = set(auth_types_of(version, event.type, event.sender, event.state_key, event.content))
    seen: set[tuple[str, str]] = set()
    for auth_event in auth_events:
        if auth_event.room_id != event.room_id:
            raise EventRejected("auth_events.other_room", f"{auth_event.event_id} is elsewhere")
        if auth_event.state_key is None:
            raise EventRejected("auth_events.unexpected", f"{auth_event.event_id} is no state")
        key = (auth_event.type, auth_event.state_key)
        if key in seen:
            raise EventRejected("auth_events.duplicate", f"two auth events of {key}")
        if key not in expected:
            raise EventRejected("auth_events.unexpected", f"{key} may not be cited")
        seen.add(key)
    needs_create = not version.room_id_is_create_hash and event.type != "m.room.create"
    if needs_create and ("m.room.create", "") not in seen:
        raise EventRejected("auth_events.no_create", "m.room.create is not cited")


def may_apply_redaction(redaction: Event, original: Event, power_levels: PowerLevels) -> bool:
    """Tell whether an accepted m.room.redaction takes effect.

    spec: rooms/v11/#handling-redactions. Versions 1 and 2 decide it in their auth rules.
    """
    if redaction.room_id != original.room_id or redaction.redacts != original.event_id:
        return False
    if redaction.room_version.redaction_is_authorized:
        return True
    if power_levels.user_level(redaction.sender) >= power_levels.redact:
        return True
    return server_name_of(redaction.sender) == server_name_of(original.sender)


def _check_create(event: Event) -> None:
    version = event.room_version
    content = event.content
    if event.prev_events:
        raise EventRejected("create.prev_events", "m.room.create has no previous events")
    if event.state_key != "":
        # NOTSPEC: any other state key would begin a room without a create event in its state.
        raise EventRejected("create.state_key", "m.room.create has the empty state key")
    if version.room_id_is_create_hash:
        if "room_id" in event.pdu:
            raise EventRejected("create.room_id", "m.room.create names no room id")
    elif server_name_of(event.room_id) != server_name_of(event.sender):
        raise EventRejected("create.room_id", "the room id is not of the sender's server")
    if "room_version" in content:
        room_version = content["room_version"]
        if not isinstance(room_version, str) or room_version not in ROOM_VERSIONS:
            raise EventRejected("create.room_version", "the room version is unknown")
    if not version.implicit_room_creator and "creator" not in content:
        raise EventRejected("create.creator", "m.room.create names no creator")
    if version.privileged_creators and "additional_creators" in content:
        additional = content["additional_creators"]
        if not isinstance(additional, list) or not all(map(_is_user_id, additional)):
            raise EventRejected("create.additional_creators", "not an array of user ids")


def _check_federation(event: Event, create_event: Event) -> None:
    if create_event.content.get("m.federate") is not False:
        return
    if server_name_of(event.sender) != server_name_of(create_event.sender):
        raise EventRejected("room.not_federated", "the room is closed to other servers")


def _check_aliases(event: Event) -> None:
    if event.state_key is None:
        raise EventRejected("aliases.state_key", "m.room.aliases is a state event")
    if event.state_key != server_name_of(event.sender):
        raise EventRejected("aliases.domain", "aliases are set by their own server")


def _check_sender(event: Event, state: StateMap, power_levels: PowerLevels) -> None:
    member = state.get(("m.room.member", event.sender))
    if member is None or member.membership != "join":
        raise EventRejected("sender.not_joined", f"{event.sender} is not in the room")
    level = power_levels.user_level(event.sender)
    if event.type == "m.room.third_party_invite":
        # This rule replaces all that follow.
        if level < power_levels.invite:
            raise EventRejected("third_party_invite.level", "the sender may not invite")
        return
    if level < power_levels.event_level(event.type, event.state_key is not None):
        raise EventRejected("sender.level", f"{event.sender} may not send {event.type}")
    if (
        event.state_key is not None
        and event.state_key.startswith("@")
        and event.state_key != event.sender
    ):
        raise EventRejected("sender.state_key", "the state key is another user's id")


def _check_redaction(event: Event, power_levels: PowerLevels) -> None:
    """Versions 1 and 2: who may redact is an auth rule."""
    if power_levels.user_level(event.sender) >= power_levels.redact:
        return
    redacted_domain = None if event.redacts is None else server_name_of(event.redacts)
    if redacted_domain is None or redacted_domain != server_name_of(event.event_id):
        raise EventRejected("redaction.level", "the sender may not redact events of other servers")


def _check_power_levels(
    event: Event, state: StateMap, create_event: Event, power_levels: PowerLevels
) -> None:
    version = event.room_version
    content = event.content
    _check_level_types(version, content)
    users = content.get("users", {})
    if version.privileged_creators and isinstance(users, dict):
        named = creators_of(create_event) & users.keys()
        if named:
            raise EventRejected("power_levels.creator", f"{min(named)} is a creator")
    previous = state.get(("m.room.power_levels", ""))
    if previous is None:
        return
    own_level = power_levels.user_level(event.sender)
    for key in DEFAULT_LEVELS:
        _check_level_change(version, own_level, key, previous.content, content)
    maps = ["events"]
    if version.limit_notifications_power_levels:
        maps.append("notifications")
    for name in maps:
        old_levels, new_levels = _map_of(previous.content, name), _map_of(content, name)
        for key in old_levels.keys() | new_levels.keys():
            _check_level_change(version, own_level, key, old_levels, new_levels)
    old_users, new_users = _map_of(previous.content, "users"), _map_of(content, "users")
    for user_id in old_users.keys() | new_users.keys():
        if _check_level_change(version, own_level, user_id, old_users, new_users):
            old_level = parse_level(version, old_users.get(user_id))
            if user_id != event.sender and old_level is not None and old_level >= own_level:
                raise EventRejected("power_levels.user", f"{user_id} is not below the sender")


def _check_level_types(version: RoomVersion, content: JsonObject) -> None:
    """Refuse what is not a level; before version 10 only `users` is looked at."""
    if version.integer_power_levels:
        for key in DEFAULT_LEVELS:
            if key in content and type(content[key]) is not int:
                raise EventRejected("power_levels.type", f"{key} is not an integer")
        for name in ("events", "notifications"):
            if name in content and not _is_level_map(version, content[name]):
                raise EventRejected("power_levels.type", f"{name} is not an object of integers")
    users = content.get("users", {})
    if not isinstance(users, dict) or not _is_level_map(version, users):
        raise EventRejected("power_levels.users", "users is not an object of levels")
    if not all(map(_is_user_id, users)):
        raise EventRejected("power_levels.users", "users names what is not a user id")


def _check_level_change(
    version: RoomVersion, own_level: int, key: str, old: JsonObject, new: JsonObject
) -> bool:
    """Refuse a change of a level from or to one above the sender's; tell whether it changed."""
    old_level, new_level = parse_level(version, old.get(key)), parse_level(version, new.get(key))
    if new_level is None and key in new:
        # Before version 10 the types are not checked beforehand, yet the change must be compared.
        raise EventRejected("power_levels.type", f"{key} is not a level")
    if old_level == new_level:
        return False
    if old_level is not None and old_level > own_level:
        raise EventRejected("power_levels.old", f"{key} is above the sender's level")
    if new_level is not None and new_level > own_level:
        raise EventRejected("power_levels.new", f"{key} would be above the sender's level")
    return True


def _map_of(content: JsonObject, name: str) -> JsonObject:
    value = content.get(name)
    return value if isinstance(value, dict) else {}


def _is_level_map(version: RoomVersion, value: JsonValue) -> bool:
    return isinstance(value, dict) and all(
        parse_level(version, level) is not None for level in value.values()
    )


def _is_user_id(value: JsonValue) -> bool:
    if not isinstance(value, str):
        return False
    try:
        parse_user_id(value)
    except IdentifierInvalid:
        return False
    return True
