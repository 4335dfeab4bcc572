"""Writes to a stream: visible when answered, and not lost when nobody waits."""

from collections.abc import Awaitable

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock as FakeReactor
from twisted.python.failure import Failure

from homeserver.background import Background
from homeserver.clock import Clock
from homeserver.engine.stream_writer import StreamWriter
from homeserver.engine.streams import Stream
from homeserver.randomness import Randomness


class Desk:
    """A stream whose transactions end when the test says so."""

    def __init__(self) -> None:
        self.stream = Stream("test")
        self.background = Background(Clock(FakeReactor()), Randomness())
        self.writer = StreamWriter(self.stream, self.background)
        self.told: list[str] = []

    def write(self) -> tuple[Deferred[str], Deferred[str]]:
        """Return (the transaction, what the caller waits for)."""
        transaction: Deferred[str] = Deferred()

        async def then(result: str) -> None:
            self.told.append(result)

        def begin(_position: int) -> Awaitable[str]:
            return transaction

        waiting = Deferred.fromCoroutine(self.writer.write(begin, then))
        waiting.addErrback(self._failed)
        return transaction, waiting

    def _failed(self, failure: Failure) -> str:
        failure.trap(CancelledError, ConnectionError)
        return type(failure.value).__name__


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_result_is_returned_and_told_after_the_position_is_visible(desk: Desk) -> None:
    transaction, waiting = desk.write()
    assert (desk.stream.current, waiting.called) == (0, False)

    transaction.callback("one")

    assert (desk.stream.current, waiting.result, desk.told) == (1, "one", ["one"])


def test_write_is_not_answered_before_an_earlier_one_has_ended(desk: Desk) -> None:
    first, first_waiting = desk.write()
    second, second_waiting = desk.write()

    second.callback("second")
    assert (desk.stream.current, second_waiting.called, desk.told) == (0, False, [])

    first.callback("first")
    assert (desk.stream.current, first_waiting.result) == (2, "first")
    assert (second_waiting.result, sorted(desk.told)) == ("second", ["first", "second"])


def test_failed_write_raises_and_lets_later_ones_be_seen(desk: Desk) -> None:
    first, first_waiting = desk.write()
    second, second_waiting = desk.write()
    second.callback("second")

    first.errback(ConnectionError("cut"))

    assert first_waiting.result == "ConnectionError"
    assert (second_waiting.result, desk.told, desk.stream.current) == ("second", ["second"], 2)


def test_attack_12_position_is_held_until_the_transaction_of_a_gone_client_ends(
    desk: Desk,
) -> None:
    transaction, waiting = desk.write()

    waiting.cancel()
    assert (waiting.result, desk.stream.current) == ("CancelledError", 0)

    transaction.callback("one")
    assert (desk.stream.current, desk.told) == (1, ["one"])


def test_shutdown_leaves_nobody_waiting(desk: Desk) -> None:
    _, under_way = desk.write()

    desk.background.stop()
    _, too_late = desk.write()

    assert (under_way.result, too_late.result) == ("CancelledError", "CancelledError")
