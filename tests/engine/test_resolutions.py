"""Big disputes are settled in a thread, as small ones are, while everybody else is served."""

import random
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.engine import resolutions
from homeserver.engine.event_placing import Outcome
from homeserver.engine.inbound_events import CannotDecide
from tests.engine.random_room import FEW, RandomRoom
from tests.homeserver import Homeserver, User
from tests.inbound_stage import Stage
from tests.results import result_of


@pytest.fixture(params=["1", "11", "12"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def alice(homeserver: Homeserver) -> User:
    return homeserver.register("alice")


@pytest.fixture
def every_dispute_is_big(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the room were so large: nothing at once, and no walk without counting."""
    monkeypatch.setattr(resolutions, "MAX_AT_ONCE", 0)
    monkeypatch.setattr(resolutions, "_NEAR", 0)
    monkeypatch.setattr(resolutions, "_NEAR_EACH", 0)


@pytest.fixture
def stage(homeserver: Homeserver, version: str) -> Stage:
    return Stage(homeserver, version)


def receive(stage: Stage, event: Event) -> Deferred[Outcome]:
    return Deferred.fromCoroutine(stage.inbound.receive(stage.remote, stage.room_id, event.pdu))


@pytest.mark.usefixtures("every_dispute_is_big")
@FEW
@given(seed=st.integers(0, 10**6), size=st.integers(1, 25))
def test_in_any_order_the_state_is_what_the_core_resolves(
    homeserver: Homeserver, alice: User, version: str, seed: int, size: int
) -> None:
    stage = Stage(homeserver, version, alice=alice)
    room = RandomRoom(stage, seed, size)

    room.feed_parents_first(stage, random.Random(seed + 1))

    assert stage.tips() == {room.merge.event_id}
    assert stage.state() == stage.remote.graph.after[room.merge.event_id]


def fork(stage: Stage) -> tuple[str, Event]:
    """Set the name here and the topic elsewhere; return the topic, which is not yet here."""
    bob = stage.joined("bob", 50)
    theirs = stage.remote.topic(bob, "theirs")
    path = f"/rooms/{quote(stage.room_id)}/state/m.room.name"
    assert stage.alice.put(path, {"name": "ours"}).status == 200
    return bob, theirs


@pytest.mark.usefixtures("every_dispute_is_big")
def test_while_a_dispute_is_settled_everybody_else_is_served(stage: Stage) -> None:
    _, theirs = fork(stage)
    other_id = stage.alice.create_room(preset="public_chat", room_version=stage.version.id)
    stage.threads.is_held = True

    pending = receive(stage, theirs)

    assert not pending.called
    assert stage.threads.calls == 1
    assert stage.alice.send(other_id, "in another room")
    ours = stage.alice.send(stage.room_id, "in this room")
    assert stage.tips() == {ours}
    stage.threads.release()
    assert result_of(pending) is Outcome.ACCEPTED
    assert stage.tips() == {ours, theirs.event_id}
    assert stage.state()["m.room.topic", ""] == theirs.event_id


@pytest.mark.usefixtures("every_dispute_is_big")
def test_a_room_that_changes_while_its_dispute_is_settled_gets_the_right_state(
    stage: Stage,
) -> None:
    bob, theirs = fork(stage)
    stage.threads.is_held = True
    pending = receive(stage, theirs)
    path = f"/rooms/{quote(stage.room_id)}/state/m.room.topic"
    ours = EventID(stage.alice.put(path, {"topic": "ours"}).json["event_id"])

    stage.threads.release()

    assert result_of(pending) is Outcome.ACCEPTED
    assert stage.tips() == {ours, theirs.event_id}
    stage.share(stage.remote)
    graph = stage.remote.graph
    assert stage.state() == graph.resolve([graph.after[tip] for tip in sorted(stage.tips())])
    merge = stage.remote.say(bob, "merge")
    assert stage.feed(merge) == [Outcome.ACCEPTED]
    assert stage.state() == graph.after[merge.event_id]


@pytest.mark.usefixtures("every_dispute_is_big")
def test_one_dispute_is_settled_at_a_time(homeserver: Homeserver, version: str) -> None:
    first = Stage(homeserver, version)
    _, one = fork(first)
    bob, base = first.remote.user("bob"), list(one.prev_events)
    two = [first.remote.topic(bob, text, prev=base) for text in ("two", "three")]
    first.threads.is_held = True

    pending = [receive(first, event) for event in (one, *two)]

    assert first.threads.calls == 1
    first.threads.release()
    assert [result_of(one) for one in pending] == [Outcome.ACCEPTED] * 3


def test_a_dispute_about_too_many_events_is_not_decided_and_hurts_nobody(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, theirs = fork(stage)
    monkeypatch.setattr(resolutions, "MAX_AT_ONCE", 0)
    monkeypatch.setattr(resolutions, "MAX_EVENTS", 0)

    with pytest.raises(CannotDecide):
        stage.feed(theirs)

    assert stage.flags(theirs) is None
    sent = stage.alice.send(stage.room_id, "still here")
    assert stage.tips() == {sent}
    monkeypatch.undo()
    assert stage.feed(theirs) == [Outcome.ACCEPTED]
    merge = stage.remote.say(bob, "merge", prev=[theirs.event_id])
    assert stage.feed(merge) == [Outcome.ACCEPTED]


def test_a_usual_fork_is_settled_at_once_and_counts_no_chain(stage: Stage) -> None:
    _, theirs = fork(stage)

    assert stage.feed(theirs) == [Outcome.ACCEPTED]
    assert stage.threads.calls == 0


def test_a_failed_thread_fails_that_event_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, theirs = fork(stage)
    monkeypatch.setattr(resolutions, "MAX_AT_ONCE", 0)

    def fail(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(stage.threads, "call", fail)
    with pytest.raises(MemoryError):
        stage.feed(theirs)
    monkeypatch.undo()

    assert stage.feed(theirs) == [Outcome.ACCEPTED]
