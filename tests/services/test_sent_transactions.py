"""A repeated transaction answers the first, whatever else the device does meanwhile."""

from collections.abc import Awaitable, Callable

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import MemoryReactorClock

from homeserver.clock import Clock
from homeserver.core.identifiers import DeviceID, EventID, UserID
from homeserver.engine import sent_transactions
from homeserver.engine.sent_transactions import SentTransactions
from tests.database import InlineDatabase
from tests.results import result_of

DEVICE = (UserID("@alice:hs.test"), DeviceID("PHONE"))


@pytest.fixture
def sent(database: InlineDatabase) -> SentTransactions:
    return SentTransactions(database, Clock(MemoryReactorClock()))


def once(
    sent: SentTransactions,
    txn_id: str,
    send: Callable[[], Awaitable[EventID]],
    device: tuple[UserID, DeviceID] = DEVICE,
) -> Deferred[EventID]:
    return Deferred.fromCoroutine(sent.once(device, (1, txn_id), send))


def answering(event_id: str) -> Callable[[], Awaitable[EventID]]:
    return lambda: succeed(EventID(event_id))


def failing() -> Awaitable[EventID]:
    raise ConnectionError


def test_a_transaction_that_ends_after_another_has_failed_is_remembered(
    sent: SentTransactions,
) -> None:
    slow: Deferred[EventID] = Deferred()
    first = once(sent, "slow", lambda: slow)
    failed = once(sent, "failed", failing)
    failed.addErrback(lambda failure: failure.trap(ConnectionError) and None)
    assert result_of(once(sent, "other", answering("$other"))) == "$other"

    slow.callback(EventID("$slow"))

    assert result_of(first) == "$slow"
    assert result_of(once(sent, "slow", answering("$again"))) == "$slow"


def test_devices_that_are_idle_are_forgotten_and_those_that_send_are_not(
    sent: SentTransactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent_transactions, "_MAX_IN_ALL", 3)
    tablet = (DEVICE[0], DeviceID("TABLET"))
    result_of(once(sent, "idle", answering("$idle"), tablet))
    slow: Deferred[EventID] = Deferred()
    first = once(sent, "slow", lambda: slow)
    for number in range(10):
        result_of(once(sent, f"{number}", answering(f"${number}")))

    result_of(once(sent, "more", answering("$more"), (DEVICE[0], DeviceID("WATCH"))))
    slow.callback(EventID("$slow"))

    assert result_of(first) == "$slow"
    assert result_of(once(sent, "slow", answering("$again"))) == "$slow"
    assert result_of(once(sent, "idle", answering("$unknown"), tablet)) == "$unknown", (
        "never stored here"
    )


def test_devices_that_are_idle_are_forgotten_though_no_other_comes(
    sent: SentTransactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent_transactions, "_MAX_IN_ALL", 3)
    tablet = (DEVICE[0], DeviceID("TABLET"))
    for device in (tablet, DEVICE):
        result_of(once(sent, "first", answering("$first"), device))

    for number in range(3):
        result_of(once(sent, f"{number}", answering(f"${number}")))

    assert result_of(once(sent, "first", answering("$again"))) == "$first"
    assert result_of(once(sent, "first", answering("$unknown"), tablet)) == "$unknown"


def test_a_transaction_that_has_failed_is_tried_again(sent: SentTransactions) -> None:
    failed = once(sent, "failed", failing)
    failed.addErrback(lambda failure: failure.trap(ConnectionError) and None)

    assert result_of(once(sent, "failed", answering("$done"))) == "$done"
    assert result_of(once(sent, "failed", answering("$again"))) == "$done"


def test_a_repetition_waits_for_the_first_and_tries_itself_when_that_fails(
    sent: SentTransactions,
) -> None:
    slow: Deferred[EventID] = Deferred()
    first = once(sent, "slow", lambda: slow)
    second = once(sent, "slow", answering("$second"))
    assert not second.called

    slow.errback(ConnectionError())
    first.addErrback(lambda failure: failure.trap(ConnectionError) and None)

    assert result_of(second) == "$second"
