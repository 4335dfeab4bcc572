import pytest

from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.push_rules import (
    MAX_PATTERNS_LENGTH,
    MAX_RULES_OF_A_KIND,
    MAX_RULESET_LENGTH,
    PushRule,
    PushRuleInvalid,
    PushRuleKind,
    PushRuleNotFound,
    Ruleset,
    load_ruleset,
    parse_actions,
    parse_push_rule,
    render_rule,
    render_ruleset,
)

OVERRIDE, CONTENT, ROOM, SENDER, UNDERRIDE = PushRuleKind
ALICE = "@alice:example.org"
HIGHLIGHT: JsonObject = {"set_tweak": "highlight"}
SOUND: JsonObject = {"set_tweak": "sound", "value": "default"}
RING: JsonObject = {"set_tweak": "sound", "value": "ring"}
TWO_MEMBERS: JsonObject = {"kind": "room_member_count", "is": "2"}


def matches(key: str, pattern: str) -> JsonObject:
    return {"kind": "event_match", "key": key, "pattern": pattern}


# kind, rule id, conditions, actions: the predefined rules of the specification, in their order.
PREDEFINED: list[tuple[PushRuleKind, str, list[JsonValue], list[JsonValue]]] = [
    (OVERRIDE, ".m.rule.master", [], []),
    (OVERRIDE, ".m.rule.suppress_notices", [matches("content.msgtype", "m.notice")], []),
    (
        OVERRIDE,
        ".m.rule.invite_for_me",
        [
            matches("type", "m.room.member"),
            matches("content.membership", "invite"),
            matches("state_key", ALICE),
        ],
        ["notify", SOUND],
    ),
    (OVERRIDE, ".m.rule.member_event", [matches("type", "m.room.member")], []),
    (
        OVERRIDE,
        ".m.rule.is_user_mention",
        [
            {
                "kind": "event_property_contains",
                "key": "content.m\\.mentions.user_ids",
                "value": ALICE,
            }
        ],
        ["notify", SOUND, HIGHLIGHT],
    ),
    (
        OVERRIDE,
        ".m.rule.is_room_mention",
        [
            {"kind": "event_property_is", "key": "content.m\\.mentions.room", "value": True},
            {"kind": "sender_notification_permission", "key": "room"},
        ],
        ["notify", HIGHLIGHT],
    ),
    (
        OVERRIDE,
        ".m.rule.tombstone",
        [matches("type", "m.room.tombstone"), matches("state_key", "")],
        ["notify", HIGHLIGHT],
    ),
    (OVERRIDE, ".m.rule.reaction", [matches("type", "m.reaction")], []),
    (
        OVERRIDE,
        ".m.rule.room.server_acl",
        [matches("type", "m.room.server_acl"), matches("state_key", "")],
        [],
    ),
    (
        OVERRIDE,
        ".m.rule.suppress_edits",
        [
            {
                "kind": "event_property_is",
                "key": "content.m\\.relates_to.rel_type",
                "value": "m.replace",
            }
        ],
        [],
    ),
    (UNDERRIDE, ".m.rule.call", [matches("type", "m.call.invite")], ["notify", RING]),
    (
        UNDERRIDE,
        ".m.rule.encrypted_room_one_to_one",
        [TWO_MEMBERS, matches("type", "m.room.encrypted")],
        ["notify", SOUND],
    ),
    (
        UNDERRIDE,
        ".m.rule.room_one_to_one",
        [TWO_MEMBERS, matches("type", "m.room.message")],
        ["notify", SOUND],
    ),
    (UNDERRIDE, ".m.rule.message", [matches("type", "m.room.message")], ["notify"]),
    (UNDERRIDE, ".m.rule.encrypted", [matches("type", "m.room.encrypted")], ["notify"]),
]


def put(
    ruleset: Ruleset, rule_id: str, before: str | None = None, after: str | None = None
) -> Ruleset:
    rule = parse_push_rule(CONTENT, rule_id, {"actions": ["notify"], "pattern": "cake"})
    return ruleset.put_rule(CONTENT, rule, before=before, after=after)


def content_ids(ruleset: Ruleset) -> str:
    return "".join(rule.rule_id for rule in ruleset.list_rules(CONTENT))


def test_a_new_user_has_the_predefined_rules() -> None:
    expected: dict[str, list[JsonObject]] = {kind: [] for kind in PushRuleKind}
    for kind, rule_id, conditions, actions in PREDEFINED:
        expected[kind].append(
            {
                "rule_id": rule_id,
                "default": True,
                "enabled": rule_id != ".m.rule.master",
                "conditions": conditions,
                "actions": actions,
            }
        )

    assert render_ruleset(Ruleset(), ALICE) == expected


def test_own_overrides_rank_below_the_master_rule_and_above_the_other_defaults() -> None:
    rule = parse_push_rule(OVERRIDE, "mine", {"actions": []})

    rules = Ruleset().put_rule(OVERRIDE, rule, before=None, after=None).list_rules(OVERRIDE)

    assert [rule.rule_id for rule in rules[:3]] == [
        ".m.rule.master",
        "mine",
        ".m.rule.suppress_notices",
    ]


@pytest.mark.parametrize(
    ("kind", "body", "parameters"),
    [
        (OVERRIDE, {"actions": ["notify"]}, {"conditions": []}),
        (
            UNDERRIDE,
            {"actions": ["notify"], "conditions": [TWO_MEMBERS]},
            {"conditions": [TWO_MEMBERS]},
        ),
        (CONTENT, {"actions": ["notify"], "pattern": "c*ke"}, {"pattern": "c*ke"}),
        (ROOM, {"actions": ["notify"], "pattern": "ignored", "conditions": 1}, {}),
        (SENDER, {"actions": ["notify"], "more": [[]]}, {}),
    ],
)
def test_a_rule_is_rendered_with_the_parameters_of_its_kind(
    kind: PushRuleKind, body: JsonObject, parameters: JsonObject
) -> None:
    rule = parse_push_rule(kind, "id", body)

    assert render_rule(kind, rule, ALICE) == {
        "rule_id": "id",
        "default": False,
        "enabled": True,
        "actions": ["notify"],
        **parameters,
    }


def test_a_new_rule_is_the_most_important_one() -> None:
    assert content_ids(put(put(Ruleset(), "a"), "b")) == "ba"


@pytest.mark.parametrize(
    ("rule_id", "before", "after", "order"),
    [
        ("x", "b", None, "axbc"),
        ("x", None, "b", "abxc"),
        ("x", "a", "c", "xabc"),
        ("x", None, "c", "abcx"),
        ("b", None, None, "abc"),
        ("b", "a", None, "bac"),
        ("b", None, "c", "acb"),
        ("a", "c", None, "bac"),
        ("c", None, "a", "acb"),
    ],
)
def test_before_and_after_place_a_rule(
    rule_id: str, before: str | None, after: str | None, order: str
) -> None:
    ruleset = put(put(put(Ruleset(), "c"), "b"), "a")

    assert content_ids(put(ruleset, rule_id, before, after)) == order


@pytest.mark.parametrize("neighbour", ["unknown", ".m.rule.master", "a"])
def test_a_rule_is_placed_only_beside_another_own_rule_of_its_kind(neighbour: str) -> None:
    ruleset = put(Ruleset(), "a")

    with pytest.raises(PushRuleInvalid, match="before/after rule not found"):
        put(ruleset, "a", before=neighbour)
    with pytest.raises(PushRuleInvalid, match="before/after rule not found"):
        put(ruleset, "a", after=neighbour)


def test_a_replaced_rule_stays_enabled() -> None:
    assert put(put(Ruleset(), "a"), "a").list_rules(CONTENT)[0].enabled


def test_a_replaced_rule_stays_disabled_and_a_recreated_one_is_enabled() -> None:
    disabled = put(Ruleset(), "a").set_enabled(CONTENT, "a", enabled=False)

    assert not put(disabled, "a").list_rules(CONTENT)[0].enabled
    assert put(disabled.delete_rule(CONTENT, "a"), "a").list_rules(CONTENT)[0].enabled


def test_own_and_predefined_rules_are_changed() -> None:
    ruleset = put(put(Ruleset(), "a"), "b")

    ruleset = (
        ruleset.set_actions(CONTENT, "a", ())
        .set_enabled(OVERRIDE, ".m.rule.master", enabled=True)
        .set_actions(UNDERRIDE, ".m.rule.message", (HIGHLIGHT,))
    )

    assert ruleset.find_rule(CONTENT, "a") == PushRule("a", (), pattern="cake")
    assert ruleset.find_rule(CONTENT, "b") == PushRule("b", ("notify",), pattern="cake")
    master = ruleset.find_rule(OVERRIDE, ".m.rule.master")
    message = ruleset.find_rule(UNDERRIDE, ".m.rule.message")
    assert master is not None
    assert master.enabled
    assert message is not None
    assert message.actions == (HIGHLIGHT,)


def test_what_is_not_there_is_not_changed_or_deleted() -> None:
    ruleset = put(Ruleset(), "a")

    with pytest.raises(PushRuleNotFound):
        ruleset.set_enabled(ROOM, "a", enabled=True)
    with pytest.raises(PushRuleNotFound):
        ruleset.set_actions(OVERRIDE, ".m.rule.unknown", ())
    with pytest.raises(PushRuleNotFound):
        ruleset.delete_rule(CONTENT, "b")
    with pytest.raises(PushRuleNotFound):
        ruleset.delete_rule(OVERRIDE, ".m.rule.master")
    assert ruleset.find_rule(ROOM, "a") is None


def test_a_deleted_rule_is_gone() -> None:
    assert put(Ruleset(), "a").delete_rule(CONTENT, "a") == Ruleset()


def test_a_stored_ruleset_is_read_back() -> None:
    rule = parse_push_rule(UNDERRIDE, "u", {"actions": [SOUND], "conditions": [TWO_MEMBERS]})
    ruleset = (
        put(put(Ruleset(), "a"), "b")
        .put_rule(UNDERRIDE, rule, before=None, after=None)
        .set_enabled(CONTENT, "b", enabled=False)
        .set_enabled(OVERRIDE, ".m.rule.master", enabled=True)
    )

    loaded = load_ruleset(ruleset.to_json())

    assert loaded == ruleset
    assert loaded.fingerprint() == ruleset.fingerprint()


def test_changes_to_rules_no_longer_predefined_are_dropped() -> None:
    stored: JsonObject = {
        "changed": [{"rule_id": ".m.rule.roomnotif", "enabled": False, "actions": []}, 5]
    }

    assert load_ruleset(stored) == Ruleset()


def test_equal_rulesets_have_equal_fingerprints_however_they_came_about() -> None:
    master, message = (OVERRIDE, ".m.rule.master"), (UNDERRIDE, ".m.rule.message")
    one = Ruleset().set_enabled(*master, enabled=True).set_enabled(*message, enabled=False)
    other = Ruleset().set_enabled(*message, enabled=False).set_enabled(*master, enabled=True)
    undone = one.set_enabled(*master, enabled=False).set_enabled(*message, enabled=True)

    assert one.fingerprint() == other.fingerprint() != Ruleset().fingerprint()
    assert undone.fingerprint() == Ruleset().fingerprint()


def test_values_that_python_takes_for_equal_make_different_fingerprints() -> None:
    fingerprints = set()
    values: list[JsonValue] = [1, True, "1", None]
    for value in values:
        condition: JsonObject = {"kind": "event_property_is", "key": "content.x", "value": value}
        rule = parse_push_rule(OVERRIDE, "r", {"actions": [], "conditions": [condition]})
        ruleset = Ruleset().put_rule(OVERRIDE, rule, before=None, after=None)
        fingerprints.add(ruleset.fingerprint())

    assert len(fingerprints) == len(values)


def test_outdated_actions_are_dropped() -> None:
    assert parse_actions(["dont_notify"]) == ()
    assert parse_actions(["coalesce", "notify", SOUND]) == ("notify", SOUND)


@pytest.mark.parametrize(
    ("actions", "reason"),
    [
        (None, "must be a list"),
        ("notify", "must be a list"),
        (["ring"], "must be .notify. or an object"),
        ([5], "must be .notify. or an object"),
        ([["notify"]], "must be .notify. or an object"),
        ([{"value": 1}], "must be .notify. or an object"),
        ([{"set_tweak": 5}], "must be .notify. or an object"),
        ([{"set_tweak": "x", "value": {}}], "must be a simple value"),
        ([{"set_tweak": "x", "value": 0.5}], "must be a simple value"),
        ([{"set_tweak": "x", "value": 2**53}], "out of range"),
        ([{"set_tweak": "x", "value": "\0"}], "NUL"),
    ],
)
def test_malformed_actions_are_refused(actions: JsonValue, reason: str) -> None:
    with pytest.raises(PushRuleInvalid, match=reason):
        parse_push_rule(ROOM, "!room:example.org", {"actions": actions})


@pytest.mark.parametrize("rule_id", ["", ".m.rule.mine", ".", "a/b", "a\\b", "a\0b", "x" * 513])
def test_reserved_and_malformed_rule_ids_are_refused(rule_id: str) -> None:
    with pytest.raises(PushRuleInvalid, match="rule ids"):
        parse_push_rule(ROOM, rule_id, {"actions": []})


@pytest.mark.parametrize("pattern", [None, 5, "a\0b"])
def test_a_content_rule_needs_a_pattern(pattern: JsonValue) -> None:
    with pytest.raises(PushRuleInvalid, match="pattern must be a string"):
        parse_push_rule(CONTENT, "id", {"actions": [], "pattern": pattern})


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        ({}, "conditions must be a list"),
        ([5], "must be an object"),
        ([{}], "kind must be a string"),
        ([{"kind": "event_match", "key": "type"}], "pattern must be a string"),
        ([{"kind": "event_match", "pattern": "x"}], "key must be a string"),
        ([{"kind": "event_property_is", "key": "type"}], "value is required"),
        ([{"kind": "event_property_contains", "value": 1}], "key must be a string"),
        ([{"kind": "event_property_is", "key": "a", "value": []}], "must be a simple value"),
        ([{"kind": "room_member_count"}], "is must be a string"),
        ([{"kind": "room_member_count", "is": "!=2"}], "is must be a number"),
        ([{"kind": "room_member_count", "is": "=2"}], "is must be a number"),
        ([{"kind": "room_member_count", "is": ">"}], "is must be a number"),
        ([{"kind": "room_member_count", "is": "-2"}], "is must be a number"),
        ([{"kind": "room_member_count", "is": "٢"}], "is must be a number"),
        ([{"kind": "room_member_count", "is": "9" * 5000}], "is must be a number"),
        ([{"kind": "sender_notification_permission"}], "key must be a string"),
        ([{"kind": "of_the_future", "deep": {"a": [1]}}], "must be a simple value"),
    ],
)
def test_malformed_conditions_are_refused(conditions: JsonValue, reason: str) -> None:
    with pytest.raises(PushRuleInvalid, match=reason):
        parse_push_rule(OVERRIDE, "id", {"actions": [], "conditions": conditions})


def test_an_unknown_condition_is_kept() -> None:
    condition: JsonObject = {"kind": "of_the_future", "x": 1}

    rule = parse_push_rule(UNDERRIDE, "id", {"actions": [], "conditions": [condition]})

    assert rule.conditions == (condition,)


def test_a_rule_has_a_largest_size() -> None:
    with pytest.raises(PushRuleInvalid, match="a rule may have at most"):
        parse_push_rule(CONTENT, "id", {"actions": [], "pattern": "x" * 9000})


def test_a_kind_has_a_largest_number_of_rules() -> None:
    rules = tuple(PushRule(f"!{number}:x", ()) for number in range(MAX_RULES_OF_A_KIND))

    with pytest.raises(PushRuleInvalid, match="rules of a kind"):
        Ruleset({ROOM: rules}).put_rule(ROOM, PushRule("!new:x", ()), before=None, after=None)


def test_all_patterns_together_have_a_largest_length() -> None:
    condition = matches("content.body", "x" * (MAX_PATTERNS_LENGTH // 4))
    ruleset = Ruleset({OVERRIDE: (PushRule("a", (), conditions=(condition,) * 4),)})

    with pytest.raises(PushRuleInvalid, match="all patterns"):
        put(ruleset, "cake")


def test_all_rules_together_have_a_largest_length() -> None:
    action: JsonObject = {"set_tweak": "x", "value": "x" * (MAX_RULESET_LENGTH // 2)}

    ruleset = Ruleset({ROOM: (PushRule("!a:x", (action,)),)})

    with pytest.raises(PushRuleInvalid, match="all rules"):
        ruleset.set_actions(UNDERRIDE, ".m.rule.message", (action,))
