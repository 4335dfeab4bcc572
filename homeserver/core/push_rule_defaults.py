"""The predefined push rules every user has.

spec: client-server-api/#predefined-rules, v1.19
Invariant: the table names no user, so that all users who changed nothing share one ruleset;
OWN_USER_ID stands where a rule contains its owner's id.
"""

from collections.abc import Mapping

from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.push_rule_model import Actions, PushRule, PushRuleKind

OWN_USER_ID = "\0own user id"
"""Not a value any client can store: a NUL is refused."""

_HIGHLIGHT: JsonValue = {"set_tweak": "highlight"}
_SOUND: JsonValue = {"set_tweak": "sound", "value": "default"}
_RING: JsonValue = {"set_tweak": "sound", "value": "ring"}


def _match(key: str, pattern: str) -> JsonObject:
    return {"kind": "event_match", "key": key, "pattern": pattern}


def _default(
    rule_id: str, *conditions: JsonObject, actions: Actions = (), enabled: bool = True
) -> PushRule:
    return PushRule(rule_id, actions, enabled=enabled, conditions=conditions, default=True)


MASTER_RULE = _default(".m.rule.master", enabled=False)

_OVERRIDES = (
    _default(".m.rule.suppress_notices", _match("content.msgtype", "m.notice")),
    _default(
        ".m.rule.invite_for_me",
        _match("type", "m.room.member"),
        _match("content.membership", "invite"),
        _match("state_key", OWN_USER_ID),
        actions=("notify", _SOUND),
    ),
    _default(".m.rule.member_event", _match("type", "m.room.member")),
    _default(
        ".m.rule.is_user_mention",
        {
            "kind": "event_property_contains",
            "key": r"content.m\.mentions.user_ids",
            "value": OWN_USER_ID,
        },
        actions=("notify", _SOUND, _HIGHLIGHT),
    ),
    _default(
        ".m.rule.is_room_mention",
        {"kind": "event_property_is", "key": r"content.m\.mentions.room", "value": True},
        {"kind": "sender_notification_permission", "key": "room"},
        actions=("notify", _HIGHLIGHT),
    ),
    _default(
        ".m.rule.tombstone",
        _match("type", "m.room.tombstone"),
        _match("state_key", ""),
        actions=("notify", _HIGHLIGHT),
    ),
    _default(".m.rule.reaction", _match("type", "m.reaction")),
    _default(
        ".m.rule.room.server_acl",
        _match("type", "m.room.server_acl"),
        _match("state_key", ""),
    ),
    _default(
        ".m.rule.suppress_edits",
        {
            "kind": "event_property_is",
            "key": r"content.m\.relates_to.rel_type",
            "value": "m.replace",
        },
    ),
)

_TWO_MEMBERS: JsonObject = {"kind": "room_member_count", "is": "2"}

_UNDERRIDES = (
    _default(".m.rule.call", _match("type", "m.call.invite"), actions=("notify", _RING)),
    _default(
        ".m.rule.encrypted_room_one_to_one",
        _TWO_MEMBERS,
        _match("type", "m.room.encrypted"),
        actions=("notify", _SOUND),
    ),
    _default(
        ".m.rule.room_one_to_one",
        _TWO_MEMBERS,
        _match("type", "m.room.message"),
        actions=("notify", _SOUND),
    ),
    _default(".m.rule.message", _match("type", "m.room.message"), actions=("notify",)),
    _default(".m.rule.encrypted", _match("type", "m.room.encrypted"), actions=("notify",)),
)

DEFAULT_RULES: Mapping[PushRuleKind, tuple[PushRule, ...]] = {
    PushRuleKind.OVERRIDE: _OVERRIDES,
    PushRuleKind.CONTENT: (),
    PushRuleKind.ROOM: (),
    PushRuleKind.SENDER: (),
    PushRuleKind.UNDERRIDE: _UNDERRIDES,
}
"""The defaults ranked below the user's own rules of their kind: all but the master rule."""
