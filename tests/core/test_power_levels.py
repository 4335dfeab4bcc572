from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.core.json_types import JsonObject
from homeserver.core.power_levels import (
    CREATOR_LEVEL,
    PowerLevels,
    creators_of,
    parse_level,
    power_levels_of,
)
from homeserver.core.room_versions import ROOM_VERSIONS
from tests.core.scenario import ALICE, ALL_VERSIONS, BOB, CAROL, DAVE, Room, versions_between


def levels_of(version_id: str, content: JsonObject | None) -> PowerLevels:
    room = Room(version_id)
    if content is not None:
        room.set_levels(content)
    return power_levels_of(room.version, room.state)


@pytest.mark.parametrize("content", [None, {}])
@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_levels_have_their_defaults(version_id: str, content: JsonObject | None) -> None:
    levels = levels_of(version_id, content)

    assert (levels.invite, levels.kick, levels.ban, levels.redact) == (0, 50, 50, 50)
    assert levels.event_level("m.room.topic", is_state=True) == 50
    assert levels.event_level("m.room.message", is_state=False) == 0
    assert levels.notification_level("room") == 50
    assert levels.user_level(BOB) == 0


def test_levels_are_those_of_the_event() -> None:
    levels = levels_of(
        "11",
        {
            "users": {BOB: 10},
            "users_default": 1,
            "events": {"m.room.topic": 2},
            "events_default": 3,
            "state_default": 4,
            "invite": 5,
            "kick": 6,
            "ban": 7,
            "redact": 8,
            "notifications": {"room": 9},
        },
    )

    assert (levels.invite, levels.kick, levels.ban, levels.redact) == (5, 6, 7, 8)
    assert levels.event_level("m.room.topic", is_state=True) == 2
    assert levels.event_level("m.room.topic", is_state=False) == 2
    assert levels.event_level("m.room.name", is_state=True) == 4
    assert levels.event_level("m.room.message", is_state=False) == 3
    assert levels.notification_level("room") == 9
    assert (levels.user_level(BOB), levels.user_level(ALICE)) == (10, 1)


@pytest.mark.parametrize("version_id", versions_between(1, 11))
def test_the_creator_has_100_only_without_a_power_levels_event(version_id: str) -> None:
    assert levels_of(version_id, None).user_level(ALICE) == 100
    assert levels_of(version_id, {}).user_level(ALICE) == 0


@pytest.mark.parametrize("content", [None, {}, {"users": {ALICE: 5, BOB: 2**53 - 1}}])
def test_creators_of_version_12_stand_above_every_level(content: JsonObject | None) -> None:
    room = Room("12", {"additional_creators": [CAROL]})
    if content is not None:
        room.set_levels(content)

    levels = power_levels_of(room.version, room.state)

    assert levels.user_level(ALICE) == levels.user_level(CAROL) == CREATOR_LEVEL
    assert levels.user_level(BOB) < CREATOR_LEVEL


def test_additional_creators_mean_nothing_before_version_12() -> None:
    room = Room("11", {"additional_creators": [CAROL]})

    assert creators_of(room.create) == {ALICE}


@pytest.mark.parametrize("version_id", versions_between(1, 10))
def test_the_creator_is_named_in_the_content_before_version_11(version_id: str) -> None:
    assert creators_of(Room(version_id, {"creator": DAVE}).create) == {DAVE}
    assert creators_of(Room(version_id, {"creator": [DAVE]}).create) == frozenset()


@pytest.mark.parametrize("additional", [3, "text", {CAROL: 1}, [3, None, [CAROL]]])
def test_attack_3_malformed_additional_creators_are_no_creators(additional: Any) -> None:
    assert creators_of(Room("12", {"additional_creators": additional}).create) == {ALICE}


@pytest.mark.parametrize(
    ("value", "level"),
    [
        ("50", 50),
        ("000100", 100),
        ("-100", -100),
        ("+100", 100),
        (" 100 ", 100),
        (" -00100\t\n", -100),
        ("", None),
        ("5.0", None),
        ("1_000", None),
        ("--1", None),
        ("1 0", None),
        ("٣", None),
        ("1e2", None),
        ("9" * 401, None),
    ],
)
def test_attack_3_strings_are_levels_before_version_10(value: str, level: int | None) -> None:
    for version_id in versions_between(1, 9):
        assert parse_level(ROOM_VERSIONS[version_id], value) == level
    for version_id in versions_between(10, 12):
        assert parse_level(ROOM_VERSIONS[version_id], value) is None


@pytest.mark.parametrize(
    ("value", "level"),
    [(50.57, 50), (5.114698e4, 51146), (-0.5, 0), (float("inf"), None), (float("nan"), None)],
)
def test_attack_3_floats_are_truncated_before_version_6(value: float, level: int | None) -> None:
    for version_id in versions_between(1, 5):
        assert parse_level(ROOM_VERSIONS[version_id], value) == level
    for version_id in versions_between(6, 12):
        assert parse_level(ROOM_VERSIONS[version_id], value) is None


@pytest.mark.parametrize("value", [None, True, False, [], {}, [50]])
def test_attack_3_other_values_are_never_levels(value: Any) -> None:
    for version_id in ALL_VERSIONS:
        assert parse_level(ROOM_VERSIONS[version_id], value) is None


@pytest.mark.parametrize("value", [None, "x", [], True])
def test_attack_3_an_unreadable_level_counts_as_its_default(value: Any) -> None:
    levels = levels_of("9", {"ban": value, "users": {BOB: value}, "events": value, "kick": "60"})

    assert (levels.ban, levels.kick, levels.user_level(BOB)) == (50, 60, 0)
    assert levels.event_level("m.room.topic", is_state=True) == 50


def test_levels_are_read_once_for_a_room() -> None:
    room = Room("12")
    room.set_levels({"ban": 60})

    assert power_levels_of(room.version, room.state) is power_levels_of(room.version, room.state)


def test_attack_3_levels_read_with_another_create_event_are_not_reused() -> None:
    room, other = Room("12"), Room("12", {"additional_creators": [BOB]})
    room.set_levels({})
    mixed = room.state | {("m.room.create", ""): other.create}

    assert power_levels_of(room.version, room.state).user_level(BOB) == 0
    assert power_levels_of(room.version, mixed).user_level(BOB) == CREATOR_LEVEL


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=4),
    lambda children: st.lists(children, max_size=2) | st.dictionaries(st.just(BOB), children),
    max_leaves=3,
)


@given(
    st.dictionaries(
        st.sampled_from(["ban", "events", "users", "users_default", "notifications"]), json_values
    )
)
def test_attack_3_any_content_can_be_read(content: Any) -> None:
    for version_id in ("9", "10", "12"):
        levels = levels_of(version_id, content)
        assert isinstance(levels.user_level(BOB), int)
        assert isinstance(levels.event_level("m.room.message", is_state=False), int)
