"""History from before we came, put in its place."""

from typing import Any

import pytest

from homeserver.core.events import Event
from homeserver.core.json_types import JsonObject
from homeserver.engine.event_placing import Outcome
from homeserver.engine.remote_server import RemoteFailure
from tests.api.relating import bundle_of
from tests.homeserver import Homeserver
from tests.inbound_stage import Stage
from tests.remote_room import RemoteStage
from tests.results import result_of
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


def test_an_edit_from_a_gap_is_told_with_a_recent_event(homeserver: Homeserver) -> None:
    stage = Stage(homeserver, "11")
    bob = stage.remote.user("bob")
    said = stage.remote.say(stage.remote.join(bob).sender, "frist")
    stage.feed(*(e for e in stage.remote.graph.events.values() if e.sender == bob))
    edit = stage.remote.send(
        "m.room.message",
        bob,
        {
            "body": "* first",
            "m.new_content": {"body": "first"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": said.event_id},
        },
    )
    last = stage.remote.say(bob, "last")
    stage.remote.hidden.add(edit.event_id)
    assert stage.feed(last) == [Outcome.ACCEPTED]
    assert bundle_of(stage.alice, stage.room_id, said.event_id) is None
    stage.remote.hidden.clear()

    taking = stage.rooms.backfill.take_in(stage.room_id, stage.remote, [edit.pdu])
    assert result_of(taking) == 1

    bundle = bundle_of(stage.alice, stage.room_id, said.event_id)
    assert bundle["m.replace"]["event_id"] == edit.event_id
    stage.restart()
    assert bundle_of(stage.alice, stage.room_id, said.event_id) == bundle


def test_a_sync_over_a_gap_is_limited_and_its_token_leads_into_the_gap(
    homeserver: Homeserver,
) -> None:
    stage = Stage(homeserver, "11")
    bob = stage.remote.user("bob")
    stage.feed(stage.remote.join(bob))
    token, _ = stage.synced()
    between = [stage.remote.say(bob, f"between {n}") for n in range(5)]
    last = stage.remote.say(bob, "last")
    stage.remote.hidden |= {event.event_id for event in between}
    assert stage.feed(last) == [Outcome.ACCEPTED]

    timeline = stage.alice.sync(token)["rooms"]["join"][stage.room_id]["timeline"]
    assert timeline["limited"] is True
    assert [event["event_id"] for event in timeline["events"]] == [last.event_id]
    stage.remote.hidden.clear()
    taking = stage.rooms.backfill.take_in(
        stage.room_id, stage.remote, [event.pdu for event in between]
    )
    assert result_of(taking) == 5

    path = f"/rooms/{stage.room_id}/messages"
    page = stage.alice.get(path, dir="b", limit=5, **{"from": timeline["prev_batch"]}).json
    assert [event["event_id"] for event in page["chunk"]] == [e.event_id for e in between[::-1]]


def shown(stage: RemoteStage, event: Event) -> Any:
    reply = stage.alice.get(f"/rooms/{stage.room_id}/event/{event.event_id}")
    assert reply.status == 200, reply.json
    return reply.json


def redacted(stage: RemoteStage, sender: str, target: Event, **more: Any) -> Event:
    return stage.remote.send(
        "m.room.redaction",
        sender,
        {"redacts": target.event_id} if stage.remote.version.redacts_in_content else {},
        redacts=target.event_id,
        **more,
    )


def test_a_redaction_that_was_there_before_takes_effect_on_history(stage: RemoteStage) -> None:
    said = stage.remote.say(stage.creator, "a secret")
    edit = stage.remote.send(
        "m.room.message",
        stage.creator,
        {
            "body": "* worse",
            "m.new_content": {"body": "worse"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": said.event_id},
        },
    )
    stage.join()
    redactions = [redacted(stage, stage.creator, target) for target in (said, edit)]
    assert stage.feed(*redactions) == [Outcome.ACCEPTED] * 2

    extend(stage)

    for event, redaction in zip((said, edit), redactions, strict=True):
        body = shown(stage, event)
        assert body["content"] == {}
        assert body["unsigned"]["redacted_because"]["event_id"] == redaction.event_id
        assert "m.relations" not in body["unsigned"]


def test_a_redaction_of_who_was_a_moderator_then_takes_effect_on_history(
    stage: RemoteStage,
) -> None:
    mod = "@mod:other.test"
    there: Any = {"key": key_of("other.test"), "server_name": "other.test"}
    stage.remote.join(mod, **there)
    levels = stage.remote.graph.events[
        stage.remote.graph.after[stage.remote.graph.tips()[0]]["m.room.power_levels", ""]
    ].content
    users = levels["users"]
    assert isinstance(users, dict)
    promoted: JsonObject = {"users": {**users, mod: 50}}
    stage.remote.send("m.room.power_levels", stage.creator, promoted, state_key="")
    said = stage.remote.say(stage.creator, "a secret")
    redaction = redacted(stage, mod, said, **there)
    stage.remote.send("m.room.power_levels", stage.creator, levels, state_key="")
    other = stage.remote.say(stage.creator, "no secret")
    powerless = redacted(stage, mod, other, **there)
    stage.join()

    extend(stage)

    body = shown(stage, said)
    assert body["content"] == {}
    assert body["unsigned"]["redacted_because"]["event_id"] == redaction.event_id
    assert shown(stage, other)["content"]["body"] == "no secret"
    assert powerless.event_id in stage.remote.graph.events


def test_attack_8_history_does_not_quote_what_was_not_for_us(stage: RemoteStage) -> None:
    creator = stage.creator
    said = stage.remote.say(creator, "for all who come")
    topic = stage.remote.topic(creator, "for all as well")
    private: JsonObject = {"history_visibility": "joined"}
    stage.remote.send("m.room.history_visibility", creator, private, state_key="")
    stage.remote.topic(creator, "among ourselves")
    redacted(stage, creator, said)
    shared: JsonObject = {"history_visibility": "shared"}
    stage.remote.send("m.room.history_visibility", creator, shared, state_key="")
    later = stage.remote.topic(creator, "for all again")
    stage.join()

    extend(stage)

    assert shown(stage, topic)["content"] == {"topic": "for all as well"}
    unsigned = shown(stage, later)["unsigned"]
    assert "replaces_state" in unsigned
    assert "prev_content" not in unsigned
    body = shown(stage, said)
    assert body["content"] == {}
    assert "redacted_because" not in body.get("unsigned", {})


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
