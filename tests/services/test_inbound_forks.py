"""Rooms whose graph forks: merging, authoring, memberships by resolution, restarts."""

from urllib.parse import quote

import pytest

from homeserver.core.identifiers import EventID
from homeserver.engine.event_placing import Outcome
from tests.homeserver import Homeserver
from tests.inbound_stage import ENGINE_VERSIONS, Stage


@pytest.fixture(params=ENGINE_VERSIONS)
def stage(request: pytest.FixtureRequest, homeserver: Homeserver) -> Stage:
    return Stage(homeserver, request.param)


def test_a_fork_has_two_extremities_and_the_resolved_state(stage: Stage) -> None:
    bob = stage.joined("bob", 50)
    ours = stage.alice.send(stage.room_id, "meanwhile")
    theirs = stage.remote.topic(bob, "a fork")

    assert stage.feed(theirs) == [Outcome.ACCEPTED]
    assert stage.tips() == {ours, theirs.event_id}
    assert stage.state() == stage.remote.graph.after[theirs.event_id]
    path = f"/rooms/{quote(stage.room_id)}/state/m.room.topic"
    assert stage.alice.get(path).json == {"topic": "a fork"}


def test_a_local_event_merges_the_fork_and_has_the_resolved_state(stage: Stage) -> None:
    bob = stage.joined("bob", 50)
    path = f"/rooms/{quote(stage.room_id)}/state/m.room.topic"
    stage.alice.put(path, {"topic": "ours"})
    theirs = stage.remote.topic(bob, "theirs")
    stage.feed(theirs)

    merging = EventID(stage.alice.send(stage.room_id, "merge"))

    assert stage.tips() == {merging}
    stage.share(stage.remote)
    graph = stage.remote.graph
    assert len(graph.events[merging].prev_events) == 2
    assert merging not in graph.rejected
    assert stage.state() == graph.after[merging]


def test_a_remote_merge_gives_what_the_core_resolves_over_the_whole_graph(stage: Stage) -> None:
    bob = stage.joined("bob", 50)
    base = stage.remote.graph.tips()
    carol, dave = stage.remote.user("carol"), stage.remote.user("dave")
    one = [
        stage.remote.topic(bob, "one", prev=base),
        stage.remote.join(carol),
    ]
    first = stage.remote.graph.tips()
    two = [
        stage.remote.topic(bob, "two", prev=base),
    ]
    second = [two[-1].event_id]
    two.append(stage.remote.join(dave, prev=second))
    two.append(stage.remote.member(bob, "leave", dave, prev=[two[-1].event_id]))
    merge = stage.remote.say(bob, "merged", prev=[first[-1], two[-1].event_id])

    outcomes = stage.feed(*one, *two, merge)

    assert set(outcomes) == {Outcome.ACCEPTED}
    assert stage.tips() == {merge.event_id}
    assert stage.state() == stage.remote.graph.after[merge.event_id]
    assert stage.room.membership_of(carol) == "join"
    assert stage.room.membership_of(dave) == "leave"


def test_after_a_restart_the_fork_is_as_it_was(stage: Stage) -> None:
    bob = stage.joined("bob", 50)
    stage.alice.put(f"/rooms/{quote(stage.room_id)}/state/m.room.name", {"name": "ours"})
    theirs = stage.remote.topic(bob, "theirs")
    stage.feed(theirs)
    tips, state, members = stage.tips(), stage.state(), dict(stage.room.members)

    stage.restart()

    assert stage.tips() == tips
    assert stage.state() == state
    assert stage.room.members == members
    more = stage.remote.say(bob, "more")
    assert stage.feed(more) == [Outcome.ACCEPTED]
    merging = EventID(stage.alice.send(stage.room_id, "merge"))
    assert stage.tips() == {merging}
    stage.share(stage.remote)
    assert stage.state() == stage.remote.graph.after[merging]


@pytest.mark.parametrize("stage", [v for v in ENGINE_VERSIONS if v != "1"], indirect=True)
def test_a_resolution_that_ends_a_stay_tells_the_user(stage: Stage) -> None:
    bob = stage.joined("bob", 50)
    carol = stage.homeserver.register("carol")
    base = stage.remote.graph.tips()
    assert carol.join(stage.room_id).status == 200
    token = carol.sync()["next_batch"]
    rules = stage.remote.send(
        "m.room.join_rules", bob, {"join_rule": "invite"}, state_key="", prev=base
    )

    assert stage.feed(rules) == [Outcome.ACCEPTED]

    expected = stage.remote
    stage.share(expected)
    resolved = expected.graph.resolve([expected.graph.after[tip] for tip in sorted(stage.tips())])
    assert stage.state() == resolved
    assert ("m.room.member", carol.user_id) not in resolved
    assert stage.room.membership_of(carol.user_id) == "leave"  # type: ignore[arg-type]  # a user id
    body = carol.sync(token)
    assert stage.room_id in body["rooms"]["leave"]
    assert carol.put(
        f"/rooms/{quote(stage.room_id)}/send/m.room.message/x", {"msgtype": "m.text", "body": "?"}
    ).status in {403, 404}
    stage.restart()
    assert stage.state() == resolved
    assert stage.room.membership_of(carol.user_id) == "leave"  # type: ignore[arg-type]  # a user id


@pytest.mark.parametrize("stage", ["1"], indirect=True)
def test_in_version_1_a_member_whom_one_branch_alone_knows_stays(stage: Stage) -> None:
    bob = stage.joined("bob", 50)
    carol = stage.homeserver.register("carol")
    base = stage.remote.graph.tips()
    assert carol.join(stage.room_id).status == 200
    rules = stage.remote.send(
        "m.room.join_rules", bob, {"join_rule": "invite"}, state_key="", prev=base
    )

    assert stage.feed(rules) == [Outcome.ACCEPTED]

    assert stage.room.membership_of(carol.user_id) == "join"  # type: ignore[arg-type]  # a user id
    stage.share(stage.remote)
    merging = EventID(carol.send(stage.room_id, "still here"))
    stage.share(stage.remote)
    assert stage.state() == stage.remote.graph.after[merging]


def test_events_are_redacted_by_remote_redactions(stage: Stage) -> None:
    bob = stage.joined("bob", 50)
    message = stage.remote.say(bob, "a secret")
    redaction = stage.remote.send("m.room.redaction", bob, {}, redacts=message.event_id)

    stage.feed(message, redaction)

    found = stage.alice.get(
        f"/rooms/{quote(stage.room_id)}/event/{quote(message.event_id, safe='')}"
    ).json
    assert found["content"] == {}


def test_a_redaction_that_comes_first_takes_effect_when_its_target_comes(stage: Stage) -> None:
    bob = stage.joined("bob", 50)
    base = stage.remote.graph.tips()
    message = stage.remote.say(bob, "a secret", prev=base)
    redaction = stage.remote.send("m.room.redaction", bob, {}, redacts=message.event_id, prev=base)

    stage.feed(redaction, message)

    path = f"/rooms/{quote(stage.room_id)}/event/{quote(message.event_id, safe='')}"
    assert stage.alice.get(path).json["content"] == {}
    stage.restart()
    assert stage.alice.get(path).json["content"] == {}


def test_no_more_than_twenty_extremities_are_kept(stage: Stage) -> None:
    bob = stage.joined("bob", 50)
    base = stage.remote.graph.tips()
    honest = stage.server("honest.test")
    ada = honest.user("ada")
    stage.feed(honest.join(ada, prev=base))
    kept = stage.tips()
    forks = [stage.remote.say(bob, f"fork {n}", prev=base) for n in range(60)]

    outcomes = stage.feed(*forks)

    assert set(outcomes) == {Outcome.ACCEPTED}
    assert len(stage.tips()) == 20
    assert kept <= stage.tips(), "the flood displaced only its own server's branches"
    merging = EventID(stage.alice.send(stage.room_id, "merge"))
    assert stage.tips() == {merging}


def test_state_changed_by_a_resolution_reaches_an_incremental_sync(stage: Stage) -> None:
    bob = stage.joined("bob", 50)
    base = stage.remote.graph.tips()
    theirs = stage.remote.topic(bob, "theirs", prev=base)
    token = stage.alice.sync()["next_batch"]
    path = f"/rooms/{quote(stage.room_id)}/state/m.room.name"
    ours = stage.alice.put(path, {"name": "ours"}).json["event_id"]
    seen = stage.alice.sync(token)["next_batch"]

    stage.feed(theirs)
    merged = stage.remote.say(bob, "meanwhile", prev=[theirs.event_id])
    stage.feed(merged)

    body = stage.alice.sync(seen, use_state_after="true")["rooms"]["join"][stage.room_id]
    assert [e["event_id"] for e in body["timeline"]["events"]] == [theirs.event_id, merged.event_id]
    assert [e["event_id"] for e in body["state_after"]["events"]] == [theirs.event_id]
    assert ours in stage.state().values()


def test_a_state_event_that_loses_is_followed_by_the_winner_in_state_after(stage: Stage) -> None:
    bob = stage.joined("bob", 50)
    base = stage.remote.graph.tips()
    theirs = stage.remote.topic(bob, "theirs", prev=base, timestamp=1)
    path = f"/rooms/{quote(stage.room_id)}/state/m.room.topic"
    ours = stage.alice.put(path, {"topic": "ours"}).json["event_id"]
    token = stage.alice.sync()["next_batch"]

    stage.feed(theirs)

    assert stage.state()["m.room.topic", ""] == ours
    body = stage.alice.sync(token, use_state_after="true")["rooms"]["join"][stage.room_id]
    assert [e["event_id"] for e in body["timeline"]["events"]] == [theirs.event_id]
    assert [e["event_id"] for e in body["state_after"]["events"]] == [ours]
