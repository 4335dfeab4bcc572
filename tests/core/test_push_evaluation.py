from time import process_time

import pytest

from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.push_evaluation import (
    CompiledRuleset,
    PushEvent,
    PushOutcome,
    RoomFacts,
    compile_ruleset,
    evaluate,
    evaluate_group,
)
from homeserver.core.push_rule_defaults import OWN_USER_ID
from homeserver.core.push_rules import (
    MAX_PATTERNS_LENGTH,
    PushRule,
    PushRuleKind,
    Ruleset,
    parse_push_rule,
)

OVERRIDE, CONTENT, ROOM, SENDER, UNDERRIDE = PushRuleKind
ALICE, BOB, CAROL = "@alice:example.org", "@bob:example.org", "@carol:example.org"
ROOM_ID = "!room:example.org"
DEFAULTS = compile_ruleset(Ruleset())


def room(members: int = 3, power: int = 0) -> RoomFacts:
    return RoomFacts(members, power, {"room": 50}.__getitem__)


def message(body: JsonValue = "hello", more: JsonObject | None = None) -> JsonObject:
    return event("m.room.message", {"msgtype": "m.text", "body": body, **(more or {})})


def event(event_type: str, content: JsonObject, state_key: str | None = None) -> JsonObject:
    state: JsonObject = {} if state_key is None else {"state_key": state_key}
    return {"type": event_type, "sender": BOB, "room_id": ROOM_ID, "content": content, **state}


def ruleset(*rules: tuple[PushRuleKind, str, JsonObject]) -> Ruleset:
    """Make a ruleset of own rules, the most important first."""
    result = Ruleset()
    for kind, rule_id, body in reversed(rules):
        rule = parse_push_rule(kind, rule_id, {"actions": ["notify"], **body})
        result = result.put_rule(kind, rule, before=None, after=None)
    return result


def when(*conditions: JsonObject) -> CompiledRuleset:
    """Compile an override rule `mine` with these conditions."""
    return compile_ruleset(ruleset((OVERRIDE, "mine", {"conditions": list(conditions)})))


def rule_met(
    rules: CompiledRuleset,
    shown: JsonObject,
    facts: RoomFacts | None = None,
    name: str | None = "Alice",
) -> str | None:
    outcome = evaluate(rules, PushEvent(shown), facts or room(), ALICE, name)
    return outcome.rule_id if outcome else None


@pytest.mark.parametrize(
    ("shown", "facts", "rule_id"),
    [
        (message(), room(), ".m.rule.message"),
        (message(), room(2), ".m.rule.room_one_to_one"),
        (event("m.room.encrypted", {}), room(), ".m.rule.encrypted"),
        (event("m.room.encrypted", {}), room(2), ".m.rule.encrypted_room_one_to_one"),
        (event("m.call.invite", {}), room(2), ".m.rule.call"),
        (message("hello", {"msgtype": "m.notice"}), room(2), ".m.rule.suppress_notices"),
        (event("m.reaction", {}), room(), ".m.rule.reaction"),
        (event("m.room.tombstone", {}, ""), room(), ".m.rule.tombstone"),
        (event("m.room.tombstone", {}), room(), None),
        (event("m.room.server_acl", {}, ""), room(), ".m.rule.room.server_acl"),
        (event("m.room.member", {"membership": "invite"}, ALICE), room(), ".m.rule.invite_for_me"),
        (event("m.room.member", {"membership": "invite"}, CAROL), room(), ".m.rule.member_event"),
        (event("m.room.member", {"membership": "leave"}, ALICE), room(), ".m.rule.member_event"),
        (
            message("hello", {"m.mentions": {"user_ids": [ALICE]}}),
            room(),
            ".m.rule.is_user_mention",
        ),
        (message("hello", {"m.mentions": {"user_ids": [CAROL]}}), room(), ".m.rule.message"),
        (message("hello", {"m.mentions": {"user_ids": ALICE}}), room(), ".m.rule.message"),
        (message("hello", {"m.mentions": [[ALICE]]}), room(), ".m.rule.message"),
        (message("hello", {"m.mentions": {"room": True}}), room(3, 50), ".m.rule.is_room_mention"),
        (message("hello", {"m.mentions": {"room": True}}), room(3, 49), ".m.rule.message"),
        (message("hello", {"m.mentions": {"room": 1}}), room(3, 50), ".m.rule.message"),
        (
            message("hello", {"m.relates_to": {"rel_type": "m.replace"}}),
            room(),
            ".m.rule.suppress_edits",
        ),
        (event("com.example.other", {}), room(), None),
    ],
)
def test_the_predefined_rules_meet_the_events_they_are_for(
    shown: JsonObject, facts: RoomFacts, rule_id: str | None
) -> None:
    assert rule_met(DEFAULTS, shown, facts) == rule_id


def test_the_master_rule_silences_everything_once_enabled() -> None:
    silent = ruleset((OVERRIDE, "mine", {})).set_enabled(OVERRIDE, ".m.rule.master", enabled=True)

    outcome = evaluate(compile_ruleset(silent), PushEvent(message()), room(), ALICE, None)

    assert outcome == PushOutcome(".m.rule.master", (), False, False, {})


def test_kinds_are_checked_in_their_order_and_disabled_rules_skipped() -> None:
    rules = ruleset(
        (OVERRIDE, "override", {}),
        (CONTENT, "content", {"pattern": "hello"}),
        (ROOM, ROOM_ID, {}),
        (SENDER, BOB, {}),
        (UNDERRIDE, "underride", {}),
    )
    met = []
    for kind in PushRuleKind:
        met.append(rule_met(compile_ruleset(rules), message()))
        rules = rules.set_enabled(kind, rules.own[kind][0].rule_id, enabled=False)

    assert met == ["override", "content", ROOM_ID, BOB, "underride"]
    assert rule_met(compile_ruleset(rules), message()) == ".m.rule.message"


def test_room_and_sender_rules_meet_only_their_room_and_sender() -> None:
    rules = compile_ruleset(ruleset((ROOM, "!x:example.org", {}), (SENDER, CAROL, {})))

    assert rule_met(rules, message()) == ".m.rule.message"


def test_the_more_important_rule_of_a_kind_wins() -> None:
    rules = ruleset((CONTENT, "time", {"pattern": "time"}), (CONTENT, "tea", {"pattern": "tea"}))

    assert rule_met(compile_ruleset(rules), message("It's time for tea")) == "time"


@pytest.mark.parametrize(
    ("key", "pattern", "shown", "holds"),
    [
        ("content.topic", "lunc?*", event("x", {"topic": "Lunch plans"}), True),
        ("content.topic", "lunc?*", event("x", {"topic": "lunc"}), False),
        ("content.topic", "*", event("x", {"topic": None}), False),
        ("content.topic", "*", event("x", {}), False),
        ("content.topic", "*", event("x", {"topic": 5}), False),
        ("content.body", "ex*ple", message("An example event."), True),
        ("content.body", "xample", message("An example event."), False),
        ("content.body", "*", message(5), False),
        ("content.body.x", "*", message(), False),
        ("content.m\\.foo", "x", event("x", {"m.foo": "X"}), True),
        ("content.m.foo", "x", event("x", {"m.foo": "X"}), False),
        ("room_id", ROOM_ID, message(), True),
        ("sender", "@bob:*", message(), True),
        ("", "*", message(), False),
    ],
)
def test_event_match_holds_for_what_its_pattern_matches(
    key: str, pattern: str, shown: JsonObject, holds: bool
) -> None:
    rules = when({"kind": "event_match", "key": key, "pattern": pattern})

    assert (rule_met(rules, shown) == "mine") is holds


@pytest.mark.parametrize("value", ["1", 1, True, None])
@pytest.mark.parametrize("found", ["1", 1, True, None, 1.0, False, 0, [], {}, [1], "absent"])
def test_event_property_is_and_contains_never_cast(value: JsonValue, found: JsonValue) -> None:
    same = type(value) is type(found) and value == found
    content: JsonObject = {} if found == "absent" else {"one": found, "many": [[1], {}, found]}
    is_one = when({"kind": "event_property_is", "key": "content.one", "value": value})
    in_many = when({"kind": "event_property_contains", "key": "content.many", "value": value})

    assert (rule_met(is_one, event("x", content)) == "mine") is same
    assert (rule_met(in_many, event("x", content)) == "mine") is same


def test_event_property_contains_needs_an_array() -> None:
    rules = when({"kind": "event_property_contains", "key": "content.body", "value": "h"})

    assert rule_met(rules, message("h")) == ".m.rule.message"


@pytest.mark.parametrize(
    ("text", "counts"),
    [("2", {2}), ("==2", {2}), ("<2", {1}), (">2", {3}), ("<=2", {1, 2}), (">=2", {2, 3})],
)
def test_room_member_count_compares_with_the_joined_members(text: str, counts: set[int]) -> None:
    rules = when({"kind": "room_member_count", "is": text})

    met = {count for count in (1, 2, 3) if rule_met(rules, message(), room(count)) == "mine"}

    assert met == counts


@pytest.mark.parametrize(
    ("name", "body", "holds"),
    [
        ("Alice", "hi ALICE!", True),
        ("Alice", "hi malice", False),
        ("A*", "hi Alice", False),
        ("A*", "hi a*", True),
        ("", "hi", False),
        (None, "hi None", False),
        ("Alice", None, False),
    ],
)
def test_contains_display_name_holds_for_the_whole_name_in_any_case(
    name: str | None, body: JsonValue, holds: bool
) -> None:
    rules = when({"kind": "contains_display_name"})

    assert (rule_met(rules, message(body), name=name) == "mine") is holds


def test_all_conditions_must_hold() -> None:
    rules = when({"kind": "contains_display_name"}, {"kind": "room_member_count", "is": "2"})

    assert rule_met(rules, message("Alice"), room(2)) == "mine"
    assert rule_met(rules, message("Alice"), room(3)) == ".m.rule.message"
    assert rule_met(rules, message("Bob"), room(2)) == ".m.rule.room_one_to_one"


def test_a_rule_with_an_unknown_condition_meets_nothing() -> None:
    assert rule_met(when({"kind": "of_the_future"}), message()) == ".m.rule.message"


@pytest.mark.parametrize(
    ("actions", "is_notify", "is_highlight", "tweaks"),
    [
        ([], False, False, {}),
        (["dont_notify"], False, False, {}),
        (["notify"], True, False, {}),
        (["notify", {"set_tweak": "highlight"}], True, True, {"highlight": True}),
        (
            ["notify", {"set_tweak": "highlight", "value": False}],
            True,
            False,
            {"highlight": False},
        ),
        ([{"set_tweak": "highlight"}], False, False, {"highlight": True}),
        (["notify", {"set_tweak": "sound", "value": "x"}], True, False, {"sound": "x"}),
        (["notify", {"set_tweak": "sound"}], True, False, {}),
    ],
)
def test_actions_say_whether_to_notify_and_to_highlight(
    actions: list[JsonValue], is_notify: bool, is_highlight: bool, tweaks: JsonObject
) -> None:
    rules = compile_ruleset(ruleset((OVERRIDE, "mine", {"actions": actions})))

    outcome = evaluate(rules, PushEvent(message()), room(), ALICE, None)

    assert outcome is not None
    assert outcome.is_notify is is_notify
    assert outcome.is_highlight is is_highlight
    assert outcome.tweaks == tweaks


def test_the_sender_is_never_notified() -> None:
    shown = message("hello", {"m.mentions": {"user_ids": [BOB], "room": True}})

    assert evaluate(DEFAULTS, PushEvent(shown), room(3, 100), BOB, "Bob") is None


def test_members_named_by_an_event_are_told_apart_from_their_group() -> None:
    members = {ALICE: None, BOB: None, CAROL: None}
    shown = PushEvent(message("hello", {"m.mentions": {"user_ids": [CAROL, BOB, "@far:away", 5]}}))

    outcome = evaluate_group(DEFAULTS, shown, room(), members)

    assert set(outcome.personal) == {BOB, CAROL}
    assert outcome.of_member(BOB) is None
    assert outcome.shared is not None
    assert outcome.of_member(ALICE) is outcome.shared
    assert outcome.shared.rule_id == ".m.rule.message"
    mention = outcome.of_member(CAROL)
    assert mention is not None
    assert mention.is_highlight


def test_a_rule_with_two_personal_conditions_picks_whoever_meets_both() -> None:
    own_state: JsonObject = {"kind": "event_match", "key": "state_key", "pattern": OWN_USER_ID}
    named: JsonObject = {"kind": "contains_display_name"}
    shown = PushEvent(event("x", {"body": "Alice and Carol"}, ALICE))
    members = {ALICE: "Alice", CAROL: "Carol"}
    for conditions in ((own_state, named), (named, own_state)):
        rule = PushRule("both", (), conditions=conditions)
        rules = compile_ruleset(Ruleset({OVERRIDE: (rule,)}))

        assert set(evaluate_group(rules, shown, room(), members).personal) == {ALICE}


def test_a_group_gets_what_each_of_its_members_gets_alone() -> None:
    rules = compile_ruleset(
        ruleset(
            (OVERRIDE, "name", {"conditions": [{"kind": "contains_display_name"}]}),
            (CONTENT, "cake", {"pattern": "cake"}),
        )
    )
    members = {ALICE: "Alice", CAROL: "Carol", "@dora:example.org": None}
    for body in ("Alice and Carol", "Carol, cake?", "nothing"):
        shown = PushEvent(message(body, {"m.mentions": {"user_ids": [CAROL]}}))

        together = evaluate_group(rules, shown, room(), members)

        for user_id, name in members.items():
            assert together.of_member(user_id) == evaluate(rules, shown, room(), user_id, name)


def test_a_client_cannot_store_the_mark_of_the_own_user_id() -> None:
    body: JsonObject = {
        "actions": [],
        "conditions": [{"kind": "event_match", "key": "sender", "pattern": "\0own user id"}],
    }

    with pytest.raises(ValueError, match="NUL"):
        parse_push_rule(OVERRIDE, "mine", body)


def test_the_most_hostile_ruleset_and_event_take_a_moment() -> None:
    rules = Ruleset()
    for number in range(MAX_PATTERNS_LENGTH // 1024):
        body: JsonObject = {"actions": [], "pattern": ("*?" * 512)[:1020] + f"b{number}"}
        rule = parse_push_rule(CONTENT, str(number), body)
        rules = rules.put_rule(CONTENT, rule, before=None, after=None)
    compiled = compile_ruleset(rules)

    started = process_time()
    met = rule_met(compiled, message("a" * 65_000))

    assert met == ".m.rule.message"
    assert process_time() - started < 1
