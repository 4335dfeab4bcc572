"""Costly answers for other servers: bounded in number, and fair among servers."""

import pytest
from twisted.internet.defer import Deferred

from homeserver.core.identifiers import ServerName
from homeserver.errors import LimitExceeded
from homeserver.services.federation.answer_turns import (
    MAX_WAITING,
    MAX_WAITING_OF_ONE,
    FairTurns,
)


class Answering:
    """Answers that last until a test ends them."""

    def __init__(self) -> None:
        self.turns = FairTurns(at_once=3, at_once_of_one=2)
        self.under_way: list[tuple[str, Deferred[None]]] = []

    @property
    def origins(self) -> list[str]:
        return [origin for origin, _ in self.under_way]

    def ask(self, origin: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._answer(origin))

    async def _answer(self, origin: str) -> None:
        async with self.turns.of(ServerName(origin)):
            made: Deferred[None] = Deferred()
            self.under_way.append((origin, made))
            await made

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
    running = [answering.ask(f"first{number}") for number in range(3)]
    gone = answering.ask("gone")
    answering.ask("next")

    gone.addErrback(lambda _: None)
    gone.cancel()
    answering.end_first()

    assert answering.origins == ["first1", "first2", "next"]
    running[1].addErrback(lambda _: None)
    running[1].cancel()  # what is under way, too
    answering.ask("last")
    assert answering.origins == ["first1", "first2", "next", "last"]


def test_an_answer_that_is_owed_is_not_refused(answering: Answering) -> None:
    async def owed() -> None:
        async with answering.turns.of(ServerName("evil"), is_owed=True):
            pass

    for _ in range(2 + MAX_WAITING_OF_ONE):
        answering.ask("evil")

    asked = Deferred.fromCoroutine(owed())

    assert not refused(asked)
    while answering.under_way:
        answering.end_first()
    assert asked.called
