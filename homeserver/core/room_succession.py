"""What of a room goes over to the room that replaces it, and how the old one is closed.

spec: client-server-api/#room-upgrades, v1.19. Invariant: what is returned passes the checks of the
room version it is for, whatever the old room version let in; nobody gains power by an upgrade but
who makes it.
"""

from collections.abc import Collection
from dataclasses import replace

from homeserver.core.canonical_json import MAX_INTEGER, is_canonical_json_value
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.power_levels import DEFAULT_LEVELS, parse_level
from homeserver.core.push_rules import PushRuleKind, Ruleset
from homeserver.core.room_versions import RoomVersion

__all__ = [
    "TRANSFERRED_TYPES",
    "closing_levels",
    "follow_in_push_rules",
    "successor_content",
    "successor_levels",
]

TRANSFERRED_TYPES = (
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
    "m.room.policy",
)
"""All with the empty state key; the power levels go over by `successor_levels`."""

_LEVEL_MAPS = ("events", "notifications", "users")
_ADMIN_LEVEL = 100
_DEFAULT_STATE_LEVEL = 50
_TOMBSTONE = "m.room.tombstone"
_TOMBSTONE_LEVEL = 150
_CLOSED_LEVEL = 50


def successor_content(new: RoomVersion, event_type: str, content: JsonObject) -> JsonObject | None:
    """Return the content of a transferred state event; None if the new version cannot hold it."""
    if new.strict_canonical_json and not is_canonical_json_value(content):
        return None
    if event_type == "m.room.join_rules":
        return {**content, "join_rule": _join_rule(new, content.get("join_rule"))}
    return content


def _join_rule(new: RoomVersion, rule: JsonValue) -> JsonValue:
    """Replace a rule that the version does not know by the next stricter one."""
    if rule == "knock_restricted" and not new.knock_restricted:
        return "restricted" if new.restricted_join else "knock" if new.knock else "invite"
    if (rule == "restricted" and not new.restricted_join) or (rule == "knock" and not new.knock):
        return "invite"
    return rule


def successor_levels(
    old: RoomVersion,
    new: RoomVersion,
    levels: JsonObject | None,
    old_creators: Collection[str],
    new_creators: Collection[str],
) -> JsonObject:
    """Return the power levels of the room that replaces one with these.

    levels  the content of the old m.room.power_levels; None when there is none

    1. What only the old version reads as a level is written as an integer, or left out.
    2. Without a level of their own, the creators have the highest there is. A version that knows
       no infinite level gets a number for it.
    3. Creators of version 12 or later are above all levels and must not be listed, and a tombstone
       needs more than other state, so that no administrator takes the room from them.
    """
    content = _readable(old, levels or {})  # 1
    users = content["users"] = dict(_map_of(content, "users"))
    events = content["events"] = dict(_map_of(content, "events"))
    if not new.privileged_creators and (old.privileged_creators or levels is None):  # 2
        users |= dict.fromkeys(old_creators, max(_ADMIN_LEVEL, *_all_levels(content)))
    if new.privileged_creators:  # 3
        for creator in new_creators:
            users.pop(creator, None)
        if levels is None and not old.privileged_creators:
            others = set(old_creators) - set(new_creators)
            users |= dict.fromkeys(sorted(others), _ADMIN_LEVEL)
        state_level = _integer(content.get("state_default"), _DEFAULT_STATE_LEVEL)
        needed = max(_TOMBSTONE_LEVEL, min(state_level + 1, MAX_INTEGER))
        events[_TOMBSTONE] = max(_integer(events.get(_TOMBSTONE), 0), needed)
    return content


def closing_levels(
    version: RoomVersion, levels: JsonObject | None, creators: Collection[str]
) -> JsonObject | None:
    """Return levels by which the old room's users neither talk nor invite; None: they are so.

    creators  keep the power that they had without any levels
    """
    if levels is None:
        own = {} if version.privileged_creators else dict.fromkeys(creators, _ADMIN_LEVEL)
        levels = {"users": {**own}}
    users_default = parse_level(version, levels.get("users_default")) or 0
    needed = max(_CLOSED_LEVEL, users_default + 1)
    closed = {
        key: needed
        for key in ("events_default", "invite")
        if (parse_level(version, levels.get(key)) or 0) < needed
    }
    return {**levels, **closed} if closed else None


def follow_in_push_rules(ruleset: Ruleset, old_room_id: str, new_room_id: str) -> Ruleset:
    """Return rules that say of the new room what they say of the old one.

    Raises PushRuleInvalid when that would be too many.
    """
    for kind in (PushRuleKind.OVERRIDE, PushRuleKind.ROOM, PushRuleKind.UNDERRIDE):
        for rule in ruleset.own.get(kind, ()):
            is_about = any(
                condition.get("kind") == "event_match"
                and condition.get("key") == "room_id"
                and condition.get("pattern") == old_room_id
                for condition in rule.conditions
            )
            if not is_about and not (kind is PushRuleKind.ROOM and rule.rule_id == old_room_id):
                continue
            rule_id = rule.rule_id.replace(old_room_id, new_room_id)
            if rule_id == rule.rule_id:
                rule_id = f"{rule_id} {new_room_id}"
            if ruleset.find_rule(kind, rule_id) is not None:
                continue
            conditions = tuple(
                {key: new_room_id if value == old_room_id else value for key, value in old.items()}
                for old in rule.conditions
            )
            followed = replace(rule, rule_id=rule_id, conditions=conditions)
            ruleset = ruleset.put_rule(kind, followed, before=None, after=rule.rule_id)
    return ruleset


def _readable(version: RoomVersion, levels: JsonObject) -> JsonObject:
    """Return the levels with integers only, and whatever else has a canonical form."""
    readable: JsonObject = {}
    for key, value in levels.items():
        if key in DEFAULT_LEVELS:
            level = parse_level(version, value)
            if level is not None:
                readable[key] = _within_range(level)
        elif key in _LEVEL_MAPS:
            readable[key] = _readable_map(version, value)
        elif is_canonical_json_value(value):
            readable[key] = value
    return readable


def _readable_map(version: RoomVersion, value: JsonValue) -> JsonObject:
    found = value if isinstance(value, dict) else {}
    parsed = {key: parse_level(version, level) for key, level in found.items()}
    return {key: _within_range(level) for key, level in parsed.items() if level is not None}


def _within_range(level: int) -> int:
    return max(-MAX_INTEGER, min(level, MAX_INTEGER))


def _all_levels(content: JsonObject) -> list[int]:
    values = [content.get(key) for key in DEFAULT_LEVELS]
    for name in _LEVEL_MAPS:
        values += _map_of(content, name).values()
    return [0, *(value for value in values if type(value) is int)]


def _map_of(content: JsonObject, name: str) -> JsonObject:
    value = content.get(name)
    return value if isinstance(value, dict) else {}


def _integer(value: JsonValue, default: int) -> int:
    return value if type(value) is int else default
