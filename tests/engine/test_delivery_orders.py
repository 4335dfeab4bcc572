"""Whatever order a room's events come in, the state in the end is what the core resolves."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.engine.event_placing import Outcome
from homeserver.engine.inbound_events import CannotDecide
from tests.engine.random_room import FEW, RandomRoom
from tests.homeserver import Homeserver, User
from tests.inbound_stage import GRAPH_VERSIONS, Stage


@pytest.fixture(params=GRAPH_VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def alice(homeserver: Homeserver) -> User:
    return homeserver.register("alice")


@pytest.fixture
def running(homeserver: Homeserver) -> list[Homeserver]:
    """The server of the latest restart; the examples of one test share it."""
    return [homeserver]


def check(stage: Stage, room: RandomRoom) -> None:
    graph = stage.remote.graph
    assert room.merge.event_id not in graph.rejected
    assert stage.tips() == {room.merge.event_id}
    assert stage.state() == graph.after[room.merge.event_id]
    shown = set(stage.messages())
    assert shown.isdisjoint(graph.rejected)
    memberships = {
        slot[1]: graph.events[event_id].membership
        for slot, event_id in graph.after[room.merge.event_id].items()
        if slot[0] == "m.room.member"
    }
    known = {user: member.membership for user, member in stage.room.members.items()}
    assert {u: m for u, m in known.items() if u in memberships} == memberships
    assert {m for u, m in known.items() if u not in memberships} <= {"leave"}


@FEW
@given(seed=st.integers(0, 10**6), size=st.integers(1, 25))
def test_in_any_order_that_has_parents_first(
    homeserver: Homeserver, alice: User, version: str, seed: int, size: int
) -> None:
    stage = Stage(homeserver, version, alice=alice)
    room = RandomRoom(stage, seed, size)

    room.feed_parents_first(stage, random.Random(seed + 1))

    check(stage, room)
    assert "get_state_ids" not in stage.remote.requests


@FEW
@given(seed=st.integers(0, 10**6), size=st.integers(1, 25))
def test_in_any_order_at_all_with_missing_events_fetched(
    homeserver: Homeserver, alice: User, version: str, seed: int, size: int
) -> None:
    stage = Stage(homeserver, version, alice=alice)
    room = RandomRoom(stage, seed, size)
    shuffled = list(room.forked)
    random.Random(seed + 2).shuffle(shuffled)

    outcomes = stage.feed(*shuffled)

    was_fetched = "get_missing_events" in stage.remote.requests
    assert (Outcome.KNOWN in outcomes) is was_fetched
    check(stage, room)


@FEW
@given(seed=st.integers(0, 10**6), size=st.integers(1, 20))
def test_in_any_order_with_answers_that_fail_and_a_restart(
    running: list[Homeserver], alice: User, version: str, seed: int, size: int
) -> None:
    stage = Stage(running[0], version, alice=alice)
    room = RandomRoom(stage, seed, size)
    luck = random.Random(seed + 3)
    waiting = list(room.forked) * 2
    luck.shuffle(waiting)
    stage.restart()
    running[0] = stage.homeserver
    while waiting:
        event = waiting.pop()
        stage.remote.is_silent = luck.random() < 0.5
        try:
            stage.feed(event)
        except CannotDecide:
            waiting.insert(0, event)

    check(stage, room)
