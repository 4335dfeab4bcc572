"""What an event's content says of its relation to another."""

import pytest

from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.core.json_types import JsonObject
from homeserver.core.relations import Relation, can_replace, find_relation
from homeserver.core.room_versions import ROOM_VERSIONS

PARENT = EventID("$parent")


def event(event_type: str, content: JsonObject, state_key: str | None = None) -> Event:
    pdu: JsonObject = {
        "type": event_type,
        "sender": "@alice:hs.test",
        "room_id": "!room:hs.test",
        "content": content,
        "depth": 1,
        "origin_server_ts": 1,
        "prev_events": [],
        "auth_events": [],
        "hashes": {"sha256": "x"},
        "signatures": {},
    }
    if state_key is not None:
        pdu["state_key"] = state_key
    return Event(ROOM_VERSIONS["11"], pdu, b"{}", EventID("$child"))


@pytest.mark.parametrize(
    ("relates_to", "expected"),
    [
        ({"rel_type": "m.thread", "event_id": "$parent"}, Relation("m.thread", PARENT, None)),
        (
            {"rel_type": "m.annotation", "event_id": "$parent", "key": "k"},
            Relation("m.annotation", PARENT, "k"),
        ),
        (
            {"rel_type": "m.annotation", "event_id": "$parent", "key": 1},
            Relation("m.annotation", PARENT, None),
        ),
        (
            {"rel_type": "m.reference", "event_id": "$parent", "key": "k"},
            Relation("m.reference", PARENT, None),
        ),
        ({"rel_type": "x" * 255, "event_id": "$parent"}, Relation("x" * 255, PARENT, None)),
        ({"rel_type": "x" * 256, "event_id": "$parent"}, None),
        ({"rel_type": "é" * 128, "event_id": "$parent"}, None),
        ({"rel_type": "", "event_id": "$parent"}, None),
        ({"rel_type": "a\0b", "event_id": "$parent"}, None),
        ({"rel_type": "m.thread", "event_id": "parent"}, None),
        ({"rel_type": "m.thread", "event_id": "$" + "x" * 255}, None),
        ({"rel_type": "m.thread", "event_id": 1}, None),
        ({"rel_type": None, "event_id": "$parent"}, None),
        ({"m.in_reply_to": {"event_id": "$parent"}}, None),
        (["m.thread", "$parent"], None),
        (None, None),
    ],
)
def test_a_relation_needs_its_type_and_an_event_id(
    relates_to: object, expected: Relation | None
) -> None:
    content: JsonObject = {"m.relates_to": relates_to}  # type: ignore[dict-item]  # any JSON

    assert find_relation(content) == expected


def test_content_without_a_relation_has_none() -> None:
    assert find_relation({}) is None


@pytest.mark.parametrize(
    ("child", "expected"),
    [
        (event("m.room.message", {"m.new_content": {}}), True),
        (event("m.room.message", {"m.new_content": "text"}), False),
        (event("m.room.message", {}), False),
        (event("m.room.encrypted", {}), True),
        (event("m.room.topic", {"m.new_content": {}}, ""), False),
        (event("m.room.encrypted", {}, "key"), False),
    ],
)
def test_a_replacement_needs_new_content_and_is_no_state(child: Event, *, expected: bool) -> None:
    assert can_replace(child) is expected
