"""Events whose server takes its time to answer: they step aside, and are taken in all the same."""

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from homeserver.core.events import Event
from homeserver.core.identifiers import EventID, RoomID
from homeserver.core.json_types import JsonObject
from homeserver.engine.event_placing import Outcome
from homeserver.engine.remote_server import StateIDs, StatePDUs
from homeserver.storage.events import AFTER_GAP, OUTLIER
from tests.homeserver import Homeserver
from tests.inbound_stage import Stage
from tests.results import result_of
from tests.simulated_server import SimulatedServer


class LateServer(SimulatedServer):
    """Answers some questions when it is let."""

    def __init__(self, stage: Stage, name: str, *late: str) -> None:
        super().__init__(name, stage.version, stage.room_id)
        stage.share(self)
        self.late = late
        self.waiting: list[Deferred[None]] = []

    async def _turn(self, operation: str) -> None:
        if operation in self.late:
            turn: Deferred[None] = Deferred()
            self.waiting.append(turn)
            await turn

    async def get_missing_events(self, room_id: RoomID, **more: Any) -> Sequence[JsonObject]:
        await self._turn("get_missing_events")
        return await super().get_missing_events(room_id, **more)

    async def get_state_ids(self, room_id: RoomID, event_id: EventID) -> StateIDs:
        await self._turn("get_state_ids")
        return await super().get_state_ids(room_id, event_id)

    async def get_event(self, event_id: EventID) -> JsonObject:
        await self._turn("get_event")
        return await super().get_event(event_id)

    def let(self) -> None:
        self.late = ()
        while self.waiting:
            self.waiting.pop(0).callback(None)

    def prompt(self) -> SimulatedServer:
        """Another server that knows and hides the same, and answers at once."""
        other = SimulatedServer("prompt.test", self.version, self.room_id)
        other.graph, other.hidden = self.graph, self.hidden
        return other


@pytest.fixture
def stage(homeserver: Homeserver) -> Stage:
    return Stage(homeserver)


def receive(stage: Stage, source: SimulatedServer, *events: Event) -> list[Any]:
    """Begin to take in events; what is returned is filled once all have an answer."""
    answers: list[Any] = []
    receiving = stage.inbound.receive_all(source, stage.room_id, [event.pdu for event in events])
    Deferred.fromCoroutine(receiving).addBoth(answers.append)
    return answers


def test_events_that_have_stepped_aside_are_taken_in_once_their_server_answers(
    stage: Stage,
) -> None:
    late = LateServer(stage, "late.test", "get_missing_events")
    user = late.user("bob")
    sent = [late.join(user), *(late.say(user, f"{n}") for n in range(3))]

    answers = receive(stage, late, *sent[2:])

    assert answers == []
    late.let()
    assert answers == [[Outcome.ACCEPTED, Outcome.ACCEPTED]]
    assert [i for i in stage.messages() if i in {e.event_id for e in sent}] == [
        event.event_id for event in sent
    ]


def test_others_are_taken_in_meanwhile_and_each_keeps_its_order(stage: Stage) -> None:
    servers = [LateServer(stage, f"late{n}.test", "get_missing_events") for n in range(3)]
    answers = []
    for server in servers:
        server.join(server.user("bob"))
        last = server.say(server.user("bob"), "last")
        answers.append(receive(stage, server, last))
    prompt = stage.server("prompt.test")

    assert stage.feed(prompt.join(prompt.user("eve")), source=prompt) == [Outcome.ACCEPTED]

    for server, answer in zip(servers[::-1], answers[::-1], strict=True):
        assert answer == []
        server.let()
        assert answer == [[Outcome.ACCEPTED]]
        assert stage.room.membership_of(server.user("bob")) == "join"


def test_who_waits_for_a_server_is_told_when_this_one_stops(stage: Stage) -> None:
    late = LateServer(stage, "late.test", "get_missing_events")
    late.join(late.user("bob"))
    answers = receive(stage, late, late.say(late.user("bob"), "last"))

    stage.homeserver.server.background.stop()

    assert [failure.type for failure in answers] == [CancelledError]


def backfill(stage: Stage, source: SimulatedServer, *events: Event) -> list[Any]:
    counts: list[Any] = []
    pdus = [event.pdu for event in events]
    taking_in = stage.rooms.backfill.take_in(stage.room_id, source, pdus)
    Deferred.fromCoroutine(taking_in).addBoth(counts.append)
    return counts


def test_history_that_comes_as_news_while_it_is_asked_about_is_news(stage: Stage) -> None:
    late = LateServer(stage, "late.test", "get_state_ids")
    user = late.user("bob")
    late.join(user)
    late.hidden.add(late.say(user, "nobody gives it out").event_id)
    event = late.say(user, "hello")
    token, _ = stage.synced()
    counts = backfill(stage, late, event)

    assert stage.feed(event, source=late.prompt()) == [Outcome.ACCEPTED]
    late.let()

    assert counts == [0]
    assert stage.flags(event) == AFTER_GAP
    stage.restart()
    assert event.event_id in stage.synced(token)[1]
    assert stage.messages().count(event.event_id) == 1


def test_a_parent_that_comes_while_the_state_after_it_is_asked_for_is_not_missing(
    stage: Stage,
) -> None:
    late = LateServer(stage, "late.test", "get_state_ids")
    user = late.user("bob")
    assert stage.feed(late.join(user), source=late) == [Outcome.ACCEPTED]
    parent = late.say(user, "parent")
    child = late.say(user, "child")
    counts = backfill(stage, late, child)
    assert len(late.waiting) == 1

    assert stage.feed(parent, source=late.prompt()) == [Outcome.ACCEPTED]
    late.let()

    assert counts == [1]
    gaps = Deferred.fromCoroutine(stage.rooms.backfill.list_gaps(stage.room_id))
    assert result_of(gaps) == []


def test_what_authorizes_events_may_come_by_two_ways_at_once(stage: Stage) -> None:
    """Neither is stored twice, which the database would refuse together with all else."""
    late = LateServer(stage, "late.test", "get_event")
    users = [late.user(name) for name in ("bob", "carol")]
    joins = [late.join(user) for user in users]
    hidden = late.say(users[0], "nobody gives it out").event_id
    late.hidden.add(hidden)
    first, second = (late.say(user, "hello", prev=[hidden]) for user in users)
    counts = backfill(stage, late, first)
    assert late.waiting

    assert stage.feed(second, source=late.prompt()) == [Outcome.ACCEPTED]
    assert [stage.flags(join) for join in joins] == [OUTLIER, OUTLIER]
    room = stage.room
    late.let()

    assert counts == [1]
    assert stage.room is room


class TalkativeServer(SimulatedServer):
    """Gives much that is no event, and nothing of what it says the state is."""

    async def get_state_ids(self, room_id: RoomID, event_id: EventID) -> StateIDs:
        del room_id, event_id
        return StateIDs([EventID("$" + f"{n:042}A") for n in range(90)], [])

    async def get_state(self, room_id: RoomID, event_id: EventID) -> StatePDUs:
        del room_id, event_id
        return StatePDUs([{}] * 5_000, [])


def test_attack_5_what_a_server_says_is_not_gone_through_for_each_question(stage: Stage) -> None:
    talker = TalkativeServer("talker.test", stage.version, stage.room_id)
    stage.share(talker)
    user = talker.user("bob")
    assert stage.feed(talker.join(user)) == [Outcome.ACCEPTED]
    talker.hidden.add(talker.say(user, "nobody gives it out").event_id)

    (answers,) = receive(stage, talker, talker.say(user, "hello"))

    assert answers == [Outcome.REJECTED]
    assert 3 < talker.requests.count("get_event") < 10


def test_attack_6_what_hangs_on_events_that_nobody_gives_does_not_fill_the_line(
    stage: Stage,
) -> None:
    late = LateServer(stage, "late.test", "get_missing_events")
    user = late.user("bob")
    join = late.join(user)
    assert stage.feed(join, source=late) == [Outcome.ACCEPTED]
    auth = late.make("m.room.message", user).auth_events
    nowhere = [EventID("$" + "A" * 43)]
    hanging = [
        late.make("m.room.message", user, {"n": n}, prev=nowhere, auth=auth, depth=9)
        for n in range(1_000)
    ]
    answers = [receive(stage, late, *hanging[n : n + 50]) for n in range(0, 1_000, 50)]
    prompt = stage.server("prompt.test")

    assert stage.feed(prompt.join(prompt.user("eve")), source=prompt) == [Outcome.ACCEPTED]

    assert answers == [[]] * 20
    stage.homeserver.server.background.stop()
    assert all(answers)


def test_attack_5_what_others_said_is_kept_until_an_event_is_decided_and_no_longer(
    stage: Stage,
) -> None:
    late = LateServer(stage, "late.test", "get_event")
    join = late.join(late.user("bob"))
    hidden = late.say(join.sender, "nobody gives it out").event_id
    late.hidden.add(hidden)
    first = late.say(join.sender, "hello", prev=[hidden])
    answers = receive(stage, late, first, late.say(join.sender, "next", prev=[first.event_id]))
    assert late.waiting
    assert stage.inbound.kept.bytes_kept

    late.let()

    assert answers == [[Outcome.ACCEPTED] * 2]
    assert stage.inbound.kept.bytes_kept == 0


def test_attack_5_what_was_said_of_an_event_that_waits_may_be_lost_and_is_asked_again(
    stage: Stage,
) -> None:
    late = LateServer(stage, "late.test", "get_event")
    join = late.join(late.user("bob"))
    hidden = late.say(join.sender, "nobody gives it out").event_id
    late.hidden.add(hidden)
    answers = receive(stage, late, late.say(join.sender, "hello", prev=[hidden]))
    assert late.requests.count("get_state_ids") == 1
    kept = stage.inbound.kept

    kept.let_go(kept.keep(stage.room_id, bytes(kept.max_bytes)))
    assert kept.bytes_kept == 0
    late.let()

    assert answers == [[Outcome.ACCEPTED]]
    assert late.requests.count("get_state_ids") == 2


def test_attack_5_nothing_is_kept_for_events_that_are_given_up(stage: Stage) -> None:
    late = LateServer(stage, "late.test", "get_event")
    join = late.join(late.user("bob"))
    hidden = late.say(join.sender, "nobody gives it out").event_id
    late.hidden.add(hidden)
    answers = receive(stage, late, late.say(join.sender, "hello", prev=[hidden]))

    stage.homeserver.server.background.stop()

    assert answers
    assert stage.inbound.kept.bytes_kept == 0
