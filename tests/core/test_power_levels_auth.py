"""Rule 10 of version 12 (rule 9 of 6 to 11): m.room.power_levels."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.core.json_types import JsonObject, JsonValue
from tests.core.scenario import ALICE, ALL_VERSIONS, BOB, CAROL, DAVE, Room, versions_between

LEVEL_KEYS = (
    "users_default",
    "events_default",
    "state_default",
    "ban",
    "redact",
    "kick",
    "invite",
)
UNTIL_9 = versions_between(1, 9)
SINCE_10 = versions_between(10, 12)
OWN: JsonObject = {BOB: 50}


def refusal(version_id: str, old: JsonObject | None, new: JsonObject) -> str | None:
    """Bob, of level 50 if `old` says so, changes the levels."""
    room = Room(version_id)
    room.set_members({BOB: "join"})
    if old is not None:
        room.set_levels({"events": {"m.room.power_levels": 0}, **old})
    new = {"events": {"m.room.power_levels": 0}, **new}
    return room.refusal_of(room.make("m.room.power_levels", BOB, new, state_key=""))


@pytest.mark.parametrize("version_id", SINCE_10)
@pytest.mark.parametrize("key", LEVEL_KEYS)
@pytest.mark.parametrize("value", ["50", None, True, [], {}])
def test_attack_3_levels_are_integers_from_version_10_on(
    version_id: str, key: str, value: Any
) -> None:
    assert refusal(version_id, {"users": OWN}, {"users": OWN, key: value}) == "power_levels.type"


@pytest.mark.parametrize("version_id", SINCE_10)
@pytest.mark.parametrize("name", ["events", "notifications"])
@pytest.mark.parametrize(
    "value", [None, 3, [], "x", {"x": "50"}, {"x": None}, {"x": True}, {"x": {}}]
)
def test_attack_3_maps_have_integers_from_version_10_on(
    version_id: str, name: str, value: Any
) -> None:
    assert refusal(version_id, {"users": OWN}, {"users": OWN, name: value}) == "power_levels.type"


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
@pytest.mark.parametrize(
    "users",
    [
        None,
        3,
        [],
        "x",
        {CAROL: None},
        {CAROL: "x"},
        {CAROL: True},
        {"carol": 0},
        {"@carol": 0},
        {"": 0},
    ],
)
def test_attack_3_users_are_user_ids_with_levels(version_id: str, users: Any) -> None:
    assert refusal(version_id, {"users": OWN}, {"users": users}) == "power_levels.users"


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_strings_are_levels_before_version_10(version_id: str) -> None:
    expected = None if version_id in UNTIL_9 else "power_levels.users"

    assert refusal(version_id, {"users": OWN}, {"users": {BOB: "50", CAROL: " +010 "}}) == expected


@pytest.mark.parametrize("version_id", UNTIL_9)
def test_a_level_that_becomes_a_string_of_itself_has_not_changed(version_id: str) -> None:
    old: JsonObject = {"users": OWN, "ban": 90, "kick": "80"}

    assert refusal(version_id, old, {"users": OWN, "ban": "90", "kick": 80}) is None


@pytest.mark.parametrize("version_id", UNTIL_9)
def test_attack_3_a_change_to_what_is_no_level_is_refused(version_id: str) -> None:
    values: list[JsonValue] = [None, "x", [], True]
    for value in values:
        new: JsonObject = {"users": OWN, "ban": value}
        assert refusal(version_id, {"users": OWN}, new) == "power_levels.type"


@pytest.mark.parametrize("version_id", UNTIL_9)
def test_an_unreadable_old_level_can_be_repaired(version_id: str) -> None:
    old: JsonObject = {"users": OWN, "ban": "x", "notifications": 3}

    assert refusal(version_id, old, {"users": OWN, "ban": 50}) is None


def test_attack_3_creators_are_not_among_the_users_of_version_12() -> None:
    room = Room("12", {"additional_creators": [CAROL]})
    room.set_members({ALICE: "join"})

    def refused(content: JsonObject) -> str | None:
        return room.refusal_of(room.make("m.room.power_levels", ALICE, content, state_key=""))

    for _ in range(2):
        assert refused({"users": {ALICE: 100}}) == "power_levels.creator"
        assert refused({"users": {BOB: 100, CAROL: 0}}) == "power_levels.creator"
        assert refused({"users": {BOB: 2**53 - 1}}) is None
        room.set_levels({"users": {BOB: 100}})


@pytest.mark.parametrize("version_id", versions_between(1, 11))
def test_the_creator_is_among_the_users_before_version_12(version_id: str) -> None:
    room = Room(version_id)
    room.set_members({ALICE: "join"})
    content: JsonObject = {"users": {ALICE: 100}}

    assert room.refusal_of(room.make("m.room.power_levels", ALICE, content, state_key="")) is None


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_the_first_levels_may_be_any(version_id: str) -> None:
    room = Room(version_id)
    room.set_members({ALICE: "join"})
    content: JsonObject = {"users": {BOB: 9_000}, "ban": 9_000, "events": {"x": 9_000}}

    assert room.refusal_of(room.make("m.room.power_levels", ALICE, content, state_key="")) is None


# (old, new, rule): changes by Bob, who has level 50. Applied to every single level.
CHANGES: list[tuple[int | None, int | None, str | None]] = [
    (None, 50, None),
    (None, 51, "power_levels.new"),
    (50, None, None),
    (51, None, "power_levels.old"),
    (50, 0, None),
    (51, 0, "power_levels.old"),
    (0, 50, None),
    (0, 51, "power_levels.new"),
    (51, 51, None),
    (-5, 50, None),
]


def with_level(key: str | None, name: str | None, level: int | None) -> JsonObject:
    """Return levels with one more: at the top, or in the map of that name."""
    base: JsonObject = {"users": {BOB: 50}, "events": {"m.room.power_levels": 0}}
    if level is None:
        return base
    if name is None:
        return base | {key or "": level}
    old = base.get(name, {})
    assert isinstance(old, dict)
    return base | {name: old | {key or "": level}}


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
@pytest.mark.parametrize(("old", "new", "rule"), CHANGES)
def test_attack_3_a_level_is_changed_within_the_senders_own(
    version_id: str, old: int | None, new: int | None, rule: str | None
) -> None:
    places: list[tuple[str | None, str]] = [
        (None, key) for key in LEVEL_KEYS if key != "users_default"
    ]
    places.append(("events", "m.room.topic"))
    if version_id in versions_between(6, 12):
        places.append(("notifications", "room"))
    for name, key in places:
        change = refusal(version_id, with_level(key, name, old), with_level(key, name, new))
        assert change == rule, (name, key)


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_attack_3_users_default_is_changed_within_the_senders_own(version_id: str) -> None:
    assert (
        refusal(version_id, {"users": OWN}, {"users": OWN, "users_default": 51})
        == "power_levels.new"
    )
    assert (
        refusal(version_id, {"users": OWN, "users_default": 51}, {"users": OWN})
        == "power_levels.old"
    )
    assert refusal(version_id, {"users": OWN}, {"users": OWN, "users_default": 50}) is None


@pytest.mark.parametrize("version_id", versions_between(1, 5))
def test_notification_levels_are_free_before_version_6(version_id: str) -> None:
    old: JsonObject = {"users": OWN, "notifications": {"room": 90}}

    assert refusal(version_id, old, {"users": OWN, "notifications": {"room": 95}}) is None


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ({CAROL: 49}, {CAROL: 0}, None),
        ({CAROL: 49}, {CAROL: 50}, None),
        ({CAROL: 49}, {}, None),
        ({CAROL: 49}, {CAROL: 51}, "power_levels.new"),
        ({CAROL: 50}, {CAROL: 0}, "power_levels.user"),
        ({CAROL: 50}, {}, "power_levels.user"),
        ({CAROL: 51}, {CAROL: 0}, "power_levels.old"),
        ({CAROL: 51}, {}, "power_levels.old"),
        ({CAROL: 51}, {CAROL: 51}, None),
        ({}, {CAROL: 50}, None),
        ({}, {CAROL: 51}, "power_levels.new"),
        ({}, {CAROL: -1}, None),
    ],
)
def test_attack_3_another_users_level_is_changed_only_from_below(
    version_id: str, old: JsonObject, new: JsonObject, rule: str | None
) -> None:
    assert refusal(version_id, {"users": OWN | old}, {"users": OWN | new}) == rule


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
@pytest.mark.parametrize(
    ("users", "rule"),
    [({BOB: 49}, None), ({BOB: -1}, None), ({}, None), ({BOB: 51}, "power_levels.new")],
)
def test_the_sender_may_lower_but_not_raise_themselves(
    version_id: str, users: JsonObject, rule: str | None
) -> None:
    assert refusal(version_id, {"users": OWN}, {"users": users}) == rule


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_attack_3_levels_are_changed_by_members_of_the_level_only(version_id: str) -> None:
    room = Room(version_id)
    room.set_members({BOB: "join"})
    room.set_levels({"users": {BOB: 49}})
    by_bob = room.make("m.room.power_levels", BOB, {}, state_key="")
    by_dave = room.make("m.room.power_levels", DAVE, {}, state_key="")

    assert room.refusal_of(by_bob) == "sender.level"
    assert room.refusal_of(by_dave) == "sender.not_joined"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-100, 100) | st.text(max_size=3),
    lambda children: (
        st.lists(children, max_size=2)
        | st.dictionaries(st.sampled_from([ALICE, BOB, CAROL, "x"]), children, max_size=3)
    ),
    max_leaves=4,
)
level_contents = st.dictionaries(
    st.sampled_from([*LEVEL_KEYS, "users", "events", "notifications"]), json_values, max_size=4
)


@given(st.sampled_from(ALL_VERSIONS), level_contents, level_contents)
def test_attack_3_any_levels_are_allowed_or_refused(version_id: str, old: Any, new: Any) -> None:
    rule = refusal(version_id, old, new)

    assert rule is None or rule.startswith(("power_levels.", "sender."))
