"""Which push rule an event meets, for a whole group of members with equal rules at once.

spec: client-server-api/#conditions-1 and #actions, v1.19
Invariant: the work is one pass over the rules, whatever the number of members; only members an
event names (or whose own display name it contains) are looked at one by one. Room and sender rules
are looked up, not tried.
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from homeserver.core.display_names import NamedMembers
from homeserver.core.glob_patterns import GlobPattern, GlobText, parse_glob, parse_literal
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.property_paths import find_property, split_property_path
from homeserver.core.push_rule_defaults import OWN_USER_ID
from homeserver.core.push_rule_model import Actions, PushRule, PushRuleKind, split_member_count
from homeserver.core.push_rules import Ruleset

_BODY = ("content", "body")
TypedScalar = tuple[type, JsonValue]
"""A simple value that differs from values of another type: Python's 1 == True == 1.0 do not."""
_COMPARE: Mapping[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class PushOutcome:
    """What the first matching rule of a member asks for."""

    rule_id: str
    actions: Actions
    is_notify: bool
    is_highlight: bool
    """Never without `is_notify`."""
    tweaks: Mapping[str, JsonValue]
    """As sent to a push gateway."""


@dataclass(frozen=True, slots=True)
class GroupOutcome:
    shared: PushOutcome | None
    """For each member of the group that is not in `personal`; None: no rule matched."""
    personal: Mapping[str, PushOutcome | None]

    def of_member(self, user_id: str) -> PushOutcome | None:
        return self.personal.get(user_id, self.shared)


@dataclass(frozen=True, slots=True)
class RoomFacts:
    member_count: int
    """Joined members, after the event."""
    sender_power_level: int
    notification_level: Callable[[str], int]
    """The level needed for a key of `notifications` in m.room.power_levels."""


class PushEvent:
    """An event prepared once and then evaluated against every group of its room."""

    __slots__ = ("_items", "_json", "_texts", "room_id", "sender")

    def __init__(self, event: JsonObject) -> None:
        """Take an event as clients see it: type, sender, room_id, state_key, content."""
        self._json = event
        self._texts: dict[tuple[str, ...], GlobText | None] = {}
        self._items: dict[tuple[str, ...], frozenset[TypedScalar]] = {}
        self.room_id = str(event.get("room_id"))
        self.sender = str(event.get("sender"))

    def find(self, path: tuple[str, ...]) -> JsonValue:
        return find_property(self._json, path)

    def find_text(self, path: tuple[str, ...]) -> GlobText | None:
        if path not in self._texts:
            value = find_property(self._json, path)
            self._texts[path] = GlobText(value) if isinstance(value, str) else None
        return self._texts[path]

    def find_items(self, path: tuple[str, ...]) -> frozenset[TypedScalar]:
        """Return the simple values of an array, once: many rules may ask for a long array."""
        items = self._items.get(path)
        if items is None:
            value = find_property(self._json, path)
            items = frozenset(
                _typed(item)
                for item in (value if isinstance(value, list) else ())
                if not isinstance(item, list | dict)
            )
            self._items[path] = items
        return items


SharedCondition = Callable[[PushEvent, RoomFacts], bool]
Members = Mapping[str, str | None]
"""Display names in the room, by user id."""
PersonalCondition = Callable[[PushEvent, Members], Iterable[str]]
"""Picks the members for whom it holds."""


@dataclass(frozen=True, slots=True)
class _CompiledRule:
    shared: tuple[SharedCondition, ...]
    personal: tuple[PersonalCondition, ...]
    outcome: PushOutcome


@dataclass(frozen=True, slots=True)
class CompiledRuleset:
    first: tuple[_CompiledRule, ...]
    """Override and content rules."""
    by_room: Mapping[str, PushOutcome]
    by_sender: Mapping[str, PushOutcome]
    last: tuple[_CompiledRule, ...]
    """Underride rules."""


def compile_ruleset(ruleset: Ruleset) -> CompiledRuleset:
    def enabled(kind: PushRuleKind) -> list[PushRule]:
        return [rule for rule in ruleset.list_rules(kind) if rule.enabled]

    return CompiledRuleset(
        first=(
            *_compile_rules(enabled(PushRuleKind.OVERRIDE)),
            *map(_compile_content_rule, enabled(PushRuleKind.CONTENT)),
        ),
        by_room={rule.rule_id: make_outcome(rule) for rule in enabled(PushRuleKind.ROOM)},
        by_sender={rule.rule_id: make_outcome(rule) for rule in enabled(PushRuleKind.SENDER)},
        last=_compile_rules(enabled(PushRuleKind.UNDERRIDE)),
    )


def evaluate_group(
    rules: CompiledRuleset, event: PushEvent, room: RoomFacts, members: Members
) -> GroupOutcome:
    """Evaluate an event for local members of its room who all have these rules.

    1. The sender is never notified.
    2. A rule with personal conditions decides for the members it picks, unless an earlier one has.
    3. The first rule without decides for everybody else.
    """
    personal: dict[str, PushOutcome | None] = {}
    if event.sender in members:
        personal[event.sender] = None  # 1
    shared = (
        _pass_rules(rules.first, event, room, members, personal)
        or rules.by_room.get(event.room_id)
        or rules.by_sender.get(event.sender)
        or _pass_rules(rules.last, event, room, members, personal)
    )
    return GroupOutcome(shared, personal)


def evaluate(
    rules: CompiledRuleset,
    event: PushEvent,
    room: RoomFacts,
    user_id: str,
    display_name: str | None,
) -> PushOutcome | None:
    """Evaluate an event for one member."""
    return evaluate_group(rules, event, room, {user_id: display_name}).of_member(user_id)


def make_outcome(rule: PushRule) -> PushOutcome:
    tweaks: dict[str, JsonValue] = {}
    for action in rule.actions:
        if isinstance(action, dict):
            name = str(action.get("set_tweak"))
            if "value" in action:
                tweaks[name] = action["value"]
            elif name == "highlight":
                tweaks[name] = True
    is_notify = "notify" in rule.actions
    is_highlight = is_notify and tweaks.get("highlight") is True
    return PushOutcome(rule.rule_id, rule.actions, is_notify, is_highlight, tweaks)


def _pass_rules(
    rules: tuple[_CompiledRule, ...],
    event: PushEvent,
    room: RoomFacts,
    members: Members,
    personal: dict[str, PushOutcome | None],
) -> PushOutcome | None:
    for rule in rules:
        for holds in rule.shared:
            if not holds(event, room):
                break
        else:
            if not rule.personal:
                return rule.outcome  # 3
            picked: Members = members
            for pick in rule.personal:
                picked = {user_id: members[user_id] for user_id in pick(event, picked)}
            for user_id in picked:
                personal.setdefault(user_id, rule.outcome)  # 2
    return None


def _compile_rules(rules: list[PushRule]) -> tuple[_CompiledRule, ...]:
    """Compile override or underride rules; one with an unknown condition matches nothing."""
    compiled: list[_CompiledRule] = []
    for rule in rules:
        shared: list[SharedCondition] = []
        personal: list[PersonalCondition] = []
        for condition in rule.conditions:
            pick = _find_personal_condition(condition)
            holds = _find_shared_condition(condition)
            if pick is not None:
                personal.append(pick)
            elif holds is not None:
                shared.append(holds)
            else:
                break
        else:
            compiled.append(_CompiledRule(tuple(shared), tuple(personal), make_outcome(rule)))
    return tuple(compiled)


def _compile_content_rule(rule: PushRule) -> _CompiledRule:
    condition = partial(_body_matches, parse_glob(rule.pattern))
    return _CompiledRule((condition,), (), make_outcome(rule))


def _find_personal_condition(condition: JsonObject) -> PersonalCondition | None:
    match condition:
        case {"kind": "contains_display_name"}:
            return _pick_named_in_body
        case {"kind": "event_match", "key": str(key), "pattern": pattern} if pattern == OWN_USER_ID:
            return partial(_pick_equal, split_property_path(key))
        case {
            "kind": "event_property_contains",
            "key": str(key),
            "value": value,
        } if value == OWN_USER_ID:
            return partial(_pick_contained, split_property_path(key))
    return None


def _find_shared_condition(condition: JsonObject) -> SharedCondition | None:
    match condition:
        case {"kind": "event_match", "key": str(key), "pattern": str(pattern)}:
            path = split_property_path(key)
            if path == _BODY:
                return partial(_body_matches, parse_glob(pattern))
            return partial(_property_matches, path, parse_glob(pattern))
        case {"kind": "event_property_is", "key": str(key), "value": value}:
            return partial(_property_is, split_property_path(key), _typed(value))
        case {"kind": "event_property_contains", "key": str(key), "value": value}:
            return partial(_property_contains, split_property_path(key), _typed(value))
        case {"kind": "room_member_count", "is": str(text)}:
            parts = split_member_count(text)
            return parts and partial(_count_compares, _COMPARE[parts[0]], parts[1])
        case {"kind": "sender_notification_permission", "key": str(key)}:
            return partial(_sender_may_notify, key)
    return None


def _body_matches(pattern: GlobPattern, event: PushEvent, _room: RoomFacts) -> bool:
    text = event.find_text(_BODY)
    return text is not None and pattern.matches_words(text)


def _property_matches(
    path: tuple[str, ...], pattern: GlobPattern, event: PushEvent, _room: RoomFacts
) -> bool:
    text = event.find_text(path)
    return text is not None and pattern.matches_whole(text)


def _property_is(
    path: tuple[str, ...], value: TypedScalar, event: PushEvent, _room: RoomFacts
) -> bool:
    return _typed(event.find(path)) == value


def _property_contains(
    path: tuple[str, ...], value: TypedScalar, event: PushEvent, _room: RoomFacts
) -> bool:
    return value in event.find_items(path)


def _typed(value: JsonValue) -> TypedScalar:
    return type(value), value


def _count_compares(
    compare: Callable[[int, int], bool], number: int, _event: PushEvent, room: RoomFacts
) -> bool:
    return compare(room.member_count, number)


def _sender_may_notify(key: str, _event: PushEvent, room: RoomFacts) -> bool:
    return room.sender_power_level >= room.notification_level(key)


def _pick_equal(path: tuple[str, ...], event: PushEvent, members: Members) -> Iterable[str]:
    value = event.find(path)
    return (value,) if isinstance(value, str) and value in members else ()


def _pick_contained(path: tuple[str, ...], event: PushEvent, members: Members) -> Iterable[str]:
    return [
        value for _, value in event.find_items(path) if isinstance(value, str) and value in members
    ]


def _pick_named_in_body(event: PushEvent, members: Members) -> Iterable[str]:
    text = event.find_text(_BODY)
    if text is None:
        return ()
    if isinstance(members, NamedMembers):
        return members.list_named_in(text)
    return [
        user_id
        for user_id, name in members.items()
        if name and parse_literal(name).matches_words(text)
    ]
