"""Events of other servers: the checks on receipt, one behaviour each."""

import pytest

from homeserver.core.errors import EventMalformed, SignatureInvalid
from homeserver.engine.event_placing import Outcome
from homeserver.storage.events import REJECTED, SOFT_FAILED
from tests.homeserver import Homeserver
from tests.inbound_stage import ENGINE_VERSIONS, Stage
from tests.simulated_server import key_of


@pytest.fixture(params=ENGINE_VERSIONS)
def stage(request: pytest.FixtureRequest, homeserver: Homeserver) -> Stage:
    return Stage(homeserver, request.param)


def test_a_remote_join_and_message_reach_local_clients(stage: Stage) -> None:
    bob = stage.remote.user("bob")
    token, _ = stage.synced()

    join = stage.remote.join(bob)
    message = stage.remote.say(bob, "hello")
    outcomes = stage.feed(join, message)

    assert outcomes == [Outcome.ACCEPTED, Outcome.ACCEPTED]
    assert stage.synced(token)[1] == [join.event_id, message.event_id]
    assert stage.tips() == {message.event_id}
    assert stage.state() == stage.remote.graph.after[message.event_id]
    assert stage.room.servers["remote.test"] == 1


def test_an_event_that_comes_twice_is_taken_once(stage: Stage) -> None:
    join = stage.remote.join(stage.remote.user("bob"))

    assert stage.feed(join, join) == [Outcome.ACCEPTED, Outcome.KNOWN]


def test_an_event_without_the_right_signature_is_dropped(stage: Stage) -> None:
    bob = stage.remote.user("bob")
    forged = stage.remote.make(
        "m.room.member", bob, {"membership": "join"}, state_key=bob, key=key_of("evil.test")
    )

    with pytest.raises(SignatureInvalid):
        stage.feed(forged)

    assert stage.flags(forged) is None


def test_a_malformed_event_is_dropped(stage: Stage) -> None:
    join = stage.remote.join(stage.remote.user("bob"))

    with pytest.raises(EventMalformed):
        stage.feed_pdu(join.pdu | {"depth": "3"})


def test_an_event_of_another_room_is_dropped(stage: Stage) -> None:
    other = Stage.__new__(Stage)
    other.__dict__ = dict(stage.__dict__)
    other.room_id = type(stage.room_id)(
        stage.alice.create_room(preset="public_chat", room_version=stage.version.id)
    )
    elsewhere = other.server("remote.test")
    join = elsewhere.join(elsewhere.user("bob"))

    with pytest.raises(EventMalformed):
        stage.feed(join)


def test_an_event_with_a_wrong_hash_is_taken_in_redacted(stage: Stage) -> None:
    bob = stage.remote.user("bob")
    stage.feed(stage.remote.join(bob))
    message = stage.remote.say(bob, "true words")
    token, _ = stage.synced()

    outcome = stage.feed_pdu(message.pdu | {"content": {"msgtype": "m.text", "body": "a lie"}})

    assert outcome is Outcome.ACCEPTED
    assert stage.synced(token)[1] == [message.event_id]
    assert b"a lie" not in b"".join(found.json for found in stage.room.recent)


def test_an_event_its_auth_events_do_not_allow_is_rejected(stage: Stage) -> None:
    bob, eve = stage.remote.user("bob"), stage.remote.user("eve")
    stage.feed(stage.remote.join(bob))
    spoken = stage.remote.say(eve, "I was never here")
    token, before = stage.synced()[0], stage.tips()

    assert stage.feed(spoken) == [Outcome.REJECTED]
    assert stage.flags(spoken) == REJECTED
    assert stage.synced(token)[1] == []
    assert spoken.event_id not in stage.messages()
    assert stage.tips() == before


def test_an_event_its_auth_events_allow_but_the_state_does_not_is_rejected(stage: Stage) -> None:
    bob = stage.remote.user("bob")
    join = stage.remote.join(bob)
    auth = stage.remote.make("m.room.message", bob).auth_events
    leave = stage.remote.member(bob, "leave")
    stage.feed(join, leave)
    spoken = stage.remote.say(bob, "still here", auth=auth)

    assert stage.feed(spoken) == [Outcome.REJECTED]
    assert spoken.event_id not in stage.messages()


def test_events_upon_a_rejected_one_are_let_in_without_it(stage: Stage) -> None:
    bob, eve = stage.remote.user("bob"), stage.remote.user("eve")
    stage.feed(stage.remote.join(bob))
    before = stage.tips()
    forged = stage.remote.topic(eve, "mine")
    message = stage.remote.say(bob, "on top", prev=[forged.event_id])

    assert stage.feed(forged, message) == [Outcome.REJECTED, Outcome.ACCEPTED]
    assert stage.tips() == {message.event_id}
    assert before.isdisjoint(stage.tips())
    assert stage.state().get(("m.room.topic", "")) != forged.event_id
    assert stage.state() == stage.remote.graph.after[message.event_id]


def test_an_event_that_cites_a_rejected_one_is_rejected(stage: Stage) -> None:
    bob = stage.remote.user("bob")
    stage.alice.put(f"/rooms/{stage.room_id}/state/m.room.join_rules", {"join_rule": "invite"})
    stage.share(stage.remote)
    join = stage.remote.join(bob)
    spoken = stage.remote.say(
        bob, "hello", auth=[*stage.remote.make("m.room.message", bob).auth_events, join.event_id]
    )

    assert stage.feed(join, spoken) == [Outcome.REJECTED, Outcome.REJECTED]


def test_an_event_the_current_state_refuses_is_soft_failed(stage: Stage) -> None:
    bob = stage.remote.user("bob")
    join = stage.remote.join(bob)
    stage.feed(join)
    ban = stage.alice.post(f"/rooms/{stage.room_id}/ban", {"user_id": bob})
    assert ban.status == 200
    tips = stage.tips()
    evading = stage.remote.say(bob, "you cannot ban me", prev=[join.event_id])
    token, _ = stage.synced()

    assert stage.feed(evading) == [Outcome.SOFT_FAILED]
    assert stage.flags(evading) == SOFT_FAILED
    assert stage.synced(token)[1] == []
    assert evading.event_id not in stage.messages()
    assert stage.alice.get(f"/rooms/{stage.room_id}/event/{evading.event_id}").status == 404
    assert stage.tips() == tips


def test_what_builds_on_a_soft_failed_event_is_let_in(stage: Stage) -> None:
    bob, carol = stage.remote.user("bob"), stage.remote.user("carol")
    stage.feed(stage.remote.join(bob), stage.remote.join(carol))
    stage.alice.post(f"/rooms/{stage.room_id}/ban", {"user_id": bob})
    fork = stage.remote.graph.tips()
    evading = stage.remote.say(bob, "hidden", prev=fork)
    assert stage.feed(evading) == [Outcome.SOFT_FAILED]
    stage.share(stage.remote)
    merged = stage.remote.say(carol, "seen both")

    assert stage.feed(merged) == [Outcome.ACCEPTED]
    assert stage.tips() == {merged.event_id}
    assert stage.state() == stage.remote.graph.after[merged.event_id]
    assert evading.event_id not in stage.messages()
