"""Whatever order a room's events come in, the state in the end is what the core resolves."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.core.json_types import JsonObject
from homeserver.engine.event_placing import Outcome
from homeserver.engine.inbound_events import CannotDecide
from tests.homeserver import Homeserver, User
from tests.inbound_stage import GRAPH_VERSIONS, Stage
from tests.simulated_server import SimulatedServer

LOCALPARTS = ("bob", "carol", "dave")
FEW = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


class RandomRoom:
    """A room with an unbeatable admin and a random history with forks on a remote server."""

    def __init__(self, stage: Stage, seed: int, size: int) -> None:
        self.remote = stage.remote
        self.random = random.Random(seed)
        self.admin = self.remote.user("admin")
        self.users = [self.remote.user(name) for name in LOCALPARTS]
        self.sent = [self.remote.join(self.admin)]
        levels: dict[str, int] = {self.admin: 100, self.users[0]: 50}
        stage.feed(*self.sent)
        self.give_levels(stage, levels)
        self.sent += [self.remote.join(user) for user in self.users]
        stage.feed(*self.sent[1:])
        self.forked = [self.sent[-1]]
        for _ in range(size):
            self.forked.append(self.act())
        self.merge = self.remote.say(self.admin, "merge", prev=self.merge_parents())
        self.forked = [*self.forked[1:], self.merge]

    def give_levels(self, stage: Stage, levels: dict[str, int]) -> None:
        path = f"/rooms/{stage.room_id}/state/m.room.power_levels"
        content = stage.alice.get(path).json
        content["users"] |= levels
        assert stage.alice.put(path, content).status == 200
        stage.share(self.remote)

    def merge_parents(self) -> list[EventID]:
        """Every event without a child, refused or not; never more than a few."""
        graph = self.remote.graph
        named = {p for event in graph.events.values() for p in event.prev_events}
        return [event_id for event_id in graph.events if event_id not in named]

    def act(self) -> Event:
        chosen = self.random
        count = chosen.choice((1, 1, 1, 2, 3))
        parents = {e.event_id for e in chosen.choices(self.forked[-6:], k=count)}
        prev = sorted(parents)
        sender = chosen.choice([self.admin, *self.users])
        other = chosen.choice(self.users)
        remote: SimulatedServer = self.remote
        time = 1_700_000_000_000 + chosen.randrange(50)
        match chosen.randrange(8):
            case 0 | 1:
                return remote.topic(sender, f"{chosen.random()}", prev=prev, timestamp=time)
            case 2:
                return remote.member(sender, "ban", other, prev=prev, timestamp=time)
            case 3:
                return remote.member(other, "leave", prev=prev, timestamp=time)
            case 4 | 5:
                return remote.join(sender, prev=prev, timestamp=time)
            case 6:
                rule: JsonObject = {"join_rule": chosen.choice(("public", "invite"))}
                return remote.send(
                    "m.room.join_rules", sender, rule, state_key="", prev=prev, timestamp=time
                )
            case _:
                return remote.say(sender, "words", prev=prev, timestamp=time)


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
    order = random.Random(seed + 1)
    waiting = list(room.forked)
    there = set(stage.remote.graph.events) - {event.event_id for event in waiting}
    while waiting:
        ready = [event for event in waiting if there.issuperset(event.prev_events)]
        event = order.choice(ready)
        stage.feed(event)
        waiting.remove(event)
        there.add(event.event_id)

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

    assert Outcome.KNOWN in outcomes or outcomes
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
