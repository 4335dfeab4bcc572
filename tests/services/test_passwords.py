"""Password hashing: how many at once, and what waits."""

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from homeserver.config import PasswordSection
from homeserver.errors import LimitExceeded
from homeserver.services.passwords import MAX_AT_ONCE, MAX_WAITING, InlineThreads, Passwords

CHEAP = PasswordSection(time_cost=1, memory_kib=8, parallelism=1)


class HeldThreads:
    """Computes nothing until it is let."""

    def __init__(self) -> None:
        self.held: list[tuple[Deferred[Any], Any]] = []

    def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.held.append((answer, lambda: function(*args, **kwargs)))
        return answer

    def finish(self) -> None:
        answer, compute = self.held.pop(0)
        answer.callback(compute())


def start(coroutine: Any) -> tuple[Deferred[Any], list[Any]]:
    results: list[Any] = []
    running = Deferred.fromCoroutine(coroutine)
    running.addBoth(results.append)
    return running, results


def test_hash_is_verified_by_its_password_only() -> None:
    passwords = Passwords(CHEAP, InlineThreads())
    stored = start(passwords.hash("ä secret"))[1][0]

    assert stored.startswith("$argon2id$")
    assert start(passwords.verify(stored, "ä secret"))[1] == [True]
    assert start(passwords.verify(stored, "another"))[1] == [False]
    assert start(passwords.verify("not a hash", "another"))[1] == [False]


def test_no_password_matches_where_there_is_none() -> None:
    passwords = Passwords(CHEAP, InlineThreads())

    for guess in ("", "\0" * 32, "a"):
        assert start(passwords.verify(None, guess))[1] == [False]


def test_hash_of_other_costs_is_outdated() -> None:
    stored = start(Passwords(CHEAP, InlineThreads()).hash("a"))[1][0]
    dearer = PasswordSection(time_cost=2, memory_kib=8, parallelism=1)

    assert not Passwords(CHEAP, InlineThreads()).is_outdated(stored)
    assert Passwords(dearer, InlineThreads()).is_outdated(stored)


def test_few_are_hashed_at_once_and_the_rest_follows_in_order() -> None:
    threads = HeldThreads()
    passwords = Passwords(CHEAP, threads)
    results = [start(passwords.hash(str(n)))[1] for n in range(MAX_AT_ONCE + 2)]
    assert len(threads.held) == MAX_AT_ONCE

    for n in range(MAX_AT_ONCE + 2):
        threads.finish()
        assert len(results[n]) == 1
    assert threads.held == []


def test_one_too_many_is_told_to_wait() -> None:
    passwords = Passwords(CHEAP, HeldThreads())
    for _ in range(MAX_AT_ONCE + MAX_WAITING):
        assert start(passwords.hash("a"))[1] == []

    _, refused = start(passwords.hash("a"))

    assert refused[0].check(LimitExceeded)


def test_place_of_one_who_hung_up_is_free_only_when_the_thread_is() -> None:
    threads = HeldThreads()
    passwords = Passwords(CHEAP, threads)
    running = [start(passwords.hash(str(n))) for n in range(MAX_AT_ONCE + 1)]

    running[0][0].cancel()
    assert running[0][1][0].check(CancelledError)
    assert len(threads.held) == MAX_AT_ONCE
    threads.finish()

    assert len(threads.held) == MAX_AT_ONCE
    for _ in range(MAX_AT_ONCE):
        threads.finish()
    assert running[MAX_AT_ONCE][1][0].startswith("$argon2id$")


def test_failing_computation_gives_its_place_back() -> None:
    threads = HeldThreads()
    passwords = Passwords(CHEAP, threads)
    for _ in range(MAX_AT_ONCE):
        _, results = start(passwords.hash("a"))
        threads.held.pop(0)[0].errback(ValueError("broken"))
        assert results[0].check(ValueError)

    start(passwords.hash("a"))

    assert len(threads.held) == 1
