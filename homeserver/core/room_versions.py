"""The room versions: one table, each version the one before it with what changed.

spec: rooms/, v1.19. Invariant: code asks for a rule by its name here, never for a version number.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from homeserver.core.canonical_json import MAX_INTEGER

__all__ = [
    "ROOM_VERSIONS",
    "EventIDFormat",
    "RoomVersion",
    "StateResolution",
    "find_room_version",
]


class EventIDFormat(Enum):
    DOMAIN = "chosen by the sender, with its domain"
    BASE64 = "reference hash in base64"
    URLSAFE_BASE64 = "reference hash in URL-safe base64"


class StateResolution(Enum):
    V1 = "1"
    V2 = "2"
    V2_1 = "2.1"


@dataclass(frozen=True, eq=False)
class RoomVersion:
    id: str

    event_id_format: EventIDFormat
    """Where event ids come from. DOMAIN also means prev_events and auth_events are pairs."""
    state_resolution: StateResolution
    max_depth: int

    redaction_keys: frozenset[str]
    """The top-level keys that survive a redaction."""
    redaction_content_keys: Mapping[str, frozenset[str] | None]
    """By event type: the content keys that survive; None keeps all, a missing type none.
    `third_party_invite` survives with its `signed` key only."""

    special_case_aliases: bool
    """m.room.aliases is authorized by its domain alone (1-5)."""
    redaction_is_authorized: bool
    """The auth rules decide about redactions (1-2); later they are applied on arrival."""
    enforce_key_validity: bool
    """A signing key must be valid at the event's origin_server_ts (5+)."""
    strict_canonical_json: bool
    """Floats and integers beyond 53 bits are refused (6+)."""
    limit_notifications_power_levels: bool
    """Changing `notifications` levels needs the levels concerned (6+)."""
    knock: bool
    """Membership and join rule `knock` exist (7+)."""
    restricted_join: bool
    """Join rule `restricted` exists (8+)."""
    knock_restricted: bool
    """Join rule `knock_restricted` exists (10+)."""
    integer_power_levels: bool
    """Levels are integers, not strings of integers (10+)."""
    implicit_room_creator: bool
    """The creator is the sender of m.room.create, not its content.creator (11+)."""
    redacts_in_content: bool
    """m.room.redaction names its target in content (11+)."""
    privileged_creators: bool
    """Creators, also additional ones, stand above all power levels (12)."""
    room_id_is_create_hash: bool
    """The room id is the id of m.room.create, which is no longer cited by auth_events (12)."""


_REDACTION_KEYS_1 = frozenset(
    {
        "auth_events",
        "content",
        "depth",
        "event_id",
        "hashes",
        "membership",
        "origin",
        "origin_server_ts",
        "prev_events",
        "prev_state",
        "room_id",
        "sender",
        "signatures",
        "state_key",
        "type",
    }
)
_POWER_LEVEL_KEYS_1 = frozenset(
    {
        "ban",
        "events",
        "events_default",
        "kick",
        "redact",
        "state_default",
        "users",
        "users_default",
    }
)
_CONTENT_KEYS_1: Mapping[str, frozenset[str] | None] = {
    "m.room.aliases": frozenset({"aliases"}),
    "m.room.create": frozenset({"creator"}),
    "m.room.history_visibility": frozenset({"history_visibility"}),
    "m.room.join_rules": frozenset({"join_rule"}),
    "m.room.member": frozenset({"membership"}),
    "m.room.power_levels": _POWER_LEVEL_KEYS_1,
}
_CONTENT_KEYS_6 = {
    event_type: keys
    for event_type, keys in _CONTENT_KEYS_1.items()
    if event_type != "m.room.aliases"
}
_CONTENT_KEYS_8 = _CONTENT_KEYS_6 | {"m.room.join_rules": frozenset({"join_rule", "allow"})}
_CONTENT_KEYS_9 = _CONTENT_KEYS_8 | {
    "m.room.member": frozenset({"membership", "join_authorised_via_users_server"})
}
_CONTENT_KEYS_11 = _CONTENT_KEYS_9 | {
    "m.room.create": None,
    "m.room.member": frozenset(
        {"membership", "join_authorised_via_users_server", "third_party_invite"}
    ),
    "m.room.power_levels": _POWER_LEVEL_KEYS_1 | {"invite"},
    "m.room.redaction": frozenset({"redacts"}),
}

_V1 = RoomVersion(
    id="1",
    event_id_format=EventIDFormat.DOMAIN,
    state_resolution=StateResolution.V1,
    max_depth=2**63 - 1,
    redaction_keys=_REDACTION_KEYS_1,
    redaction_content_keys=_CONTENT_KEYS_1,
    special_case_aliases=True,
    redaction_is_authorized=True,
    enforce_key_validity=False,
    strict_canonical_json=False,
    limit_notifications_power_levels=False,
    knock=False,
    restricted_join=False,
    knock_restricted=False,
    integer_power_levels=False,
    implicit_room_creator=False,
    redacts_in_content=False,
    privileged_creators=False,
    room_id_is_create_hash=False,
)
_V2 = replace(_V1, id="2", state_resolution=StateResolution.V2)
_V3 = replace(_V2, id="3", event_id_format=EventIDFormat.BASE64, redaction_is_authorized=False)
_V4 = replace(_V3, id="4", event_id_format=EventIDFormat.URLSAFE_BASE64)
_V5 = replace(_V4, id="5", enforce_key_validity=True)
_V6 = replace(
    _V5,
    id="6",
    strict_canonical_json=True,
    max_depth=MAX_INTEGER,
    special_case_aliases=False,
    redaction_content_keys=_CONTENT_KEYS_6,
    limit_notifications_power_levels=True,
)
_V7 = replace(_V6, id="7", knock=True)
_V8 = replace(_V7, id="8", restricted_join=True, redaction_content_keys=_CONTENT_KEYS_8)
_V9 = replace(_V8, id="9", redaction_content_keys=_CONTENT_KEYS_9)
_V10 = replace(_V9, id="10", integer_power_levels=True, knock_restricted=True)
_V11 = replace(
    _V10,
    id="11",
    redaction_keys=_REDACTION_KEYS_1 - {"membership", "origin", "prev_state"},
    redaction_content_keys=_CONTENT_KEYS_11,
    implicit_room_creator=True,
    redacts_in_content=True,
)
_V12 = replace(
    _V11,
    id="12",
    state_resolution=StateResolution.V2_1,
    privileged_creators=True,
    room_id_is_create_hash=True,
)

ROOM_VERSIONS: Mapping[str, RoomVersion] = {
    version.id: version
    for version in (_V1, _V2, _V3, _V4, _V5, _V6, _V7, _V8, _V9, _V10, _V11, _V12)
}


def find_room_version(version_id: str) -> RoomVersion | None:
    return ROOM_VERSIONS.get(version_id)
