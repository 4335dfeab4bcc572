"""Look-ups of names: slow ones hold up no others, and answers are kept for a short time."""

from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import DNSLookupError
from twisted.internet.task import Clock as FakeReactor
from twisted.python.failure import Failure

from homeserver.transport.name_lookups import (
    AT_ONCE,
    DOMAIN_AT_ONCE,
    FOUND_SECONDS,
    MAX_WAITING,
    MAX_WAITING_OF_DOMAIN,
    NEW_AT_ONCE,
    NOT_FOUND_SECONDS,
    WAIT_SECONDS,
    NameLookups,
    look_up_by,
)
from tests.transport.sockets import result


class Resolver:
    """Answers when a test says so."""

    def __init__(self) -> None:
        self.time = FakeReactor()
        self.lookups = NameLookups(self.time, self._find)
        self.started: list[str] = []
        self.hanging: dict[str, Deferred[list[str]]] = {}

    def _find(self, host: str) -> Deferred[list[str]]:
        self.started.append(host)
        self.hanging[host] = Deferred()
        return self.hanging[host]

    def ask(self, host: str) -> list[Any]:
        """Ask; what comes of it is put into the list."""
        found: list[Any] = []
        Deferred.fromCoroutine(self.lookups.find(host)).addBoth(found.append)
        return found

    def answer(self, host: str, *addresses: str) -> None:
        self.hanging.pop(host).callback(list(addresses))


@pytest.fixture
def resolver() -> Resolver:
    return Resolver()


def has_failed(found: list[Any]) -> bool:
    return (
        len(found) == 1 and isinstance(found[0], Failure) and bool(found[0].check(DNSLookupError))
    )


def test_attack_5_a_name_that_is_slow_lets_its_callers_go(resolver: Resolver) -> None:
    first, second = resolver.ask("slow.test"), resolver.ask("slow.test")

    resolver.time.advance(WAIT_SECONDS)

    assert has_failed(first)
    assert has_failed(second)
    later = resolver.ask("slow.test")
    assert resolver.started == ["slow.test"]
    resolver.answer("slow.test", "192.0.2.1")
    assert later == [["192.0.2.1"]]


def test_attack_5_slow_names_of_one_domain_hold_up_no_other(resolver: Resolver) -> None:
    for number in range(MAX_WAITING_OF_DOMAIN + 50):
        resolver.ask(f"{number}.evil.test")

    found = resolver.ask("matrix.good.test")

    assert len(resolver.started) == DOMAIN_AT_ONCE + 1
    resolver.answer("matrix.good.test", "192.0.2.1")
    assert found == [["192.0.2.1"]]


def test_attack_5_slow_names_of_many_domains_leave_room_for_names_that_were_found(
    resolver: Resolver,
) -> None:
    resolver.ask("good.test")
    resolver.answer("good.test", "192.0.2.1")
    resolver.time.advance(FOUND_SECONDS)
    for number in range(AT_ONCE):
        resolver.ask(f"evil{number}.test")
    assert len(resolver.hanging) == NEW_AT_ONCE

    found = resolver.ask("good.test")

    resolver.answer("good.test", "192.0.2.2")
    assert found == [["192.0.2.2"]]


def test_attack_5_names_that_wait_are_bounded_and_those_beyond_have_failed_at_once(
    resolver: Resolver,
) -> None:
    for number in range(MAX_WAITING + NEW_AT_ONCE):
        assert not resolver.ask(f"evil{number}.test")

    assert has_failed(resolver.ask("one-more.test"))
    assert len(resolver.started) == NEW_AT_ONCE


def test_a_name_that_nobody_waits_for_any_longer_is_not_looked_up(resolver: Resolver) -> None:
    for number in range(NEW_AT_ONCE + 1):
        resolver.ask(f"evil{number}.test")
    resolver.time.advance(WAIT_SECONDS)
    wanted = resolver.ask("wanted.test")

    resolver.answer("evil0.test")

    assert resolver.started[NEW_AT_ONCE:] == ["wanted.test"]
    resolver.answer("wanted.test", "192.0.2.1")
    assert wanted == [["192.0.2.1"]]


def test_an_answer_is_kept_for_a_short_time(resolver: Resolver) -> None:
    resolver.ask("good.test")
    resolver.answer("good.test", "192.0.2.1", "2001:db8::1")

    assert resolver.ask("good.test") == [["192.0.2.1", "2001:db8::1"]]
    resolver.time.advance(FOUND_SECONDS)
    resolver.ask("good.test")

    assert resolver.started == ["good.test"] * 2


def test_attack_5_of_a_name_with_thousands_of_addresses_a_few_are_kept(resolver: Resolver) -> None:
    resolver.ask("evil.test")
    resolver.answer("evil.test", *(f"2001:db8::{number:x}" for number in range(4_000)))

    ((kept),) = resolver.ask("evil.test")

    assert 4 < len(kept) < 100


def test_that_there_is_no_such_name_is_kept_for_a_shorter_time(resolver: Resolver) -> None:
    first = resolver.ask("gone.test")
    resolver.answer("gone.test")

    assert has_failed(first)
    assert has_failed(resolver.ask("gone.test"))
    resolver.time.advance(NOT_FOUND_SECONDS)
    resolver.ask("gone.test")

    assert resolver.started == ["gone.test"] * 2


def test_a_name_that_led_nowhere_is_looked_up_again(resolver: Resolver) -> None:
    resolver.ask("moved.test")
    resolver.answer("moved.test", "192.0.2.1")
    resolver.lookups.forget("moved.test")

    found = resolver.ask("moved.test")
    resolver.answer("moved.test", "192.0.2.2")

    assert found == [["192.0.2.2"]]


def test_the_operating_system_is_asked_in_a_thread() -> None:
    lookups = NameLookups(_reactor, look_up_by(_reactor))

    assert "127.0.0.1" in result(lookups.find("localhost"))
    for name in ("nobody.invalid", "x" * 64 + ".test"):
        with pytest.raises(DNSLookupError):
            result(lookups.find(name))
