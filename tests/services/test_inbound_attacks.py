"""Hostile graphs in gaps; more is in the files named after classes 3, 4 and 5."""

import pytest

from homeserver.engine.event_placing import Outcome
from homeserver.engine.inbound_events import CannotDecide
from homeserver.storage.events import encode_event_id
from tests.homeserver import Homeserver
from tests.inbound_stage import GRAPH_VERSIONS, Stage


@pytest.fixture(params=GRAPH_VERSIONS)
def stage(request: pytest.FixtureRequest, homeserver: Homeserver) -> Stage:
    return Stage(homeserver, request.param)


def test_attack_4_an_event_in_the_state_before_its_own_parent_is_stored_once(stage: Stage) -> None:
    bob = stage.joined("bob", 50)
    hidden = stage.remote.say(bob, "hidden")
    topic = stage.remote.topic(bob, "from nowhere")
    stage.remote.hidden.add(hidden.event_id)
    graph = stage.remote.graph
    graph.before[hidden.event_id] = dict(graph.after[topic.event_id])

    try:
        outcome = stage.feed(topic)
    except CannotDecide:
        outcome = []

    assert Outcome.REJECTED not in outcome
    rows = stage._rows(
        "SELECT count(*) FROM events WHERE room_nid = %s AND event_id = %s",
        stage.room.room_nid,
        encode_event_id(stage.version, topic.event_id),
    )
    assert rows[0][0] == 1
    event_id = stage.alice.send(stage.room_id, "it works")
    assert event_id in stage.tips()
