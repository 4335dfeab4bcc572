"""Hostile graphs (attack classes 3, 4 and 5): bounded work, and the state stays right."""

from typing import Any

import pytest

from homeserver.core.errors import EventMalformed
from homeserver.core.events import parse_event
from homeserver.core.identifiers import EventID
from homeserver.engine.event_placing import Outcome
from homeserver.engine.inbound_events import CannotDecide
from tests.homeserver import Homeserver
from tests.inbound_stage import Stage
from tests.services.test_inbound_forks import moderator


@pytest.fixture(params=["11", "12"])
def stage(request: pytest.FixtureRequest, homeserver: Homeserver) -> Stage:
    return Stage(homeserver, request.param)


def join(stage: Stage, localpart: str, level: int = 0) -> str:
    user_id = stage.remote.user(localpart)
    stage.feed(stage.remote.join(user_id))
    if level:
        moderator(stage, user_id, level)
    return user_id


def test_attack_5_too_many_parents_are_refused(stage: Stage) -> None:
    bob = join(stage, "bob")
    pdu = stage.remote.say(bob, "x").pdu

    for count in (21, 10_000):
        ids: Any = [f"${n:043d}" for n in range(count)]
        with pytest.raises(EventMalformed):
            stage.feed_pdu(pdu | {"prev_events": ids})
        with pytest.raises(EventMalformed):
            stage.feed_pdu(pdu | {"auth_events": ids})


def test_attack_5_twenty_parents_nobody_has_cost_a_bounded_number_of_requests(stage: Stage) -> None:
    bob = join(stage, "bob")
    parents = [EventID(f"${n:042d}A") for n in range(20)]
    auth = stage.remote.make("m.room.message", bob).auth_events
    event = stage.remote.make("m.room.message", bob, {"body": "x"}, prev=parents, auth=auth)

    with pytest.raises(CannotDecide):
        stage.feed(event)

    assert len(stage.remote.requests) <= 100
    assert stage.flags(event) is None


def test_attack_5_the_deepest_possible_event_does_not_stop_the_room(stage: Stage) -> None:
    bob = join(stage, "bob")
    deep = stage.remote.say(bob, "deep", depth=stage.version.max_depth)

    assert stage.feed(deep) == [Outcome.ACCEPTED]
    reply = stage.alice.send(stage.room_id, "still here")
    assert stage.tips() == {reply}
    stage.share(stage.remote)
    after = stage.remote.say(bob, "and here", depth=stage.version.max_depth)
    assert stage.feed(after) == [Outcome.ACCEPTED]


@pytest.mark.parametrize("depth", [-1, 2**63, "5", 1.5, None])
def test_attack_3_a_depth_that_is_none_is_refused(stage: Stage, depth: object) -> None:
    bob = join(stage, "bob")
    pdu: Any = stage.remote.say(bob, "x").pdu

    with pytest.raises(EventMalformed):
        stage.feed_pdu(pdu | {"depth": depth})


def test_attack_3_an_event_without_parents_is_rejected(stage: Stage) -> None:
    bob = join(stage, "bob")
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
    bob = join(stage, "bob")
    content: Any = {"room_version": stage.version.id, "creator": bob}
    pdu = stage.remote.make("m.room.create", bob, content, state_key="", prev=[], auth=[]).pdu
    state = stage.state()

    if stage.version.id == "12":
        with pytest.raises(EventMalformed):
            stage.feed_pdu(pdu)
    else:
        assert stage.feed(parse_event(stage.version, pdu)) == [Outcome.REJECTED]
    assert stage.state() == state


def test_attack_4_a_ban_is_not_evaded_by_a_backdated_branch(stage: Stage) -> None:
    bob = join(stage, "bob", 50)
    base = stage.remote.graph.tips()
    assert stage.alice.post(f"/rooms/{stage.room_id}/ban", {"user_id": bob}).status == 200
    evasion = [stage.remote.topic(bob, "mine", prev=base, timestamp=1)]
    for n in range(25):
        evasion.append(
            stage.remote.send(
                "m.room.member",
                bob,
                {"membership": "join", "n": n},
                state_key=bob,
                prev=[evasion[-1].event_id],
                timestamp=1,
            )
        )
    before = stage.state()

    outcomes = stage.feed(*evasion)

    assert set(outcomes) == {Outcome.SOFT_FAILED}
    assert stage.state() == before
    assert stage.room.membership_of(bob) == "ban"  # type: ignore[arg-type]  # a user id


def test_attack_4_a_claimed_state_without_the_ban_does_not_undo_it(stage: Stage) -> None:
    bob = join(stage, "bob", 50)
    base = stage.remote.graph.tips()
    assert stage.alice.post(f"/rooms/{stage.room_id}/ban", {"user_id": bob}).status == 200
    hidden = stage.remote.topic(bob, "mine", prev=base)
    for n in range(3):
        hidden = stage.remote.topic(bob, f"mine {n}", prev=[hidden.event_id])
    last = stage.remote.topic(bob, "last", prev=[hidden.event_id])
    stage.remote.hidden.add(hidden.event_id)

    assert stage.feed(last) == [Outcome.SOFT_FAILED]
    assert stage.room.membership_of(bob) == "ban"  # type: ignore[arg-type]  # a user id
    assert ("m.room.topic", "") not in stage.state()


def test_attack_4_twenty_five_forks_of_state_are_merged(stage: Stage) -> None:
    bob = join(stage, "bob", 50)
    base = stage.remote.graph.tips()
    forks = [
        stage.remote.send(
            "m.room.topic", bob, {"topic": f"{n}"}, state_key="", prev=base, timestamp=1000 + n
        )
        for n in range(25)
    ]

    assert set(stage.feed(*forks)) == {Outcome.ACCEPTED}
    assert len(stage.tips()) == 20
    graph = stage.remote.graph
    assert stage.state() == graph.resolve([graph.after[tip] for tip in sorted(stage.tips())])
    merging = stage.alice.send(stage.room_id, "merge")
    assert stage.tips() == {merging}


def test_attack_5_a_flood_of_branches_is_bounded_in_rows_and_memory(stage: Stage) -> None:
    bob = join(stage, "bob")
    base = stage.remote.graph.tips()
    auth = stage.remote.make("m.room.message", bob).auth_events
    flood = [
        stage.remote.make("m.room.message", bob, {"body": f"{n}"}, prev=base, auth=auth)
        for n in range(400)
    ]
    segments = "SELECT count(*) FROM state_segments WHERE room_nid = %s"
    before = stage._rows(segments, stage.room.room_nid)[0][0]

    assert set(stage.feed(*flood)) == {Outcome.ACCEPTED}
    assert len(stage.tips()) == 20
    assert stage._rows(segments, stage.room.room_nid)[0][0] == before
    stage.restart()
    assert len(stage.tips()) == 20
