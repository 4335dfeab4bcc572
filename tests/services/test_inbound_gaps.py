"""Gaps in the graph: missing events, the state on the other side, outliers, missing auth events."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.identifiers import EventID
from homeserver.engine.event_placing import Outcome
from homeserver.engine.inbound_events import CannotDecide
from homeserver.storage.events import OUTLIER, REJECTED
from tests.homeserver import Homeserver
from tests.inbound_stage import GRAPH_VERSIONS, Stage
from tests.simulated_server import SimulatedServer, key_of


@pytest.fixture(params=GRAPH_VERSIONS)
def stage(request: pytest.FixtureRequest, homeserver: Homeserver) -> Stage:
    return Stage(homeserver, request.param)


def test_missing_events_are_fetched_and_shown_in_order(stage: Stage) -> None:
    bob = stage.remote.user("bob")
    sent = [stage.remote.join(bob), *(stage.remote.say(bob, f"{n}") for n in range(30))]
    token, _ = stage.synced()

    assert stage.feed(sent[-1]) == [Outcome.ACCEPTED]
    assert stage.synced(token)[1] == [event.event_id for event in sent]
    assert stage.tips() == {sent[-1].event_id}
    assert stage.remote.requests == ["get_missing_events"]


def test_a_gap_that_is_too_wide_is_bridged_by_the_state_on_its_other_side(stage: Stage) -> None:
    bob, carol = stage.remote.user("bob"), stage.remote.user("carol")
    stage.remote.join(bob)
    stage.remote.join(carol)
    for n in range(300):
        stage.remote.say(bob, f"{n}")
    last = stage.remote.say(carol, "last")

    assert stage.feed(last) == [Outcome.ACCEPTED]
    assert last.event_id in stage.tips()
    assert stage.room.membership_of(bob) == "join"
    assert stage.room.membership_of(carol) == "join"
    assert len(stage.remote.requests) < 30
    assert stage.state() == stage.remote.graph.after[last.event_id]


def test_events_nobody_gives_out_are_bridged_by_state(stage: Stage) -> None:
    bob, carol = stage.remote.user("bob"), stage.remote.user("carol")
    join = stage.remote.join(bob)
    hidden = stage.remote.say(bob, "between us")
    stage.remote.join(carol)
    last = stage.remote.say(carol, "last")
    stage.remote.hidden.add(hidden.event_id)

    assert stage.feed(last) == [Outcome.ACCEPTED]
    assert stage.state() == stage.remote.graph.after[last.event_id]
    assert stage.flags(hidden) is None
    assert last.event_id in stage.messages()
    assert stage.flags(join) == OUTLIER


def test_an_event_behind_a_gap_is_no_extremity_when_it_comes_late(stage: Stage) -> None:
    bob = stage.remote.user("bob")
    stage.feed(stage.remote.join(bob))
    hidden = stage.remote.say(bob, "late")
    last = stage.remote.say(bob, "last")
    stage.remote.hidden.add(hidden.event_id)
    stage.feed(last)

    assert stage.feed(hidden) == [Outcome.ACCEPTED]
    assert stage.tips() == {last.event_id}
    assert hidden.event_id in stage.messages()


def test_an_event_without_its_parents_is_not_decided_when_nobody_answers(stage: Stage) -> None:
    bob = stage.remote.user("bob")
    stage.remote.join(bob)
    last = stage.remote.say(bob, "last")
    stage.remote.is_silent = True

    with pytest.raises(CannotDecide):
        stage.feed(last)

    assert stage.flags(last) is None
    stage.remote.is_silent = False
    assert stage.feed(last) == [Outcome.ACCEPTED]


def test_unknown_auth_events_are_fetched_and_kept_as_outliers(stage: Stage) -> None:
    bob, carol = stage.remote.user("bob"), stage.remote.user("carol")
    base = stage.remote.graph.tips()
    stage.feed(stage.remote.join(carol, prev=base))
    join = stage.remote.join(bob, prev=base)
    auth = stage.remote.make("m.room.message", bob, prev=[join.event_id]).auth_events
    message = stage.remote.make("m.room.message", bob, {"body": "x"}, prev=base, auth=auth)
    stage.remote.graph.add(message)

    assert stage.feed(message) == [Outcome.REJECTED]
    assert stage.flags(join) == OUTLIER
    assert join.event_id not in stage.messages()
    assert stage.tips().isdisjoint({join.event_id, message.event_id})


def test_an_outlier_that_gets_its_place_counts_and_is_told(stage: Stage) -> None:
    bob, carol = stage.remote.user("bob"), stage.remote.user("carol")
    base = stage.remote.graph.tips()
    stage.feed(stage.remote.join(carol, prev=base))
    join = stage.remote.join(bob, prev=base)
    auth = stage.remote.make("m.room.message", bob, prev=[join.event_id]).auth_events
    early = stage.remote.make("m.room.message", bob, {"body": "x"}, prev=base, auth=auth)
    stage.remote.graph.add(early)
    stage.feed(early)
    token, _ = stage.synced()

    assert stage.feed(join) == [Outcome.ACCEPTED]
    assert stage.room.membership_of(bob) == "join"
    assert join.event_id in stage.messages()
    assert join.event_id in stage.tips()
    stage.restart()
    assert stage.room.membership_of(bob) == "join"
    assert join.event_id in stage.tips()
    assert join.event_id in stage.synced(token)[1]


def test_a_rejected_outlier_is_judged_anew_in_its_place(stage: Stage) -> None:
    bob = stage.remote.user("bob")
    stage.alice.put(
        f"/rooms/{quote(stage.room_id)}/state/m.room.join_rules", {"join_rule": "invite"}
    )
    stage.share(stage.remote)
    base = stage.remote.graph.tips()
    join = stage.remote.join(bob, prev=base)
    auth = [*stage.remote.make("m.room.message", bob).auth_events, join.event_id]
    message = stage.remote.make("m.room.message", bob, {"body": "x"}, prev=base, auth=auth)
    stage.remote.graph.add(message)

    assert stage.feed(message) == [Outcome.REJECTED]
    assert stage.flags(join) == OUTLIER | REJECTED
    assert stage.feed(join) == [Outcome.REJECTED]
    assert join.event_id not in stage.messages()


def test_auth_events_of_another_room_are_refused_without_asking(stage: Stage) -> None:
    bob = stage.remote.user("bob")
    stage.feed(stage.remote.join(bob))
    other_id = stage.alice.create_room(preset="public_chat", room_version=stage.version.id)
    path = f"/rooms/{quote(other_id)}/state/m.room.member/{quote(stage.alice.user_id)}"
    body = stage.alice.get(path, format="event").json
    elsewhere = EventID(body["event_id"])
    auth = [*stage.remote.make("m.room.message", bob).auth_events[:-1], elsewhere]
    message = stage.remote.make("m.room.message", bob, {"body": "x"}, auth=auth)

    assert stage.feed(message) == [Outcome.REJECTED]
    assert stage.remote.requests == []


class Liar:
    """Gives forged answers."""

    def __init__(self, honest: SimulatedServer, pdus: list[Any]) -> None:
        self.honest = honest
        self.pdus = pdus

    def __getattr__(self, name: str) -> Any:
        return getattr(self.honest, name)

    async def get_missing_events(self, *args: Any, **kwargs: Any) -> list[Any]:
        del args, kwargs
        return self.pdus

    async def get_event_auth(self, *args: Any, **kwargs: Any) -> list[Any]:
        del args, kwargs
        return self.pdus


def test_attack_2_fetched_events_are_checked_as_those_that_are_sent(stage: Stage) -> None:
    bob = stage.remote.user("bob")
    join = stage.remote.make(
        "m.room.member", bob, {"membership": "join"}, state_key=bob, key=key_of("evil.test")
    )
    stage.remote.graph.add(join)
    last = stage.remote.say(bob, "last")
    liar = Liar(stage.remote, [join.pdu])

    with pytest.raises(CannotDecide):
        stage.feed(last, source=liar)

    assert stage.flags(join) is None
    assert stage.flags(last) is None


def test_attack_5_events_that_were_not_asked_for_are_not_stored(stage: Stage) -> None:
    bob = stage.remote.user("bob")
    join = stage.remote.join(bob)
    base = stage.remote.graph.tips()
    stray = [stage.remote.say(bob, f"stray {n}", prev=base) for n in range(5)]
    last = stage.remote.say(bob, "last", prev=base)
    liar = Liar(stage.remote, [join.pdu, *(event.pdu for event in stray), {"garbage": 1}])

    assert stage.feed(last, source=liar) == [Outcome.ACCEPTED]
    assert [stage.flags(event) for event in stray] == [None] * 5


class Bottomless:
    """Has ever more missing events, one at a time."""

    def __init__(self, honest: SimulatedServer, chain: list[Any]) -> None:
        self.honest = honest
        self.chain = chain
        self.requests = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.honest, name)

    async def get_missing_events(self, *args: Any, **kwargs: Any) -> list[Any]:
        del args, kwargs
        self.requests += 1
        return [self.chain.pop().pdu] if self.chain else []


def test_attack_5_missing_parents_without_end_are_given_up(stage: Stage) -> None:
    bob = stage.remote.user("bob")
    stage.remote.join(bob)
    chain = [stage.remote.say(bob, f"{n}") for n in range(400)]
    last = chain.pop()
    endless = Bottomless(stage.remote, chain)
    stage.remote.requests.clear()

    assert stage.feed(last, source=endless) == [Outcome.ACCEPTED]
    assert endless.requests <= 10
    assert len(stage.remote.requests) < 100
    assert last.event_id in stage.tips()
