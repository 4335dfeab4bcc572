"""What goes over to a room's successor, and how the old room is closed."""

from typing import Any

import pytest

from homeserver.core.errors import EventRejected
from homeserver.core.event_auth import check_event_auth
from homeserver.core.push_rules import PushRuleKind, Ruleset, parse_push_rule
from homeserver.core.room_succession import (
    closing_levels,
    follow_in_push_rules,
    successor_content,
    successor_levels,
)
from homeserver.core.room_versions import ROOM_VERSIONS
from tests.core.scenario import ALICE, ALL_VERSIONS, BOB, CAROL, Room, versions_between

MAX = 2**53 - 1


def levels_of(
    old: str, new: str, levels: Any, *, creators: tuple[str, ...] = (ALICE,), by: str = ALICE
) -> Any:
    return successor_levels(ROOM_VERSIONS[old], ROOM_VERSIONS[new], levels, creators, [by])


@pytest.mark.parametrize(
    ("version", "before", "after"),
    [
        ("12", "knock_restricted", "knock_restricted"),
        ("10", "knock_restricted", "knock_restricted"),
        ("9", "knock_restricted", "restricted"),
        ("7", "knock_restricted", "knock"),
        ("6", "knock_restricted", "invite"),
        ("8", "restricted", "restricted"),
        ("7", "restricted", "invite"),
        ("7", "knock", "knock"),
        ("6", "knock", "invite"),
        ("1", "public", "public"),
        ("1", "private", "private"),
        ("11", None, None),
    ],
)
def test_a_join_rule_that_is_not_known_becomes_a_stricter_one(
    version: str, before: Any, after: Any
) -> None:
    content = {"join_rule": before, "allow": []}

    found = successor_content(ROOM_VERSIONS[version], "m.room.join_rules", content)

    assert found == {"join_rule": after, "allow": []}


@pytest.mark.parametrize(("version", "is_kept"), [("5", True), ("6", False), ("12", False)])
@pytest.mark.parametrize("value", [1.5, MAX + 1, [{"deep": -0.5}]])
def test_content_goes_over_if_the_version_can_hold_it(
    version: str, is_kept: bool, value: Any
) -> None:
    content = {"topic": "T", "x": value}

    found = successor_content(ROOM_VERSIONS[version], "m.room.topic", content)

    assert found == (content if is_kept else None)


@pytest.mark.parametrize(
    ("old", "new", "before", "after"),
    [
        ("9", "10", {"kick": " 60 ", "users": {BOB: "50"}}, {"kick": 60, "users": {BOB: 50}}),
        ("9", "10", {"kick": "x", "ban": None}, {}),
        ("9", "10", {"events": {"a": "1", "b": []}, "users": 3}, {"events": {"a": 1}}),
        ("5", "6", {"kick": 1.9, "ban": "9" * 30, "redact": -(2**70)},
         {"kick": 1, "ban": MAX, "redact": -MAX}),
        ("5", "11", {"other": 0.5, "more": "kept"}, {"more": "kept"}),
        ("5", "11", {"notifications": {"room": "20"}}, {"notifications": {"room": 20}}),
        ("11", "11", {"ban": 5, "other": {"x": 1}}, {"ban": 5, "other": {"x": 1}}),
    ],
)  # fmt: skip
def test_levels_become_integers(old: str, new: str, before: Any, after: Any) -> None:
    assert levels_of(old, new, before) == {"events": {}, "users": {}} | after


@pytest.mark.parametrize(
    ("old", "new", "levels", "users"),
    [
        ("11", "11", None, {ALICE: 100, BOB: 100}),
        ("11", "11", {"users": {BOB: 50}}, {BOB: 50}),
        ("12", "11", None, {ALICE: 100, BOB: 100}),
        ("12", "11", {"users": {CAROL: 50}}, {CAROL: 50, ALICE: 100, BOB: 100}),
        ("12", "11", {"events": {"m.room.tombstone": 150}}, {ALICE: 150, BOB: 150}),
        ("12", "11", {"users": {CAROL: 9000}}, {CAROL: 9000, ALICE: 9000, BOB: 9000}),
        ("12", "12", {"users": {CAROL: 50}}, {CAROL: 50}),
        ("12", "12", None, {}),
        ("11", "12", {"users": {ALICE: 100, BOB: 100}}, {BOB: 100}),
        ("11", "12", None, {BOB: 100}),
    ],
)
def test_creators_have_a_level_where_versions_know_no_other_way(
    old: str, new: str, levels: Any, users: Any
) -> None:
    assert levels_of(old, new, levels, creators=(ALICE, BOB))["users"] == users


@pytest.mark.parametrize(
    ("levels", "needed"),
    [
        (None, 150),
        ({"events": {"m.room.tombstone": 100}}, 150),
        ({"events": {"m.room.tombstone": 200}}, 200),
        ({"state_default": 150}, 151),
        ({"state_default": MAX}, MAX),
    ],
)
def test_in_version_12_a_tombstone_needs_more_than_other_state(levels: Any, needed: int) -> None:
    assert levels_of("11", "12", levels)["events"]["m.room.tombstone"] == needed


@pytest.mark.parametrize("new", ALL_VERSIONS)
@pytest.mark.parametrize("old", ALL_VERSIONS)
@pytest.mark.parametrize(
    "levels",
    [
        None,
        {},
        {"users": {ALICE: 100, BOB: "50"}, "kick": 1.5, "events": {"x": "?"}, "invite": 10**40},
        {"users": [], "events": None, "notifications": {"room": {}}, "state_default": "1000"},
    ],
)
def test_what_goes_over_is_accepted_by_the_new_version(old: str, new: str, levels: Any) -> None:
    room = Room(new)
    room.set_members({ALICE: "join"})
    content = levels_of(old, new, levels)

    event = room.make("m.room.power_levels", ALICE, content, state_key="")

    assert room.refusal_of(event) is None


@pytest.mark.parametrize("version", ALL_VERSIONS)
@pytest.mark.parametrize(
    ("levels", "changed"),
    [
        ({"users": {ALICE: 100}}, {"events_default": 50, "invite": 50}),
        ({"users": {ALICE: 100}, "invite": 70}, {"events_default": 50}),
        ({"users": {ALICE: 100}, "users_default": 60}, {"events_default": 61, "invite": 61}),
        ({"users": {ALICE: 100}, "events_default": 50, "invite": 50}, None),
    ],
)
def test_an_old_room_is_closed_above_its_usual_level(
    version: str, levels: Any, changed: Any
) -> None:
    closed = closing_levels(ROOM_VERSIONS[version], levels, [ALICE])

    assert closed == (None if changed is None else levels | changed)


@pytest.mark.parametrize("version", versions_between(1, 9))
def test_levels_as_strings_are_read_before_an_old_room_is_closed(version: str) -> None:
    closed = closing_levels(ROOM_VERSIONS[version], {"users_default": "60", "invite": "99"}, [])

    assert closed == {"users_default": "60", "invite": "99", "events_default": 61}


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_creator_without_levels_keeps_his_power_in_the_old_room(version: str) -> None:
    room = Room(version)
    room.set_members({ALICE: "join"})

    closed = closing_levels(room.version, None, [ALICE])

    assert closed is not None
    room.put("m.room.power_levels", ALICE, closed)
    again = room.make("m.room.power_levels", ALICE, {**closed, "ban": 90}, state_key="")
    check_event_auth(again, room.state)
    room.set_members({BOB: "join"})
    with pytest.raises(EventRejected):
        check_event_auth(room.make("m.room.message", BOB), room.state)


def rules_about(room_id: str) -> Ruleset:
    condition = {"kind": "event_match", "key": "room_id", "pattern": room_id}
    body: Any = {"actions": ["notify"], "conditions": [condition]}
    kinds = PushRuleKind
    ruleset = Ruleset()
    for kind, rule_id in (
        (kinds.OVERRIDE, room_id),
        (kinds.OVERRIDE, "mine"),
        (kinds.UNDERRIDE, f"a {room_id}"),
        (kinds.ROOM, room_id),
    ):
        rule = parse_push_rule(kind, rule_id, body)
        ruleset = ruleset.put_rule(kind, rule, before=None, after=None)
    return ruleset.set_enabled(kinds.ROOM, room_id, enabled=False)


def test_push_rules_about_a_room_are_copied_for_its_successor() -> None:
    ruleset = rules_about("!old:a.example")
    other: Any = {"actions": []}
    for kind in (PushRuleKind.ROOM, PushRuleKind.OVERRIDE, PushRuleKind.SENDER):
        rule = parse_push_rule(kind, "other", other)
        ruleset = ruleset.put_rule(kind, rule, before=None, after=None)

    followed = follow_in_push_rules(ruleset, "!old:a.example", "!new")

    ids = {kind: {rule.rule_id for rule in rules} for kind, rules in followed.own.items()}
    assert ids[PushRuleKind.OVERRIDE] == {"!old:a.example", "!new", "mine", "mine !new", "other"}
    assert ids[PushRuleKind.UNDERRIDE] == {"a !old:a.example", "a !new"}
    assert ids[PushRuleKind.ROOM] == {"!old:a.example", "!new", "other"}
    assert ids[PushRuleKind.SENDER] == {"other"}
    copied = followed.find_rule(PushRuleKind.OVERRIDE, "mine !new")
    assert copied is not None
    assert copied.conditions[0]["pattern"] == "!new"
    silent = followed.find_rule(PushRuleKind.ROOM, "!new")
    assert silent is not None
    assert not silent.enabled


def test_push_rules_are_copied_once() -> None:
    once = follow_in_push_rules(rules_about("!old:a.example"), "!old:a.example", "!new")

    assert follow_in_push_rules(once, "!old:a.example", "!new") == once
