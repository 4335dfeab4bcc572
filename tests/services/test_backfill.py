"""History from before we came, put in its place."""

import pytest

from homeserver.core.json_types import JsonObject
from homeserver.engine.event_placing import Outcome
from homeserver.engine.remote_server import RemoteFailure
from tests.homeserver import Homeserver
from tests.inbound_stage import Stage
from tests.remote_room import RemoteStage
from tests.simulated_server import key_of


@pytest.fixture(params=["10", "11", "12"])
def stage(request: pytest.FixtureRequest, homeserver: Homeserver) -> RemoteStage:
    return RemoteStage(homeserver, request.param)


def extend(stage: RemoteStage, limit: int = 100) -> int:
    edge = [gap.event_id for gap in stage.do(stage.rooms.backfill.list_gaps(stage.room_id))]
    count = stage.do(stage.rooms.backfill.extend(stage.room_id, stage.remote, edge, limit=limit))
    assert isinstance(count, int)
    return count


def test_history_is_shown_before_the_join(stage: RemoteStage) -> None:
    said = [stage.remote.say(stage.creator, f"{n}") for n in range(10)]
    join = stage.join()
    token = stage.alice.sync()["next_batch"]

    assert extend(stage) == len(stage.remote.graph.events) - 1
    order = list(stage.remote.graph.events)
    assert stage.messages() == order
    assert [event.event_id for event in said][-1] in stage.messages()
    assert stage.do(stage.rooms.backfill.list_gaps(stage.room_id)) == []
    assert stage.alice.sync(token).get("rooms", {}).get("join", {}) == {}
    assert {tip.event_id for tip in stage.room.tips} == {join.event_id}
    stage.restart()
    assert stage.messages() == order


def test_it_comes_piece_by_piece(stage: RemoteStage) -> None:
    for n in range(10):
        stage.remote.say(stage.creator, f"{n}")
    join = stage.join()
    order = list(stage.remote.graph.events)

    gaps = stage.do(stage.rooms.backfill.list_gaps(stage.room_id))
    assert [gap.event_id for gap in gaps] == [join.event_id]
    extend(stage, 4)
    assert stage.messages() == order[-4:]
    extend(stage, 6)
    extend(stage, 100)
    assert stage.messages() == order
    assert extend(stage) == 0


def test_the_state_is_told_of_history_as_it_was(stage: RemoteStage) -> None:
    stage.remote.topic(stage.creator, "old")
    old = stage.remote.say(stage.creator, "under the old topic")
    stage.remote.topic(stage.creator, "new")
    stage.remote.say(stage.creator, "under the new topic")
    join = stage.join()

    extend(stage)
    served = stage.do(stage.rooms.served.state_ids_before(stage.room_id, old.event_id))
    assert set(served.state) == set(stage.remote.graph.before[old.event_id].values())
    assert stage.state() == stage.remote.graph.after[join.event_id]


def test_attack_6_history_that_was_not_for_us_is_stored_but_not_shown(
    homeserver: Homeserver,
) -> None:
    stage = RemoteStage(homeserver, "11")
    shared = stage.remote.say(stage.creator, "for all who come")
    stage.remote.send(
        "m.room.history_visibility", stage.creator, {"history_visibility": "joined"}, state_key=""
    )
    private = stage.remote.say(stage.creator, "between us")
    stage.join()

    extend(stage)
    assert shared.event_id in stage.messages()
    assert private.event_id not in stage.messages()


def test_attack_1_history_with_a_wrong_signature_is_dropped(stage: RemoteStage) -> None:
    forged = stage.remote.say(stage.creator, "never said", key=key_of("evil.test"))
    stage.join()

    extend(stage)
    assert forged.event_id not in stage.messages()


def test_attack_1_history_the_rules_refuse_is_not_shown(stage: RemoteStage) -> None:
    good = stage.remote.say(stage.creator, "good")
    stage.join()
    stranger = stage.remote.user("stranger")
    refused = stage.remote.make("m.room.message", stranger, {"body": "bad"}, prev=[good.event_id])

    stage.do(stage.rooms.backfill.take_in(stage.room_id, stage.remote, [refused.pdu, good.pdu]))
    assert good.event_id in stage.messages()
    assert refused.event_id not in stage.messages()


def test_a_server_without_an_answer_changes_nothing(stage: RemoteStage) -> None:
    join = stage.join()
    stage.remote.is_silent = True

    with pytest.raises(RemoteFailure):
        extend(stage)
    assert stage.messages() == [join.event_id]


def test_what_relates_to_history_is_found(stage: RemoteStage) -> None:
    said = stage.remote.say(stage.creator, "good news")
    relation: JsonObject = {"rel_type": "m.thread", "event_id": said.event_id}
    inside = stage.remote.send(
        "m.room.message", stage.creator, {"body": "in it", "m.relates_to": relation}
    )
    stage.join()

    extend(stage)
    path = f"/_matrix/client/v1/rooms/{stage.room_id}/relations/{said.event_id}"
    assert [event["event_id"] for event in stage.alice.get(path).json["chunk"]] == [inside.event_id]


def test_a_parent_that_comes_later_is_joined_to_its_children(homeserver: Homeserver) -> None:
    stage = Stage(homeserver, "11")
    bob = stage.remote.user("bob")
    stage.feed(stage.remote.join(bob))
    between = stage.remote.say(bob, "between")
    last = stage.remote.say(bob, "last")
    stage.remote.hidden.add(between.event_id)
    assert stage.feed(last) == [Outcome.ACCEPTED]
    stage.remote.hidden.clear()

    assert stage.feed(between) == [Outcome.ACCEPTED]
    edges = stage._rows(
        "SELECT p.event_nid = ANY(c.prev_events) FROM events AS c, events AS p"
        " WHERE c.room_nid = %s AND p.room_nid = c.room_nid AND c.depth = %s AND p.depth = %s",
        stage.room.room_nid,
        last.depth,
        between.depth,
    )
    assert [row[0] for row in edges] == [True]
    assert stage.tips() == {last.event_id}
