"""Hostile event ids (attack classes 2, 4 and 5): in versions 1 and 2 their sender chooses them."""

from typing import Any

import pytest

from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.errors import EventMalformed, SignatureInvalid
from homeserver.core.events import Event, compute_content_hash, parse_event
from homeserver.core.identifiers import EventID
from homeserver.core.json_types import JsonObject
from homeserver.core.redaction import redact_pdu
from homeserver.engine.event_placing import Outcome
from homeserver.engine.inbound_events import CannotDecide
from tests.homeserver import Homeserver
from tests.inbound_stage import Stage


@pytest.fixture(params=["1", "2"])
def stage(request: pytest.FixtureRequest, homeserver: Homeserver) -> Stage:
    return Stage(homeserver, request.param)


def signed_anew(stage: Stage, event: Event, **changes: Any) -> Event:
    """The event with other fields, rightly hashed and signed by its server."""
    server = stage.remote
    pdu: JsonObject = {**event.pdu, **changes}
    del pdu["signatures"]
    pdu["hashes"] = {"sha256": compute_content_hash(stage.version, pdu)}
    signature = server.key.sign(encode_canonical_json(redact_pdu(stage.version, pdu)))
    pdu["signatures"] = {server.name: {server.key.key_id: signature}}
    return parse_event(stage.version, pdu)


def pair(event_id: str) -> Any:
    return [event_id, {"sha256": "A" * 43}]


def claim(stage: Stage, *events: Event) -> None:
    """Let the remote server give out events that its graph cannot have."""
    graph = stage.remote.graph
    state = graph.after[graph.tips()[0]]
    for event in events:
        graph.events[event.event_id] = event
        graph.before[event.event_id] = graph.after[event.event_id] = state


def assert_room_works(stage: Stage) -> None:
    event_id = stage.alice.send(stage.room_id, "it works")
    assert stage.tips() == {event_id}
    stage.restart()
    assert stage.tips() == {event_id}


def bobs_event(stage: Stage) -> tuple[str, Event]:
    bob = stage.remote.user("bob")
    stage.feed(stage.remote.join(bob))
    return bob, stage.remote.make("m.room.message", bob, {"body": "x"})


def test_attack_5_an_event_that_is_its_own_parent_is_no_part_of_the_room(stage: Stage) -> None:
    _, message = bobs_event(stage)
    event = signed_anew(stage, message, prev_events=[pair(message.event_id)])
    claim(stage, event)

    with pytest.raises((CannotDecide, EventMalformed)):
        stage.feed(event)

    assert stage.flags(event) is None
    assert_room_works(stage)


def test_attack_5_an_event_that_authorizes_itself_is_no_part_of_the_room(stage: Stage) -> None:
    _, message = bobs_event(stage)
    cited: Any = message.pdu["auth_events"]
    event = signed_anew(stage, message, auth_events=[*cited, pair(message.event_id)])
    claim(stage, event)

    with pytest.raises((CannotDecide, EventMalformed)):
        stage.feed(event)

    assert stage.flags(event) is None
    assert_room_works(stage)


def test_attack_5_events_that_are_each_others_parents_end_nothing(stage: Stage) -> None:
    bob, message = bobs_event(stage)
    other = stage.remote.make("m.room.message", bob, {"body": "y"})
    one = signed_anew(stage, message, prev_events=[pair(other.event_id)])
    two = signed_anew(stage, other, prev_events=[pair(message.event_id)])
    claim(stage, one, two)
    state = stage.state()

    for event in (one, two):
        try:
            stage.feed(event)
        except CannotDecide:
            continue

    assert len(stage.remote.requests) <= 200
    assert stage.state() == state
    assert_room_works(stage)


def test_attack_5_events_that_authorize_each_other_are_no_part_of_the_room(stage: Stage) -> None:
    bob, message = bobs_event(stage)
    cited: Any = message.pdu["auth_events"]
    other = stage.remote.make("m.room.message", bob, {"body": "y"})
    one = signed_anew(stage, message, auth_events=[*cited, pair(other.event_id)])
    two = signed_anew(stage, other, auth_events=[*cited, pair(message.event_id)])
    claim(stage, one, two)

    for event in (one, two):
        with pytest.raises(CannotDecide):
            stage.feed(event)

    assert stage.flags(one) is None
    assert stage.flags(two) is None
    assert_room_works(stage)


def test_attack_2_a_second_event_with_a_known_id_changes_nothing(stage: Stage) -> None:
    bob, message = bobs_event(stage)
    assert stage.feed(message) == [Outcome.ACCEPTED]
    again = signed_anew(stage, message, content={"body": "something else"})
    topic = signed_anew(
        stage, message, type="m.room.topic", state_key="", content={"topic": "mine"}
    )
    state = stage.state()

    assert stage.feed(again, topic) == [Outcome.KNOWN, Outcome.KNOWN]

    found = stage.alice.get(f"/rooms/{stage.room_id}/event/{message.event_id}").json
    assert (found["content"], found["sender"]) == ({"body": "x"}, bob)
    assert stage.state() == state
    assert_room_works(stage)


def test_attack_2_an_id_of_another_server_needs_its_signature(stage: Stage) -> None:
    _, message = bobs_event(stage)

    with pytest.raises(SignatureInvalid):
        stage.feed(signed_anew(stage, message, event_id="$chosen:hs.test"))
    with pytest.raises(EventMalformed):
        stage.feed_pdu(message.pdu | {"event_id": "$without-a-server"})

    assert_room_works(stage)


def test_attack_4_an_id_of_another_room_leaves_that_room_alone(stage: Stage) -> None:
    bob, message = bobs_event(stage)
    assert stage.feed(message) == [Outcome.ACCEPTED]
    elsewhere = Stage(stage.homeserver, stage.version.id, alice=stage.alice)
    elsewhere.feed(elsewhere.remote.join(bob))
    event = elsewhere.remote.make("m.room.message", bob, {"body": "here"})
    same_id = signed_anew(elsewhere, event, event_id=message.event_id)

    assert elsewhere.feed(same_id) == [Outcome.ACCEPTED]

    for room_id, body in ((stage.room_id, "x"), (elsewhere.room_id, "here")):
        found = stage.alice.get(f"/rooms/{room_id}/event/{message.event_id}").json
        assert found["content"] == {"body": body}
    assert elsewhere.tips() == {EventID(message.event_id)}
    assert_room_works(elsewhere)
