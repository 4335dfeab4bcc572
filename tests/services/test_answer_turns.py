"""Costly answers for other servers: bounded in number, and fair among servers."""

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as FakeReactor

from homeserver.background import Background
from homeserver.clock import Clock
from homeserver.core.identifiers import ServerName
from homeserver.errors import LimitExceeded
from homeserver.randomness import Randomness
from homeserver.services.federation.answer_turns import (
    MAX_WAITING,
    MAX_WAITING_OF_ONE,
    FairTurns,
)


class Answering:
    """Answers that last until a test ends them."""

    def __init__(self) -> None:
        background = Background(Clock(FakeReactor()), Randomness())
        self.turns = FairTurns(background, at_once=3, at_once_of_one=2)
        self.under_way: list[tuple[str, Deferred[None]]] = []

    @property
    def origins(self) -> list[str]:
        return [origin for origin, _ in self.under_way]

    def ask(self, origin: str, *, is_owed: bool = False) -> Deferred[None]:
        async def answer() -> None:
            made: Deferred[None] = Deferred()
            self.under_way.append((origin, made))
            await made

        made = self.turns.make(ServerName(origin), answer, is_owed=is_owed)
        return Deferred.fromCoroutine(made)

    def end_first(self) -> None:
        _, made = self.under_way.pop(0)
        made.callback(None)


@pytest.fixture
def answering() -> Answering:
    return Answering()


def refused(asked: Deferred[None]) -> bool:
    found: list[object] = []
    asked.addErrback(lambda failure: found.append(failure.check(LimitExceeded)))
    return found == [LimitExceeded]


def test_attack_5_one_server_has_a_share_of_the_answers_that_are_made(
    answering: Answering,
) -> None:
    for _ in range(5):
        answering.ask("evil")
    answering.ask("good")

    assert answering.origins == ["evil", "evil", "good"]


def test_attack_5_servers_are_answered_by_turns(answering: Answering) -> None:
    for _ in range(2):
        answering.ask("first")
    answering.ask("second")
    for _ in range(4):
        answering.ask("evil")
    answering.ask("good")
    answering.ask("good")

    order = []
    while answering.under_way:
        answering.end_first()
        order.append(answering.origins[-1] if answering.under_way else "")

    assert order[:6] == ["evil", "good", "evil", "good", "evil", "evil"]


def test_attack_5_who_has_too_much_waiting_is_refused_and_others_are_not(
    answering: Answering,
) -> None:
    asked = [answering.ask("evil") for _ in range(2 + MAX_WAITING_OF_ONE)]

    assert refused(answering.ask("evil"))
    assert not refused(answering.ask("good"))
    assert not any(one.called for one in asked)


def test_attack_5_what_waits_is_bounded_however_many_ask(answering: Answering) -> None:
    asked = [answering.ask(f"evil{number}") for number in range(3 + MAX_WAITING)]

    assert not any(one.called for one in asked)
    assert refused(answering.ask("one more"))


def test_who_hangs_up_leaves_his_place_to_others(answering: Answering) -> None:
    for number in range(3):
        answering.ask(f"first{number}")
    gone = answering.ask("gone")
    answering.ask("next")

    gone.addErrback(lambda _: None)
    gone.cancel()
    answering.end_first()

    assert answering.origins == ["first1", "first2", "next"]


def test_attack_5_who_hangs_up_has_the_turn_until_the_answer_is_made(answering: Answering) -> None:
    """The database does not notice that nobody waits any longer."""
    for _ in range(10):
        asked = answering.ask("evil")
        asked.addErrback(lambda _: None)
        asked.cancel()

    assert answering.origins == ["evil", "evil"]
    next_one = answering.ask("evil")
    answering.end_first()
    answering.end_first()
    assert answering.origins == ["evil"]
    answering.end_first()
    assert next_one.called


def test_attack_5_answers_that_fail_at_once_are_many_and_leave_no_turn_taken(
    answering: Answering,
) -> None:
    """As when the database's queue is full."""

    async def fail() -> None:
        raise LookupError

    for number in range(3):
        answering.ask(f"first{number}")
    asked = [
        Deferred.fromCoroutine(answering.turns.make(ServerName(f"good{number}"), fail))
        for number in range(MAX_WAITING)
    ]
    failed: list[object] = []
    for one in asked:
        one.addErrback(lambda failure: failed.append(failure.check(LookupError)))

    for _ in range(3):
        answering.end_first()

    assert failed == [LookupError] * MAX_WAITING
    for number in range(3):
        answering.ask(f"last{number}")
    assert answering.origins == ["last0", "last1", "last2"]


def test_an_answer_that_is_owed_is_not_refused(answering: Answering) -> None:
    for _ in range(2 + MAX_WAITING_OF_ONE):
        answering.ask("evil")

    asked = answering.ask("evil", is_owed=True)

    assert not refused(asked)
    while answering.under_way:
        answering.end_first()
    assert asked.called
