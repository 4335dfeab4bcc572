"""Authorization rules and limits (attack class 3), through the engine: nothing of it gets in."""

from typing import Any, cast
from urllib.parse import quote

import pytest

from homeserver.core.canonical_json import decode_json
from homeserver.core.errors import EventMalformed, JsonInvalid, SignatureInvalid
from homeserver.core.events import MAX_PDU_BYTES, Event, parse_event
from homeserver.core.identifiers import EventID
from homeserver.core.json_types import JsonObject
from homeserver.engine.event_placing import Outcome
from homeserver.storage.events import OUTLIER, REJECTED
from tests.homeserver import Homeserver
from tests.inbound_stage import GRAPH_VERSIONS, Stage


@pytest.fixture(params=GRAPH_VERSIONS)
def stage(request: pytest.FixtureRequest, homeserver: Homeserver) -> Stage:
    return Stage(homeserver, request.param)


def event_of_size(stage: Stage, sender: str, size: int, filler: str = "x") -> Event:
    """Make a message whose canonical PDU has this many bytes."""

    def made(count: int, rest: int) -> Event:
        return stage.remote.make(
            "m.room.message", sender, {"body": filler * count + "x" * rest}, timestamp=1
        )

    width = len(filler.encode())
    lacking = size - len(made(0, 0).pdu_bytes)
    return made(lacking // width, lacking % width)


def message_citing(stage: Stage, sender: str, auth: list[EventID]) -> Event:
    return stage.remote.make("m.room.message", sender, {"body": "x"}, auth=auth)


def assert_left_out(stage: Stage, event: Event, outcome: Outcome) -> None:
    """It is stored as rejected, and neither shown nor built upon."""
    assert outcome is Outcome.REJECTED
    assert stage.flags(event) == REJECTED
    assert event.event_id not in stage.messages()
    assert event.event_id not in stage.tips()


def test_attack_3_auth_events_named_twice_are_rejected(stage: Stage) -> None:
    bob = stage.joined("bob")
    auth = list(stage.remote.make("m.room.message", bob).auth_events)
    event = message_citing(stage, bob, [*auth, auth[-1]])

    assert_left_out(stage, event, stage.feed(event)[0])


def test_attack_3_two_auth_events_of_one_place_are_rejected(stage: Stage) -> None:
    bob = stage.joined("bob")
    first = stage.state()["m.room.member", bob]
    again = stage.remote.member(bob, "join")
    stage.feed(again)
    auth = list(stage.remote.make("m.room.message", bob).auth_events)
    assert again.event_id in auth
    event = message_citing(stage, bob, [*auth, first])

    assert_left_out(stage, event, stage.feed(event)[0])


def test_attack_3_an_auth_event_the_rules_do_not_name_is_rejected(stage: Stage) -> None:
    bob = stage.joined("bob")
    auth = list(stage.remote.make("m.room.message", bob).auth_events)
    event = message_citing(stage, bob, [*auth, stage.state()["m.room.join_rules", ""]])

    assert_left_out(stage, event, stage.feed(event)[0])


def test_attack_3_a_message_is_no_auth_event(stage: Stage) -> None:
    bob = stage.joined("bob")
    message = stage.remote.say(bob, "let me in")
    stage.feed(message)
    auth = list(stage.remote.make("m.room.message", bob).auth_events)
    event = message_citing(stage, bob, [*auth, message.event_id])

    assert_left_out(stage, event, stage.feed(event)[0])


def test_attack_3_a_rejected_auth_event_has_its_followers_rejected(stage: Stage) -> None:
    bob = stage.joined("bob")
    usurped = stage.remote.make("m.room.power_levels", bob, {"users": {bob: 100}}, state_key="")
    stage.remote.graph.add(usurped)
    assert stage.feed(usurped) == [Outcome.REJECTED]
    levels = stage.state()["m.room.power_levels", ""]
    auth = [
        usurped.event_id if auth_id == levels else auth_id
        for auth_id in stage.remote.make("m.room.message", bob).auth_events
    ]
    event = stage.remote.make(
        "m.room.topic",
        bob,
        {"topic": "mine"},
        state_key="",
        auth=auth,
        prev=[*stage.tips()],
    )

    assert_left_out(stage, event, stage.feed(event)[0])
    assert ("m.room.topic", "") not in stage.state()


def test_attack_3_a_rejected_outlier_lets_nobody_in(stage: Stage) -> None:
    path = f"/rooms/{quote(stage.room_id)}/state/m.room.join_rules"
    assert stage.alice.put(path, {"join_rule": "invite"}).status == 200
    stage.share(stage.remote)
    bob = stage.remote.user("bob")
    base = stage.remote.graph.tips()
    join = stage.remote.join(bob, prev=base)
    auth = [*stage.remote.make("m.room.message", bob).auth_events, join.event_id]
    event = stage.remote.make("m.room.message", bob, {"body": "x"}, prev=base, auth=auth)
    stage.remote.graph.add(event)

    assert_left_out(stage, event, stage.feed(event)[0])
    assert stage.flags(join) == OUTLIER | REJECTED
    assert stage.room.membership_of(bob) != "join"


def test_attack_3_an_event_that_does_not_cite_the_create_event_is_rejected(stage: Stage) -> None:
    bob = stage.joined("bob")
    create = stage.state()["m.room.create", ""]
    cited = list(stage.remote.make("m.room.message", bob).auth_events)
    implied = stage.version.room_id_is_create_hash
    auth = [*cited, create] if implied else [i for i in cited if i != create]
    event = message_citing(stage, bob, auth)

    assert_left_out(stage, event, stage.feed(event)[0])


def test_attack_3_the_largest_event_has_65536_bytes_of_whatever_characters(stage: Stage) -> None:
    bob = stage.joined("bob")
    for filler in ("x", "é", "\U0001f600"):
        largest = event_of_size(stage, bob, MAX_PDU_BYTES, filler)
        assert len(largest.pdu_bytes) == MAX_PDU_BYTES
        assert stage.feed(largest) == [Outcome.ACCEPTED]
        content: Any = largest.pdu["content"]
        stage.remote.learn([largest.pdu_bytes])
        with pytest.raises(EventMalformed):
            stage.feed_pdu(largest.pdu | {"content": {"body": content["body"] + "x"}})


@pytest.mark.parametrize("filler", ["x", "é"])
def test_attack_3_types_and_state_keys_end_at_255_bytes(stage: Stage, filler: str) -> None:
    bob = stage.joined("bob", 50)
    width = len(filler.encode())
    longest = filler * (255 // width) + "x" * (255 % width)
    event = stage.remote.send(longest, bob, {}, state_key=longest)

    assert stage.feed(event) == [Outcome.ACCEPTED]
    assert stage.state()[longest, longest] == event.event_id
    for key in ("type", "state_key"):
        with pytest.raises(EventMalformed):
            stage.feed_pdu(event.pdu | {key: longest + "x"})
    with pytest.raises(EventMalformed):
        stage.feed_pdu(event.pdu | {"sender": "@" + "b" * 244 + ":remote.test"})


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "\udfff x"])
@pytest.mark.parametrize("key", ["type", "state_key", "sender", "room_id"])
def test_attack_3_nul_and_lone_surrogates_are_refused_in_every_name(
    stage: Stage, key: str, text: str
) -> None:
    bob = stage.joined("bob")
    pdu: Any = stage.remote.make("m.room.topic", bob, {}, state_key="").pdu
    value = {"sender": f"@{text}:remote.test", "room_id": f"!{text}:remote.test"}.get(key, text)

    with pytest.raises(EventMalformed):
        stage.feed_pdu(pdu | {key: value})


def test_attack_3_lone_surrogates_are_refused_in_content(stage: Stage) -> None:
    bob = stage.joined("bob")
    pdu: Any = stage.remote.make("m.room.message", bob, {"body": "x"}).pdu

    for content in ({"body": "\ud800"}, {"\udc00": 1}, {"deep": [{"er": "\udfff"}]}):
        with pytest.raises(EventMalformed):
            stage.feed_pdu(pdu | {"content": content})


@pytest.mark.parametrize("number", ["-0.0", "1e2", "1.0", "1" + "0" * 400, "NaN", "Infinity"])
def test_attack_3_numbers_outside_canonical_json_are_refused(stage: Stage, number: str) -> None:
    bob = stage.joined("bob", 50)
    event = stage.remote.make("m.room.power_levels", bob, {"ban": 77}, state_key="")
    before = stage.state()
    raw = event.pdu_bytes.replace(b'"ban":77', b'"ban":' + number.encode())
    assert raw != event.pdu_bytes

    refused: tuple[type[Exception], ...] = (EventMalformed, JsonInvalid)
    if not stage.version.strict_canonical_json:
        refused += (SignatureInvalid,)  # there are such numbers, but what was signed was another

    with pytest.raises(refused):
        stage.feed_pdu(cast("JsonObject", decode_json(raw)))

    assert stage.flags(event) is None
    assert stage.state() == before


@pytest.mark.parametrize("key", ["depth", "origin_server_ts"])
@pytest.mark.parametrize("value", ["7", 7.0, True, None, [7], 10**400])
def test_attack_3_numbers_of_an_event_are_integers(stage: Stage, key: str, value: object) -> None:
    bob = stage.joined("bob")
    pdu: Any = stage.remote.make("m.room.message", bob, {"body": "x"}).pdu

    with pytest.raises(EventMalformed):
        stage.feed_pdu(pdu | {key: value})


@pytest.mark.parametrize("depth", [-1, 2**63, "5", 1.5, None])
def test_attack_3_a_depth_that_is_none_is_refused(stage: Stage, depth: object) -> None:
    bob = stage.joined("bob")
    pdu: Any = stage.remote.say(bob, "x").pdu

    with pytest.raises(EventMalformed):
        stage.feed_pdu(pdu | {"depth": depth})


def test_attack_3_an_event_without_parents_is_rejected(stage: Stage) -> None:
    bob = stage.joined("bob")
    auth = stage.remote.make("m.room.message", bob).auth_events
    rootless = stage.remote.make("m.room.message", bob, {"body": "x"}, prev=[], auth=auth)
    tips = stage.tips()

    assert stage.feed(rootless) == [Outcome.REJECTED]
    assert stage.tips() == tips
    upon = stage.remote.make(
        "m.room.message", bob, {"body": "x"}, prev=[rootless.event_id], auth=auth
    )
    assert stage.feed(upon) == [Outcome.REJECTED]
    assert stage.tips() == tips


def test_attack_3_a_second_create_event_is_no_way_in(stage: Stage) -> None:
    bob = stage.joined("bob")
    content: Any = {"room_version": stage.version.id, "creator": bob}
    pdu = stage.remote.make("m.room.create", bob, content, state_key="", prev=[], auth=[]).pdu
    state = stage.state()

    if stage.version.id == "12":
        with pytest.raises(EventMalformed):
            stage.feed_pdu(pdu)
    else:
        assert stage.feed(parse_event(stage.version, pdu)) == [Outcome.REJECTED]
    assert stage.state() == state
