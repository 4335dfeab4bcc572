"""One push rule, and what a client may store as one.

spec: client-server-api/#push-rules, v1.19
Invariant: a rule that passed `parse_push_rule` is flat JSON of bounded size whose known
conditions are complete and well-formed, so evaluation never has to check it again.
"""

from dataclasses import dataclass
from enum import StrEnum
from json import dumps

from homeserver.core.errors import CoreError
from homeserver.core.json_types import JsonObject, JsonValue

MAX_RULE_ID_LENGTH = 512
MAX_RULE_LENGTH = 8192
MAX_EXACT_INTEGER = 2**53 - 1

Actions = tuple[JsonValue, ...]

_OUTDATED_ACTIONS = frozenset({"dont_notify", "coalesce"})
_COMPARISONS = ("==", ">=", "<=", "<", ">")
_MAX_COUNT_DIGITS = 15


class PushRuleInvalid(CoreError, ValueError):
    pass


class PushRuleKind(StrEnum):
    """In the order in which the kinds are checked."""

    OVERRIDE = "override"
    CONTENT = "content"
    ROOM = "room"
    SENDER = "sender"
    UNDERRIDE = "underride"


@dataclass(frozen=True, slots=True)
class PushRule:
    rule_id: str
    actions: Actions
    enabled: bool = True
    conditions: tuple[JsonObject, ...] = ()
    """Only of override and underride rules."""
    pattern: str = ""
    """Only of content rules."""
    default: bool = False


def parse_push_rule(kind: PushRuleKind, rule_id: str, body: JsonObject) -> PushRule:
    """Read the body of a request that sets a rule. Raises PushRuleInvalid."""
    _check_rule_id(rule_id)
    actions = parse_actions(body.get("actions"))
    conditions: tuple[JsonObject, ...] = ()
    pattern = ""
    if kind in {PushRuleKind.OVERRIDE, PushRuleKind.UNDERRIDE}:
        conditions = _parse_conditions(body.get("conditions", []))
    elif kind is PushRuleKind.CONTENT:
        pattern = _require_text(body, "pattern")
    rule = PushRule(rule_id, actions, conditions=conditions, pattern=pattern)
    if rule_length(rule) > MAX_RULE_LENGTH:
        raise PushRuleInvalid(f"a rule may have at most {MAX_RULE_LENGTH} characters")
    return rule


def parse_actions(value: JsonValue) -> Actions:
    """Read a list of actions; the outdated ones are dropped. Raises PushRuleInvalid."""
    if not isinstance(value, list):
        raise PushRuleInvalid("actions must be a list")
    return tuple(
        _parse_action(action)
        for action in value
        if not (isinstance(action, str) and action in _OUTDATED_ACTIONS)
    )


def rule_length(rule: PushRule) -> int:
    """Return about how many characters the rule takes in a response."""
    return len(rule.rule_id) + len(dumps((rule.actions, rule.conditions, rule.pattern)))


def patterns_length(rule: PushRule) -> int:
    """Return what the rule can cost: matching takes time for each character of a pattern."""
    patterns = (condition.get("pattern") for condition in rule.conditions)
    return len(rule.pattern) + sum(len(text) for text in patterns if isinstance(text, str))


def split_member_count(text: str) -> tuple[str, int] | None:
    """Split the `is` of a room_member_count condition into comparison and number."""
    comparison = next((sign for sign in _COMPARISONS if text.startswith(sign)), "")
    digits = text[len(comparison) :]
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= _MAX_COUNT_DIGITS):
        return None
    return comparison or "==", int(digits)


def _check_rule_id(rule_id: str) -> None:
    if not rule_id or len(rule_id) > MAX_RULE_ID_LENGTH:
        raise PushRuleInvalid(f"rule ids have 1 to {MAX_RULE_ID_LENGTH} characters")
    if rule_id.startswith("."):
        raise PushRuleInvalid("rule ids that start with a dot are reserved for predefined rules")
    if not {"/", "\\", "\0"}.isdisjoint(rule_id):
        raise PushRuleInvalid("rule ids must not contain slashes, backslashes or NUL")


def _parse_action(action: JsonValue) -> JsonValue:
    if action == "notify":
        return action
    if not isinstance(action, dict) or not isinstance(action.get("set_tweak"), str):
        raise PushRuleInvalid('an action must be "notify" or an object with a set_tweak name')
    return _check_flat(action, "action")


def _parse_conditions(value: JsonValue) -> tuple[JsonObject, ...]:
    if not isinstance(value, list):
        raise PushRuleInvalid("conditions must be a list")
    return tuple(_parse_condition(condition) for condition in value)


def _parse_condition(condition: JsonValue) -> JsonObject:
    if not isinstance(condition, dict):
        raise PushRuleInvalid("a condition must be an object")
    _check_flat(condition, "condition")
    match _require_text(condition, "kind"):
        case "event_match":
            _require_text(condition, "key")
            _require_text(condition, "pattern")
        case "event_property_is" | "event_property_contains":
            _require_text(condition, "key")
            if "value" not in condition:
                raise PushRuleInvalid("value is required")
        case "room_member_count":
            if split_member_count(_require_text(condition, "is")) is None:
                raise PushRuleInvalid("is must be a number after an optional ==, <, >, >= or <=")
        case "sender_notification_permission":
            _require_text(condition, "key")
    return condition


def _require_text(body: JsonObject, key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or "\0" in value:
        raise PushRuleInvalid(f"{key} must be a string without NUL")
    return value


def _check_flat(item: JsonObject, name: str) -> JsonObject:
    """Refuse compound values: no known parameter is one, and depth costs every later reader."""
    for key, value in item.items():
        if isinstance(value, list | dict | float):
            raise PushRuleInvalid(f"{key}: a parameter of an {name} must be a simple value")
        if isinstance(value, str) and "\0" in value:
            raise PushRuleInvalid(f"{key} must not contain NUL")
        if isinstance(value, int) and abs(value) > MAX_EXACT_INTEGER:
            raise PushRuleInvalid(f"{key}: the number is out of range")
    return item
