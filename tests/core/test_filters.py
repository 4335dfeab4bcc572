import pytest

from homeserver.core.filters import (
    MAX_LIST_LENGTH,
    MAX_PATH_DEPTH,
    MAX_WILDCARD_TYPES,
    FilterInvalid,
    SyncFilter,
    parse_event_filter,
    parse_filter,
    parse_room_event_filter,
)
from homeserver.core.json_types import JsonObject, JsonValue

ALICE, BOB = "@alice:example.org", "@bob:example.org"
ROOM, OTHER = "!room:example.org", "!other:example.org"


def allows(
    body: JsonObject,
    event_type: str = "m.room.message",
    sender: str | None = ALICE,
    room_id: str = ROOM,
    *,
    contains_url: bool = False,
) -> bool:
    parsed = parse_room_event_filter(body)
    return parsed.allows(event_type, sender, room_id, contains_url=contains_url)


def test_an_empty_filter_allows_everything_and_changes_nothing() -> None:
    event: JsonObject = {"type": "m.room.message", "content": {"body": "hi"}}

    parsed = parse_filter({})

    assert parsed == SyncFilter()
    assert parsed.select_fields(event) is event
    assert parsed.room.allows_room(ROOM)
    assert parsed.room.timeline.allows("any", None, ROOM, contains_url=True)
    assert parsed.presence.allows_event("m.presence", ALICE)
    assert not parsed.room.include_leave
    assert not parsed.room.timeline.lazy_load_members
    assert not parsed.room.timeline.unread_thread_notifications


def test_every_part_of_a_filter_is_read() -> None:
    parsed = parse_filter(
        {
            "event_fields": ["type"],
            "event_format": "federation",
            "presence": {"not_senders": [ALICE]},
            "account_data": {"types": ["m.direct"]},
            "room": {
                "rooms": [ROOM, OTHER],
                "not_rooms": [OTHER],
                "include_leave": True,
                "timeline": {"limit": 10, "unread_thread_notifications": True},
                "state": {"lazy_load_members": True, "include_redundant_members": True},
                "ephemeral": {"types": []},
                "account_data": {"not_types": ["*"]},
            },
            "of_the_future": {},
        }
    )

    assert parsed.is_federation_format
    assert parsed.select_fields({"type": "m.tag", "sender": ALICE}) == {"type": "m.tag"}
    assert not parsed.presence.allows_event("m.presence", ALICE)
    assert parsed.account_data.allows_event("m.direct", None)
    assert not parsed.account_data.allows_event("m.push_rules", None)
    assert parsed.room.allows_room(ROOM)
    assert not parsed.room.allows_room(OTHER)
    assert parsed.room.include_leave
    assert parsed.room.timeline.limit == 10
    assert parsed.room.timeline.unread_thread_notifications
    assert parsed.room.state.lazy_load_members
    assert parsed.room.state.include_redundant_members
    assert not parsed.room.ephemeral.allows("m.typing", None, ROOM, contains_url=False)
    assert not parsed.room.account_data.allows("m.tag", None, ROOM, contains_url=False)


@pytest.mark.parametrize(
    ("types", "event_type", "allowed"),
    [
        (["m.room.message"], "m.room.message", True),
        (["m.room.message"], "m.room.messages", False),
        (["m.room.*"], "m.room.message", True),
        (["m.room.*"], "m.roomy", False),
        (["*"], "", True),
        (["m.*.message"], "m.room.message", True),
        (["m.*.message"], "m.room.member", False),
        (["*.name", "x.*.y"], "m.room.name", True),
        (["m.?oom.*"], "m.room.name", False),
        (["M.room.message"], "m.room.message", False),
        (["m.*.me*"], "m.room.message", True),
        (["m.*.me*"], "m.*.message", True),
        (["m.*.me*"], "m.room.name", False),
        ([], "m.room.message", False),
    ],
)
def test_types_are_asked_for_and_excluded_with_stars(
    types: list[JsonValue], event_type: str, allowed: bool
) -> None:
    assert allows({"types": types}, event_type) is allowed
    assert allows({"not_types": types}, event_type) is not allowed


def test_an_exclusion_wins_over_an_inclusion() -> None:
    assert not allows({"types": ["m.room.message"], "not_types": ["m.room.*"]})
    assert not allows({"senders": [ALICE], "not_senders": [ALICE]})
    assert not allows({"rooms": [ROOM], "not_rooms": [ROOM]})


def test_senders_and_rooms_are_asked_for() -> None:
    assert allows({"senders": [ALICE], "rooms": [ROOM]})
    assert not allows({"senders": [BOB]})
    assert not allows({"rooms": [OTHER]})
    assert not allows({"senders": []})
    assert not allows({"rooms": []})


def test_an_event_without_a_sender_is_not_from_a_sender_asked_for() -> None:
    assert not allows({"senders": [ALICE]}, "m.typing", None)
    assert allows({"not_senders": [ALICE]}, "m.typing", None)


def test_contains_url_includes_or_excludes() -> None:
    assert allows({"contains_url": True}, contains_url=True)
    assert not allows({"contains_url": True}, contains_url=False)
    assert allows({"contains_url": False}, contains_url=False)
    assert not allows({"contains_url": False}, contains_url=True)


@pytest.mark.parametrize(("limit", "clamped"), [(0, 0), (1, 1), (50, 50), (51, 50), (10**9, 50)])
def test_a_limit_is_clamped(limit: int, clamped: int) -> None:
    assert parse_event_filter({"limit": limit}).clamp_limit(20, 50) == clamped


def test_an_absent_limit_is_the_default() -> None:
    assert parse_event_filter({}).clamp_limit(20, 50) == 20


@pytest.mark.parametrize(
    ("fields", "selected"),
    [
        (["content.body"], {"content": {"body": "hi"}}),
        (["content", "content.body"], {"content": {"body": "hi", "a.b": {"c": 1, "d": 2}}}),
        (["content.body", "content"], {"content": {"body": "hi", "a.b": {"c": 1, "d": 2}}}),
        ([r"content.a\.b.c", "type"], {"content": {"a.b": {"c": 1}}, "type": "x"}),
        (["content.a.b.c"], {}),
        (["content.absent", "absent", "type.absent"], {}),
        ([r"content.a\\b"], {}),
        ([r"a\b"], {r"a\b": None}),
        ([r"a\\b"], {r"a\b": None}),
        ([], {"type": "x", r"a\b": None, "content": {"body": "hi", "a.b": {"c": 1, "d": 2}}}),
    ],
)
def test_event_fields_select_properties(fields: list[JsonValue], selected: JsonObject) -> None:
    event: JsonObject = {
        "type": "x",
        r"a\b": None,
        "content": {"body": "hi", "a.b": {"c": 1, "d": 2}},
    }

    assert parse_filter({"event_fields": fields}).select_fields(event) == selected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([], "filter must be an object"),
        ({"room": []}, "room must be an object"),
        ({"room": {"timeline": 1}}, "room.timeline must be an object"),
        ({"presence": None}, "presence must be an object"),
        ({"event_format": "xml"}, "event_format"),
        ({"event_format": ["client"]}, "event_format"),
        ({"event_fields": "type"}, "filter.event_fields must be a list"),
        ({"event_fields": [1]}, "filter.event_fields must hold strings"),
        ({"event_fields": ["a." * MAX_PATH_DEPTH]}, "paths of at most"),
        ({"room": {"include_leave": "yes"}}, "room.include_leave must be true or false"),
        ({"room": {"rooms": ["room"]}}, "room.rooms must hold identifiers that start with !"),
        ({"room": {"state": {"not_rooms": ["#a:b"]}}}, "room.state.not_rooms"),
        ({"room": {"state": {"lazy_load_members": 1}}}, "room.state.lazy_load_members"),
        ({"room": {"state": {"contains_url": None}}}, "room.state.contains_url"),
        ({"account_data": {"senders": ["alice"]}}, "account_data.senders"),
        ({"account_data": {"types": "m.direct"}}, "account_data.types must be a list"),
        ({"account_data": {"not_types": ["x" * 256]}}, "at most 255 characters"),
        ({"presence": {"limit": -1}}, "presence.limit must be an integer that is not negative"),
        ({"presence": {"limit": 1.5}}, "presence.limit"),
        ({"presence": {"limit": True}}, "presence.limit"),
        ({"presence": {"limit": "9"}}, "presence.limit"),
        ({"presence": {"types": ["x"] * (MAX_LIST_LENGTH + 1)}}, "at most 1000 entries"),
        (
            {"presence": {"types": [f"*{i}" for i in range(MAX_WILDCARD_TYPES + 1)]}},
            "at most 50 entries with",
        ),
    ],
)
def test_a_malformed_filter_is_refused_with_its_place(body: JsonValue, reason: str) -> None:
    with pytest.raises(FilterInvalid, match=reason):
        parse_filter(body)
