"""Events as clients are shown them, from memory and from storage."""

from typing import Any

import orjson
import pytest

from homeserver.core.events import Event, make_event
from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.core.signing import SigningKey
from homeserver.engine.timeline_event import TimelineEvent, load_timeline_event
from homeserver.storage.events import StoredEvent, encode_event_id

KEY = SigningKey("ed25519:a", bytes(32))
MESSAGE: JsonObject = {"msgtype": "m.text", "body": 'ä "quoted" },"depth":1 \\ \u2028'}


def made(version: RoomVersion, content: JsonObject, **values: Any) -> Event:
    has_hash = version.room_id_is_create_hash
    fields: dict[str, Any] = {
        "type": "m.room.message",
        "state_key": None,
        "room_id": RoomID("!" + 43 * "a" if has_hash else "!a:hs.test"),
    }
    return make_event(
        version,
        sender=UserID("@alice:hs.test"),
        content=content,
        depth=7,
        origin_server_ts=1_700_000_000_000,
        prev_events=[],
        auth_events=[],
        server_name="hs.test",
        signing_key=KEY,
        **{**fields, **values},
    )


def stored(event: Event, **values: Any) -> TimelineEvent:
    version = event.room_version
    row = StoredEvent(
        5,
        encode_event_id(version, event.event_id),
        event.pdu_bytes,
        depth=event.depth,
        state_before=1,
        state_after=1,
        flags=0,
        **values,
    )
    return load_timeline_event(version, row)


def committed(event: Event, **values: Any) -> TimelineEvent:
    return TimelineEvent(event, 5, state_before=1, state_after=1, **values)


@pytest.mark.parametrize("version", ROOM_VERSIONS.values(), ids=lambda version: version.id)
def test_a_stored_event_is_shown_as_it_was_when_it_was_committed(version: RoomVersion) -> None:
    target = made(version, {}).event_id
    events = [
        made(version, MESSAGE),
        made(version, {"name": "x", "depth": {"content": {}}}, type="m.room.name", state_key=""),
        made(version, {"reason": "spam"}, type="m.room.redaction", redacts=target),
    ]

    for event in events:
        assert orjson.loads(stored(event).json) == orjson.loads(committed(event).json)
        assert stored(event).event.pdu == event.pdu
        assert stored(event).event_id == event.event_id
        assert stored(event).position == committed(event).position


def test_numbers_that_only_old_rooms_allow_are_shown() -> None:
    event = made(ROOM_VERSIONS["5"], {"half": 0.5, "much": 2**60})

    content = orjson.loads(stored(event).json)["content"]

    assert content == {"half": 0.5, "much": 2**60}


def test_a_name_that_events_do_not_have_is_not_shown() -> None:
    version = ROOM_VERSIONS["11"]
    event = made(version, MESSAGE)
    pdu = event.pdu | {"aside": {"content": {}}, "contents": {"depth": 1}, "z": [1]}
    other = Event(version, pdu, orjson.dumps(pdu, option=orjson.OPT_SORT_KEYS))

    shown = orjson.loads(stored(other).json)

    assert shown.keys() == {"content", "event_id", "origin_server_ts", "sender", "type"}
    assert shown["content"] == MESSAGE


def test_a_redaction_empties_a_stored_event_that_was_shown_before() -> None:
    version = ROOM_VERSIONS["11"]
    event = made(version, MESSAGE)
    redaction = made(version, {}, type="m.room.redaction", redacts=event.event_id)
    found = stored(event)
    before = orjson.loads(found.json)

    found.redact(redaction)

    shown = orjson.loads(found.json)
    assert before["content"] == MESSAGE
    assert shown["content"] == {}
    assert shown["unsigned"]["redacted_because"]["event_id"] == redaction.event_id


def test_what_is_for_one_reader_goes_into_unsigned() -> None:
    version = ROOM_VERSIONS["11"]
    event = made(version, {"name": "new"}, type="m.room.name", state_key="")
    replaced = made(version, {"name": "old"}, type="m.room.name", state_key="")
    added = b'"membership":"join"'

    plain = orjson.loads(stored(event).json_with(added))
    quoting = orjson.loads(stored(event, replaced_pdu=replaced.pdu_bytes).json_with(added))

    assert plain["unsigned"] == {"membership": "join"}
    assert quoting["unsigned"] == {
        "membership": "join",
        "prev_content": {"name": "old"},
        "prev_sender": "@alice:hs.test",
        "replaces_state": replaced.event_id,
    }
