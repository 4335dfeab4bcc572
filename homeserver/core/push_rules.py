"""A user's push rules: the predefined ones, the user's own, and the changes to either.

spec: client-server-api/#push-rules and #push-rules-api, v1.19
Invariant: a Ruleset holds only what differs from the defaults and names no owner; two users with
equal fingerprints get equal results from `push_evaluation`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from json import dumps

from homeserver.core.errors import CoreError
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.push_rule_defaults import DEFAULT_RULES, MASTER_RULE, OWN_USER_ID
from homeserver.core.push_rule_model import (
    Actions,
    PushRule,
    PushRuleInvalid,
    PushRuleKind,
    parse_actions,
    parse_push_rule,
    patterns_length,
    rule_length,
)

MAX_RULES_OF_A_KIND = 2000
MAX_RULESET_LENGTH = 256 * 1024
MAX_PATTERNS_LENGTH = 16 * 1024

__all__ = [
    "Actions",
    "PushRule",
    "PushRuleInvalid",
    "PushRuleKind",
    "PushRuleNotFound",
    "Ruleset",
    "load_ruleset",
    "parse_actions",
    "parse_push_rule",
    "render_rule",
    "render_ruleset",
]


class PushRuleNotFound(CoreError, LookupError):
    pass


@dataclass(frozen=True, slots=True)
class Ruleset:
    own: Mapping[PushRuleKind, tuple[PushRule, ...]] = field(default_factory=dict)
    """The user's own rules, the most important first."""
    changed: Mapping[str, PushRule] = field(default_factory=dict)
    """Predefined rules (by id) that the user enabled, disabled or gave other actions."""

    def list_rules(self, kind: PushRuleKind) -> tuple[PushRule, ...]:
        """Return all rules of a kind, the most important first."""
        own = self.own.get(kind, ())
        defaults = tuple(self.changed.get(rule.rule_id, rule) for rule in DEFAULT_RULES[kind])
        if kind is PushRuleKind.OVERRIDE:
            return (self.changed.get(MASTER_RULE.rule_id, MASTER_RULE), *own, *defaults)
        return (*own, *defaults)

    def find_rule(self, kind: PushRuleKind, rule_id: str) -> PushRule | None:
        return next((rule for rule in self.list_rules(kind) if rule.rule_id == rule_id), None)

    def put_rule(
        self, kind: PushRuleKind, rule: PushRule, *, before: str | None, after: str | None
    ) -> "Ruleset":
        """Add or replace one of the user's own rules.

        A replaced rule stays enabled or disabled, and in its place unless `before` or `after` say
        otherwise. Raises PushRuleInvalid when those name no rule, or when a limit is reached.
        """
        rules = list(self.own.get(kind, ()))
        place = _find_place(rules, rule.rule_id)
        if place is not None:
            rule = replace(rule, enabled=rules.pop(place).enabled)
        neighbour = before if before is not None else after
        if neighbour is None:
            rules.insert(place or 0, rule)
        else:
            beside = _find_place(rules, neighbour)
            if beside is None:
                raise PushRuleInvalid(f"before/after rule not found: {neighbour}")
            rules.insert(beside if before is not None else beside + 1, rule)
        return self._with_own(kind, tuple(rules))

    def delete_rule(self, kind: PushRuleKind, rule_id: str) -> "Ruleset":
        """Raises PushRuleNotFound; predefined rules cannot be deleted."""
        rules = self.own.get(kind, ())
        remaining = tuple(rule for rule in rules if rule.rule_id != rule_id)
        if len(remaining) == len(rules):
            raise PushRuleNotFound(rule_id)
        return self._with_own(kind, remaining)

    def set_enabled(self, kind: PushRuleKind, rule_id: str, *, enabled: bool) -> "Ruleset":
        """Raises PushRuleNotFound."""
        return self._with_change(kind, rule_id, lambda rule: replace(rule, enabled=enabled))

    def set_actions(self, kind: PushRuleKind, rule_id: str, actions: Actions) -> "Ruleset":
        """Raises PushRuleNotFound."""
        return self._with_change(kind, rule_id, lambda rule: replace(rule, actions=actions))

    def to_json(self) -> JsonObject:
        """Return what is stored for the user; `load_ruleset` reads it."""
        own: JsonObject = {
            kind: [_dump_rule(rule) for rule in rules] for kind, rules in self.own.items()
        }
        changed: list[JsonValue] = [
            {"rule_id": rule.rule_id, "enabled": rule.enabled, "actions": list(rule.actions)}
            for rule in self.changed.values()
        ]
        return {"own": own, "changed": changed}

    def fingerprint(self) -> str:
        """Return a key under which members with the same rules are grouped."""
        stored = self.to_json()
        return dumps(stored, sort_keys=True, separators=(",", ":"))

    def _with_own(self, kind: PushRuleKind, rules: tuple[PushRule, ...]) -> "Ruleset":
        own = {**self.own, kind: rules}
        return _check_size(
            replace(self, own={known: own[known] for known in PushRuleKind if own.get(known)})
        )

    def _with_change(
        self, kind: PushRuleKind, rule_id: str, change: Callable[[PushRule], PushRule]
    ) -> "Ruleset":
        rule = self.find_rule(kind, rule_id)
        if rule is None:
            raise PushRuleNotFound(rule_id)
        if not rule.default:
            rules = self.own[kind]
            return self._with_own(
                kind, tuple(change(old) if old.rule_id == rule_id else old for old in rules)
            )
        changed = {**self.changed, rule_id: change(rule)}
        differing = {
            known: changed[known]
            for known in sorted(changed)
            if changed[known] != _UNCHANGED[known]
        }
        return _check_size(replace(self, changed=differing))


_UNCHANGED = {
    rule.rule_id: rule
    for rule in (MASTER_RULE, *(rule for rules in DEFAULT_RULES.values() for rule in rules))
}


def load_ruleset(stored: JsonObject) -> Ruleset:
    """Read what `Ruleset.to_json` returned; changes to rules no longer predefined are dropped."""
    own: dict[PushRuleKind, tuple[PushRule, ...]] = {}
    for kind, rules in _objects_by_kind(stored.get("own")):
        own[kind] = tuple(_load_rule(kind, rule) for rule in rules)
    changed: dict[str, PushRule] = {}
    for change in _objects(stored.get("changed")):
        rule = _UNCHANGED.get(str(change.get("rule_id")))
        if rule is not None:
            changed[rule.rule_id] = replace(
                rule,
                enabled=change.get("enabled") is True,
                actions=parse_actions(change.get("actions")),
            )
    return Ruleset(own, changed)


def render_ruleset(ruleset: Ruleset, user_id: str) -> JsonObject:
    """Return the object under `global` of GET /pushrules/ and of m.push_rules."""
    return {
        kind.value: [render_rule(kind, rule, user_id) for rule in ruleset.list_rules(kind)]
        for kind in PushRuleKind
    }


def render_rule(kind: PushRuleKind, rule: PushRule, user_id: str) -> JsonObject:
    rendered: JsonObject = {
        "rule_id": rule.rule_id,
        "default": rule.default,
        "enabled": rule.enabled,
        "actions": list(rule.actions),
    }
    if kind is PushRuleKind.CONTENT:
        rendered["pattern"] = rule.pattern
    elif kind in {PushRuleKind.OVERRIDE, PushRuleKind.UNDERRIDE}:
        rendered["conditions"] = [
            {key: user_id if value == OWN_USER_ID else value for key, value in condition.items()}
            for condition in rule.conditions
        ]
    return rendered


def _check_size(ruleset: Ruleset) -> Ruleset:
    if any(len(rules) > MAX_RULES_OF_A_KIND for rules in ruleset.own.values()):
        raise PushRuleInvalid(f"at most {MAX_RULES_OF_A_KIND} rules of a kind are kept")
    own = [rule for rules in ruleset.own.values() for rule in rules]
    if sum(map(patterns_length, own)) > MAX_PATTERNS_LENGTH:
        raise PushRuleInvalid(f"all patterns may have at most {MAX_PATTERNS_LENGTH} characters")
    if sum(map(rule_length, (*own, *ruleset.changed.values()))) > MAX_RULESET_LENGTH:
        raise PushRuleInvalid(f"all rules may have at most {MAX_RULESET_LENGTH} characters")
    return ruleset


def _find_place(rules: list[PushRule], rule_id: str) -> int | None:
    return next((place for place, rule in enumerate(rules) if rule.rule_id == rule_id), None)


def _dump_rule(rule: PushRule) -> JsonObject:
    return {
        "rule_id": rule.rule_id,
        "enabled": rule.enabled,
        "actions": list(rule.actions),
        "conditions": list(rule.conditions),
        "pattern": rule.pattern,
    }


def _load_rule(kind: PushRuleKind, stored: JsonObject) -> PushRule:
    rule = parse_push_rule(kind, str(stored.get("rule_id")), stored)
    return replace(rule, enabled=stored.get("enabled") is True)


def _objects_by_kind(value: JsonValue) -> list[tuple[PushRuleKind, list[JsonObject]]]:
    rules = value if isinstance(value, dict) else {}
    return [(kind, _objects(rules.get(kind))) for kind in PushRuleKind if kind in rules]


def _objects(value: JsonValue) -> list[JsonObject]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
