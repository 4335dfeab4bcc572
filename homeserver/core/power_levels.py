"""Power levels: what m.room.power_levels and m.room.create say about who may do what.

spec: client-server-api/#mroompower_levels, rooms/v12/#authorization-rules, v1.19. Invariant: a
level that cannot be read counts as its default; reading levels never raises.
"""

import re
from collections.abc import Mapping

from homeserver.core.events import Event
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.room_versions import RoomVersion

__all__ = [
    "CREATOR_LEVEL",
    "DEFAULT_LEVELS",
    "PowerLevels",
    "creators_of",
    "parse_level",
    "power_levels_of",
]

CREATOR_LEVEL = 2**63
"""Stands for infinity: the level of creators from version 12 on, above every level there is."""

DEFAULT_LEVELS = {
    "users_default": 0,
    "events_default": 0,
    "state_default": 50,
    "ban": 50,
    "redact": 50,
    "kick": 50,
    "invite": 0,
}
_DEFAULT_NOTIFICATION_LEVEL = 50
_CREATOR_LEVEL_WITHOUT_EVENT = 100

# rooms/v1/#mroompower_levels-events-accept-values-as-strings
_LEVEL_STRING = re.compile(r"[ \t\n\r\f\v]*[+-]?[0-9]{1,400}[ \t\n\r\f\v]*")


class PowerLevels:
    """The levels of one room at one time, with every default filled in."""

    __slots__ = (
        "_creators",
        "_events",
        "_notifications",
        "_users",
        "ban",
        "create_event_id",
        "events_default",
        "invite",
        "kick",
        "redact",
        "state_default",
        "users_default",
    )

    def __init__(
        self, version: RoomVersion, create_event: Event, power_levels_event: Event | None
    ) -> None:
        self.create_event_id = create_event.event_id
        content = {} if power_levels_event is None else power_levels_event.content
        levels = {
            key: _level_or(version, content.get(key), default)
            for key, default in DEFAULT_LEVELS.items()
        }
        self.users_default = levels["users_default"]
        self.events_default = levels["events_default"]
        self.state_default = levels["state_default"]
        self.ban = levels["ban"]
        self.redact = levels["redact"]
        self.kick = levels["kick"]
        self.invite = levels["invite"]
        self._events = _level_map(version, content.get("events"))
        self._notifications = _level_map(version, content.get("notifications"))
        self._users = _level_map(version, content.get("users"))
        self._creators = creators_of(create_event) if version.privileged_creators else frozenset()
        if power_levels_event is None and not version.privileged_creators:
            self._users = dict.fromkeys(creators_of(create_event), _CREATOR_LEVEL_WITHOUT_EVENT)

    def user_level(self, user_id: str) -> int:
        if user_id in self._creators:
            return CREATOR_LEVEL
        return self._users.get(user_id, self.users_default)

    def event_level(self, event_type: str, is_state: bool) -> int:  # noqa: FBT001  # the agreed interface
        """Return the level needed to send an event of this type."""
        default = self.state_default if is_state else self.events_default
        return self._events.get(event_type, default)

    def notification_level(self, key: str) -> int:
        """Return the level needed to notify, for example, the whole `room`."""
        return self._notifications.get(key, _DEFAULT_NOTIFICATION_LEVEL)


def power_levels_of(version: RoomVersion, state: Mapping[tuple[str, str], Event]) -> PowerLevels:
    """Read the levels of a state that has an m.room.create; kept on the power levels event."""
    create_event = state["m.room.create", ""]
    power_levels_event = state.get(("m.room.power_levels", ""))
    if power_levels_event is None:
        return PowerLevels(version, create_event, None)
    cached = power_levels_event.cached_power_levels
    if isinstance(cached, PowerLevels) and cached.create_event_id == create_event.event_id:
        return cached
    levels = PowerLevels(version, create_event, power_levels_event)
    power_levels_event.cached_power_levels = levels
    return levels


def creators_of(create_event: Event) -> frozenset[str]:
    """Return the room's creators: one user, from version 12 on also the additional ones."""
    version = create_event.room_version
    if not version.implicit_room_creator:
        creator = create_event.content.get("creator")
        return frozenset({creator}) if isinstance(creator, str) else frozenset()
    if not version.privileged_creators:
        return frozenset({create_event.sender})
    additional = create_event.content.get("additional_creators")
    names = additional if isinstance(additional, list) else []
    return frozenset({create_event.sender, *(name for name in names if isinstance(name, str))})


def parse_level(version: RoomVersion, value: JsonValue) -> int | None:
    """Return the level, or None if this room version does not read it as one."""
    if type(value) is int:
        return value
    if version.integer_power_levels:
        return None
    if isinstance(value, str):
        return int(value) if _LEVEL_STRING.fullmatch(value) else None
    if isinstance(value, float) and not version.strict_canonical_json:
        try:
            return int(value)
        except (ValueError, OverflowError):
            return None
    return None


def _level_or(version: RoomVersion, value: JsonValue, default: int) -> int:
    level = parse_level(version, value)
    return default if level is None else level


def _level_map(version: RoomVersion, value: JsonValue) -> Mapping[str, int]:
    if not isinstance(value, dict):
        return {}
    return _readable_levels(version, value)


def _readable_levels(version: RoomVersion, value: JsonObject) -> dict[str, int]:
    parsed = ((key, parse_level(version, item)) for key, item in value.items())
    return {key: level for key, level in parsed if level is not None}
