"""Entering rooms that began on other servers."""

from collections.abc import Callable

import pytest

from homeserver.core.json_types import JsonObject
from homeserver.engine.event_placing import Outcome
from homeserver.engine.remote_joins import JoinRefused
from homeserver.engine.remote_server import RemoteFailure
from homeserver.errors import DatabaseUnavailable
from tests.homeserver import Homeserver
from tests.remote_room import RemoteStage
from tests.simulated_server import key_of


@pytest.fixture(params=["10", "11", "12"])
def stage(request: pytest.FixtureRequest, homeserver: Homeserver) -> RemoteStage:
    return RemoteStage(homeserver, request.param)


def test_a_joined_room_has_the_state_it_was_answered(stage: RemoteStage) -> None:
    stage.remote.join(stage.remote.user("bob"))

    join = stage.join()
    assert stage.state() == stage.remote.graph.after[join.event_id]
    assert {tip.event_id for tip in stage.room.tips} == {join.event_id}
    assert stage.room.membership_of(stage.creator) == "join"
    assert stage.room.membership_of(stage.remote.user("bob")) == "join"
    assert stage.room.servers == {"remote.test": 2, "hs.test": 1}


def test_after_a_restart_it_is_still_the_same(stage: RemoteStage) -> None:
    join = stage.join()

    stage.restart()
    assert stage.state() == stage.remote.graph.after[join.event_id]
    assert {tip.event_id for tip in stage.room.tips} == {join.event_id}
    assert stage.room.servers == {"remote.test": 1, "hs.test": 1}


def test_a_sync_shows_the_join_after_a_gap_and_the_state_before_it(stage: RemoteStage) -> None:
    since = stage.alice.sync()["next_batch"]

    join = stage.join()
    for part in (stage.synced(since=since), stage.synced()):
        assert [event["event_id"] for event in part["timeline"]["events"]] == [join.event_id]
        assert part["timeline"]["limited"] is True
        before = stage.remote.graph.before[join.event_id]
        assert {event["event_id"] for event in part["state"]["events"]} == set(before.values())
        assert part["summary"]["m.joined_member_count"] == 2


def test_a_waiting_sync_is_woken_by_the_join(stage: RemoteStage) -> None:
    since = stage.alice.sync()["next_batch"]
    pending = stage.alice.start_request("GET", "/sync", query={"since": since, "timeout": 30_000})

    stage.join()
    assert stage.room_id in pending.reply().json["rooms"]["join"]


def test_messages_go_both_ways_after_a_join(stage: RemoteStage) -> None:
    stage.join()
    since = stage.alice.sync()["next_batch"]

    said = stage.remote.say(stage.creator, "welcome")
    assert stage.feed(said) == [Outcome.ACCEPTED]
    answered = stage.alice.send(stage.room_id, "thank you")
    timeline = stage.synced(since=since)["timeline"]
    assert [event["event_id"] for event in timeline["events"]] == [said.event_id, answered]
    assert timeline["limited"] is False


def test_the_timeline_of_a_later_sync_goes_back_to_the_join_and_no_further(
    stage: RemoteStage,
) -> None:
    join = stage.join()
    said = stage.remote.say(stage.creator, "welcome")
    stage.feed(said)

    timeline = stage.synced()["timeline"]
    found = [event["event_id"] for event in timeline["events"]]
    assert found == [join.event_id, said.event_id]
    assert timeline["limited"] is True


def test_one_who_comes_back_finds_what_the_room_has_become(stage: RemoteStage) -> None:
    bob, carol = stage.remote.user("bob"), stage.remote.user("carol")
    stage.remote.join(bob)
    first = stage.join()
    stage.feed(stage.remote.say(bob, "hello"))
    leave = stage.make_member(stage.alice, "leave")
    stage.remote.graph.add(leave)
    assert stage.feed(leave) == [Outcome.ACCEPTED]
    stage.remote.member(bob, "leave")
    stage.remote.join(carol)
    stage.remote.topic(stage.creator, "what you have missed")
    since = stage.alice.sync()["next_batch"]

    again = stage.join()
    assert stage.state() == stage.remote.graph.after[again.event_id]
    assert stage.room.membership_of(bob) == "leave"
    assert stage.room.membership_of(carol) == "join"
    assert stage.room.membership_of(stage.alice.user_id) == "join"  # type: ignore[arg-type]  # an id
    assert stage.room.find_content("m.room.topic") == {"topic": "what you have missed"}
    part = stage.synced(since=since)
    assert [event["event_id"] for event in part["timeline"]["events"]] == [again.event_id]
    assert part["timeline"]["limited"] is True
    assert first.event_id in stage.messages()
    stage.restart()
    assert stage.state() == stage.remote.graph.after[again.event_id]
    assert stage.room.membership_of(bob) == "leave"


def test_a_second_user_of_ours_may_join_by_another_server_too(stage: RemoteStage) -> None:
    stage.join()
    other = stage.homeserver.register("other")

    join = stage.join(other)
    assert stage.room.servers["hs.test"] == 2
    assert {tip.event_id for tip in stage.room.tips} == {join.event_id}


def test_taking_in_the_same_join_again_does_nothing(stage: RemoteStage) -> None:
    join = stage.join()
    said = stage.remote.say(stage.creator, "later")
    stage.feed(said)

    stage.take_in(join, *stage.answer_to(join))
    assert {tip.event_id for tip in stage.room.tips} == {said.event_id}


def test_auth_events_that_the_answer_lacks_are_asked_for(stage: RemoteStage) -> None:
    bob = stage.remote.user("bob")
    stage.remote.join(bob)
    stage.remote.send(
        "m.room.member", bob, {"membership": "join", "displayname": "Bob"}, state_key=bob
    )
    join = stage.make_member(stage.alice, "join")
    stage.remote.graph.add(join)
    state, _ = stage.answer_to(join)

    stage.take_in(join, state, [])
    assert stage.state() == stage.remote.graph.after[join.event_id]


def _without_create(state: list[JsonObject]) -> list[JsonObject]:
    return [pdu for pdu in state if pdu["type"] != "m.room.create"]


def _without_rules(state: list[JsonObject]) -> list[JsonObject]:
    return [pdu for pdu in state if pdu["type"] != "m.room.join_rules"]


def _empty(_: list[JsonObject]) -> list[JsonObject]:
    return []


@pytest.mark.parametrize("change", [_without_create, _without_rules, _empty])
def test_attack_1_a_state_that_does_not_allow_the_join_is_refused(
    stage: RemoteStage, change: Callable[[list[JsonObject]], list[JsonObject]]
) -> None:
    join = stage.make_member(stage.alice, "join")
    stage.remote.graph.add(join)
    state, chain = stage.answer_to(join)

    with pytest.raises(JoinRefused):
        stage.take_in(join, change(state), chain)
    assert stage.find_room() is None
    assert stage.synced() is None


def test_attack_1_state_with_a_wrong_signature_is_left_out(stage: RemoteStage) -> None:
    stage.remote.send(
        "m.room.topic", stage.creator, {"topic": "a lie"}, state_key="", key=key_of("evil.test")
    )
    join = stage.make_member(stage.alice, "join")
    stage.remote.graph.add(join)

    stage.take_in(join, *stage.answer_to(join))
    assert stage.room.find_content("m.room.topic") == {}


def test_attack_1_state_the_rules_refuse_is_left_out(stage: RemoteStage) -> None:
    mallory = stage.remote.user("mallory")
    forged = stage.remote.make("m.room.topic", mallory, {"topic": "mine now"}, state_key="")
    join = stage.make_member(stage.alice, "join")
    stage.remote.graph.add(join)
    state, chain = stage.answer_to(join)

    stage.take_in(join, [*state, forged.pdu], chain)
    assert stage.state() == stage.remote.graph.after[join.event_id]
    stage.restart()
    assert stage.room.find_content("m.room.topic") == {}


def test_attack_1_two_events_in_one_place_are_refused(stage: RemoteStage) -> None:
    stage.remote.topic(stage.creator, "one")
    join = stage.make_member(stage.alice, "join")
    stage.remote.graph.add(join)
    state, chain = stage.answer_to(join)
    other = stage.remote.make("m.room.topic", stage.creator, {"topic": "two"}, state_key="")

    with pytest.raises((JoinRefused, RemoteFailure)):
        stage.take_in(join, [*state, other.pdu], chain)
    assert stage.find_room() is None


@pytest.mark.parametrize("statement", range(1, 40))
def test_whatever_fails_the_room_is_there_whole_or_not_at_all(
    homeserver: Homeserver, statement: int
) -> None:
    stage = RemoteStage(homeserver)
    join = stage.make_member(stage.alice, "join")
    stage.remote.graph.add(join)
    homeserver.database.fail_at = statement

    try:
        stage.take_in(join, *stage.answer_to(join))
        assert statement > 1, "the first one fails"
    except DatabaseUnavailable:
        homeserver.database.fail_at = None
        assert stage.find_room() is None
        assert stage.synced() is None
    homeserver.database.fail_at = None
    stage.restart()
    stage.take_in(join, *stage.answer_to(join))
    assert stage.state() == stage.remote.graph.after[join.event_id]
    assert stage.synced()["timeline"]["limited"] is True


def test_a_join_that_is_cited_by_the_state_before_it_is_refused(stage: RemoteStage) -> None:
    join = stage.make_member(stage.alice, "join")
    stage.remote.graph.add(join)
    state, chain = stage.answer_to(join)
    topic = stage.remote.make(
        "m.room.topic",
        stage.creator,
        {"topic": "what was first"},
        state_key="",
        prev=[join.event_id],
        depth=join.depth + 1,
        auth=[*join.auth_events, join.event_id],
    )

    with pytest.raises(JoinRefused, match="cites the join"):
        stage.take_in(join, [*state, topic.pdu], [*chain, join.pdu])

    assert stage.find_room() is None
    assert stage.room_id not in stage.alice.sync().get("rooms", {}).get("join", {})
