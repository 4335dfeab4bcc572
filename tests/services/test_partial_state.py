"""Rooms joined with members left out of the state, and learning them later."""

import tracemalloc
from itertools import count
from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.defer import Deferred

from homeserver.core.events import Event
from homeserver.core.identifiers import ServerName
from homeserver.engine import event_graph as engine_graph
from homeserver.engine import recalculation
from homeserver.engine.event_placing import Outcome
from homeserver.engine.remote_joins import PartialJoin
from homeserver.engine.remote_server import RemoteFailure
from homeserver.errors import DatabaseUnavailable, ServiceUnavailable
from homeserver.storage import event_graph, partial_state
from tests.homeserver import Homeserver
from tests.remote_room import RemoteStage, begin_room
from tests.results import result_of

SERVERS = [ServerName("remote.test"), ServerName("third.test")]
LAZY = '{"room":{"state":{"lazy_load_members":true}}}'


@pytest.fixture(params=["10", "11", "12"])
def stage(request: pytest.FixtureRequest, homeserver: Homeserver) -> RemoteStage:
    stage = RemoteStage(homeserver, request.param)
    for name in ("bob", "carol"):
        stage.remote.join(stage.remote.user(name))
    return stage


def join(stage: RemoteStage) -> Event:
    """Alice joins, and is told of no member but who made the room."""
    event = stage.make_member(stage.alice, "join")
    stage.remote.graph.add(event)
    state, chain = stage.answer_to(event)
    told = [pdu for pdu in state if pdu["type"] != "m.room.member"]
    stage.take_in(event, told, chain, partial=PartialJoin(SERVERS))
    return event


def complete(stage: RemoteStage) -> None:
    stage.do(stage.rooms.partial.complete(stage.room_id, stage.remote))


def test_a_partial_room_can_be_spoken_in(stage: RemoteStage) -> None:
    join(stage)
    bob = stage.remote.user("bob")
    since = stage.alice.sync(filter=LAZY)["next_batch"]

    said = stage.remote.say(bob, "who are you?")
    assert stage.feed(said) == [Outcome.ACCEPTED]
    answered = stage.alice.send(stage.room_id, "Alice")
    shown = stage.synced(since=since, filter=LAZY)["timeline"]["events"]
    assert [event["event_id"] for event in shown] == [said.event_id, answered]
    assert stage.room.is_partial


def test_attack_1_nobody_speaks_without_a_membership_to_cite(stage: RemoteStage) -> None:
    join(stage)
    stranger = stage.remote.user("stranger")

    said = stage.remote.say(stranger, "let me in")
    assert stage.feed(said) == [Outcome.REJECTED]


def test_an_eager_sync_shows_it_when_it_is_complete(stage: RemoteStage) -> None:
    event = join(stage)
    assert stage.synced(filter=LAZY)["timeline"]["events"][0]["event_id"] == event.event_id
    body = stage.alice.sync()
    assert stage.room_id not in body.get("rooms", {}).get("join", {})

    complete(stage)
    part = stage.synced(since=body["next_batch"])
    members = {
        one["state_key"]
        for one in (*part["state"]["events"], *part["timeline"]["events"])
        if one["type"] == "m.room.member"
    }
    users = [stage.remote.user(name) for name in ("creator", "bob", "carol")]
    assert members == {stage.alice.user_id, *users}
    assert part["timeline"]["limited"] is True


def test_afterwards_the_state_is_what_it_would_have_been(stage: RemoteStage) -> None:
    join(stage)
    bob = stage.remote.user("bob")
    stage.feed(stage.remote.say(bob, "one"))
    stage.feed(stage.remote.topic(stage.creator, "meanwhile"))
    stage.feed(stage.remote.join(stage.remote.user("dora")))
    last = stage.remote.say(bob, "two")
    stage.feed(last)

    complete(stage)
    for _ in range(2):
        assert stage.state() == stage.remote.graph.after[last.event_id]
        assert {tip.event_id for tip in stage.room.tips} == {last.event_id}
        assert stage.room.servers == {"remote.test": 4, "hs.test": 1}
        assert not stage.room.is_partial
        assert stage.do(stage.rooms.partial_rooms.list_rooms()) == []
        more = stage.remote.say(bob, "three")
        assert stage.feed(more) == [Outcome.ACCEPTED]
        last = more
        stage.restart()


def test_what_the_whole_state_refuses_is_refused_afterwards(stage: RemoteStage) -> None:
    bob = stage.remote.user("bob")
    before = stage.remote.graph.resolve(
        [stage.remote.graph.after[i] for i in stage.remote.graph.tips()]
    )
    stage.remote.member(stage.creator, "ban", bob)
    event = join(stage)
    evil = stage.remote.make(
        "m.room.message", bob, {"body": "still here"},
        auth=[before[s] for s in _cited(stage, bob) if s in before],
    )  # fmt: skip
    assert stage.feed(evil) == [Outcome.ACCEPTED]

    complete(stage)
    assert {tip.event_id for tip in stage.room.tips} == {event.event_id}
    assert stage.state() == stage.remote.graph.after[event.event_id]
    assert evil.event_id not in stage.messages()


def _cited(stage: RemoteStage, user: str) -> list[tuple[str, str]]:
    always = [("m.room.power_levels", ""), ("m.room.member", user)]
    if not stage.remote.version.room_id_is_create_hash:
        always.insert(0, ("m.room.create", ""))
    return always


def test_attack_5_to_what_was_before_the_refused_one_way_back_is_gone(stage: RemoteStage) -> None:
    """With each further pair, which both name both of the last, the ways are twice as many."""
    bob = stage.remote.user("bob")
    cited = stage.remote.make("m.room.message", bob, {"body": "hello"}).auth_events
    stage.remote.member(stage.creator, "ban", bob)
    event = join(stage)
    last = [event.event_id]
    for number in range(40):
        pair = [
            stage.remote.make(
                "m.room.message", bob, {"body": f"{side}{number}"}, prev=last, auth=cited
            )
            for side in "ab"
        ]
        assert stage.feed(*pair) == [Outcome.ACCEPTED, Outcome.ACCEPTED]
        last = [one.event_id for one in pair]

    complete(stage)

    assert {tip.event_id for tip in stage.room.tips} == {event.event_id}


def test_attack_6_a_room_that_never_rests_gets_its_members(
    stage: RemoteStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(stage)
    bob = stage.remote.user("bob")
    database = stage.homeserver.database
    read = database.read
    fed: list[tuple[Event, Deferred[Outcome]]] = []

    def read_late(function: Any, *args: Any, **options: Any) -> Any:
        found = read(function, *args, **options)
        if function is partial_state.list_placed_from:
            said = stage.remote.say(bob, f"and {len(fed)}")
            receiving = stage.rooms.inbound.receive(stage.remote, stage.room_id, said.pdu)
            fed.append((said, Deferred.fromCoroutine(receiving)))
        return found

    monkeypatch.setattr(database, "read", read_late)
    complete(stage)

    assert not stage.room.is_partial
    assert len(fed) == 4  # one was too early, the others had to wait
    assert [result_of(outcome) for _, outcome in fed] == [Outcome.ACCEPTED] * 4
    assert stage.messages()[-4:] == [said.event_id for said, _ in fed]


def test_attack_4_an_event_that_was_known_before_its_place_takes_no_members_along(
    stage: RemoteStage,
) -> None:
    """An event that cites it comes first."""
    event = join(stage)
    known = stage.remote.send(
        "m.room.power_levels", stage.creator, {"events_default": 0}, state_key=""
    )
    stranger = stage.remote.user("stranger")
    citing = stage.remote.make(
        "m.room.message", stranger, {}, prev=[event.event_id], auth=[known.event_id]
    )
    assert stage.feed(citing, known) == [Outcome.REJECTED, Outcome.ACCEPTED]
    last = stage.remote.say(stage.remote.user("bob"), "upon it")
    assert stage.feed(last) == [Outcome.ACCEPTED]

    complete(stage)

    assert stage.state() == stage.remote.graph.after[last.event_id]
    stage.restart()
    assert stage.state() == stage.remote.graph.after[last.event_id]


def test_attack_4_what_was_judged_before_the_members_came_is_judged_again(
    stage: RemoteStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = join(stage)
    assert stage.feed(stage.remote.say(stage.creator, "first")) == [Outcome.ACCEPTED]
    aside = stage.remote.topic(stage.creator, "aside", prev=[event.event_id])
    read = stage.homeserver.database.read
    asked = count(1)
    waiting: Deferred[None] = Deferred()

    def read_late(function: Any, *args: Any, **options: Any) -> Any:
        found = read(function, *args, **options)
        if function is event_graph.list_waiting_children and next(asked) == 2:
            return waiting.addCallback(lambda _: found)
        return found

    monkeypatch.setattr(stage.homeserver.database, "read", read_late)
    receiving = stage.rooms.inbound.receive(stage.remote, stage.room_id, aside.pdu)
    received = Deferred.fromCoroutine(receiving)
    complete(stage)
    assert not received.called
    waiting.callback(None)

    assert result_of(received) is Outcome.ACCEPTED
    served = stage.do(stage.rooms.served.state_ids_before(stage.room_id, aside.event_id))
    assert set(served.state) == set(stage.remote.graph.before[aside.event_id].values())


@pytest.mark.parametrize("is_refused", [False, True])
def test_attack_5_more_bytes_than_memory_has_since_the_join_keep_no_members_away(
    homeserver: Homeserver, monkeypatch: pytest.MonkeyPatch, is_refused: bool
) -> None:
    stage = RemoteStage(homeserver, "11")
    bob = stage.remote.user("bob")
    stage.remote.join(bob)
    cited = stage.remote.make("m.room.message", bob, {"body": "hello"}).auth_events
    if is_refused:
        stage.remote.member(stage.creator, "ban", bob)
    last = event = join(stage)
    monkeypatch.setattr(engine_graph, "_MAX_BYTES", 2**20)
    monkeypatch.setattr(recalculation, "_EVENTS_AT_ONCE", 10)
    monkeypatch.setattr(recalculation, "_KEPT_BYTES", 2**19)
    for _ in range(50):
        last = stage.remote.make(
            "m.room.message", bob, {"body": "x" * 50_000}, prev=[last.event_id], auth=cited
        )
        assert stage.feed(last) == [Outcome.ACCEPTED]

    complete(stage)

    assert stage.state() == stage.remote.graph.after[event.event_id]
    tip = event if is_refused else last
    assert {one.event_id for one in stage.room.tips} == {tip.event_id}


def test_attack_5_others_have_their_turn_while_many_states_are_computed(
    stage: RemoteStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(stage)
    bob = stage.remote.user("bob")
    for number in range(3):
        stage.feed(stage.remote.say(bob, str(number)))
    ticks = count()
    monkeypatch.setattr(stage.homeserver.reactor, "seconds", lambda: next(ticks) * 0.03)

    completing = Deferred.fromCoroutine(stage.rooms.partial.complete(stage.room_id, stage.remote))
    assert not completing.called
    stage.homeserver.reactor.advance(0)

    assert completing.called
    assert not stage.room.is_partial


def peak_of_completing(stage: RemoteStage, forks: int) -> int:
    """Return the bytes that it takes where so many states are side by side after the join."""
    remote = stage.remote
    for number in range(250):
        remote.join(remote.user(f"member-{number}"))
    event = join(stage)
    cited = remote.join(remote.user("member-0")).auth_events
    for number in range(forks):
        named = remote.make(
            "m.room.member",
            remote.user("member-0"),
            {"membership": "join", "displayname": f"{number}"},
            state_key=remote.user("member-0"),
            prev=[event.event_id],
            auth=cited,
        )
        assert stage.feed(named) == [Outcome.ACCEPTED]
    tracemalloc.start()
    complete(stage)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_attack_5_states_that_nobody_builds_on_are_not_kept(homeserver: Homeserver) -> None:
    stage = RemoteStage(homeserver, "11")
    few = peak_of_completing(stage, 20)
    stage.remote = begin_room("12")

    many = peak_of_completing(stage, 320)

    assert many < 1.3 * few


def test_what_was_said_on_both_sides_at_once_is_judged_by_the_whole_state(
    stage: RemoteStage,
) -> None:
    """Of what is said here the graph in memory knows nothing."""
    event = join(stage)
    ours = stage.alice.send(stage.room_id, "just come")
    theirs = stage.remote.say(stage.creator, "welcome", prev=[event.event_id])
    assert stage.feed(theirs) == [Outcome.ACCEPTED]

    complete(stage)

    assert {tip.event_id for tip in stage.room.tips} == {ours, theirs.event_id}
    assert stage.state() == stage.remote.graph.after[event.event_id]
    assert stage.messages()[-2:] == [ours, theirs.event_id]


def test_what_is_refused_beside_what_is_not_leaves_the_extremity_that_is_not(
    stage: RemoteStage,
) -> None:
    """Both build on the join, which would become an extremity in the place of the refused one."""
    bob = stage.remote.user("bob")
    cited = stage.remote.make("m.room.message", bob, {"body": "hello"}).auth_events
    stage.remote.member(stage.creator, "ban", bob)
    event = join(stage)
    refused = stage.remote.make(
        "m.room.message", bob, {"body": "still here"}, prev=[event.event_id], auth=cited
    )
    theirs = stage.remote.say(stage.creator, "welcome", prev=[event.event_id])
    assert stage.feed(refused, theirs) == [Outcome.ACCEPTED, Outcome.ACCEPTED]

    complete(stage)

    assert not stage.room.is_partial
    assert stage.state() == stage.remote.graph.after[event.event_id]
    assert refused.event_id not in stage.messages()
    assert theirs.event_id in {tip.event_id for tip in stage.room.tips}


def test_a_partial_room_is_still_one_after_a_restart(stage: RemoteStage) -> None:
    event = join(stage)

    stage.restart()
    assert stage.room.is_partial
    (found,) = stage.do(stage.rooms.partial_rooms.list_rooms())
    assert (found.room_id, found.join_id, found.servers) == (
        stage.room_id,
        event.event_id,
        SERVERS,
    )
    assert stage.room.list_servers() == {"remote.test", "third.test", "hs.test"}
    complete(stage)
    assert stage.state() == stage.remote.graph.after[event.event_id]


def test_who_waits_for_the_members_is_told_or_sent_away(stage: RemoteStage) -> None:
    join(stage)
    told: list[Any] = []
    first = Deferred.fromCoroutine(stage.rooms.partial_rooms.wait(stage.room_id))
    first.addBoth(told.append)
    stage.homeserver.advance(19)
    assert told == []
    stage.homeserver.advance(2)
    assert told[0].check(ServiceUnavailable)

    second = Deferred.fromCoroutine(stage.rooms.partial_rooms.wait(stage.room_id))
    second.addBoth(told.append)
    complete(stage)
    assert told[1:] == [None]


def test_a_server_that_does_not_answer_changes_nothing(stage: RemoteStage) -> None:
    event = join(stage)
    stage.remote.is_silent = True

    with pytest.raises(RemoteFailure):
        complete(stage)
    stage.remote.is_silent = False
    complete(stage)
    assert stage.state() == stage.remote.graph.after[event.event_id]


@pytest.mark.parametrize("statement", range(1, 50, 2))
def test_whatever_fails_it_is_complete_or_not(homeserver: Homeserver, statement: int) -> None:
    stage = RemoteStage(homeserver)
    bob = stage.remote.user("bob")
    stage.remote.join(bob)
    join(stage)
    stage.feed(stage.remote.topic(stage.creator, "meanwhile"))
    last = stage.remote.say(bob, "two")
    stage.feed(last)
    homeserver.database.fail_at = statement

    try:
        complete(stage)
        assert statement > 1, "the first one fails"
    except DatabaseUnavailable:
        homeserver.database.fail_at = None
        assert stage.room.is_partial
        stage.restart()
        complete(stage)
    homeserver.database.fail_at = None
    stage.restart()
    assert stage.state() == stage.remote.graph.after[last.event_id]
    assert not stage.room.is_partial


@pytest.mark.parametrize("path", ["members", "joined_members", "state"])
def test_who_asks_for_all_members_is_sent_away_if_they_do_not_come(
    homeserver: Homeserver, path: str
) -> None:
    stage = RemoteStage(homeserver)
    join(stage)
    pending = stage.alice.start_request("GET", f"/rooms/{quote(stage.room_id)}/{path}")
    assert not pending.answered

    homeserver.advance(21)
    reply = pending.reply()
    assert reply.status == 503
    assert reply.headers.hasHeader("Retry-After")
