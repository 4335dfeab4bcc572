"""Addresses of host names, asked of the operating system in threads of their own.

Nobody can end a look-up that hangs, and anybody can make us look up names of his. Invariants: who
waits is let go after a while, whatever the name does; a name is looked up once at a time; names of
one domain take a small share of the threads, and names that were never found leave some of them to
those that were. Whether an address may be called is decided when it is connected to, each time.
"""

import socket
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import IReactorTime

WAIT_SECONDS = 10.0
AT_ONCE = 32
NEW_AT_ONCE = 24
"""Of them, for names that were not found the last time."""
DOMAIN_AT_ONCE = 4
"""Of these, for names that end in the same two labels."""
MAX_WAITING = 1_000
"""Names that wait for a thread."""
MAX_WAITING_OF_DOMAIN = 100
FOUND_SECONDS = 60.0
NOT_FOUND_SECONDS = 10.0
_MAX_KNOWN = 20_000
_MAX_ADDRESSES = 20
"""Of one name; there can be thousands."""

Find = Callable[[str], "Deferred[list[str]]"]
"""From a name to its addresses; takes as long as it likes, never fails, and not at once."""


@dataclass(frozen=True, slots=True)
class _Known:
    addresses: Sequence[str]
    until: float


class NameLookups:
    def __init__(self, reactor: IReactorTime, find: Find) -> None:
        self._reactor = reactor
        self._find = find
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._waiters: dict[str, list[Deferred[Sequence[str]]]] = {}
        """Of each name that is looked up, or waits for that."""
        self._queue: dict[str, None] = {}
        """Names that wait, in order."""
        self._queued: Counter[str] = Counter()
        self._running = 0
        self._running_new: Counter[str] = Counter()
        """By domain."""

    async def find(self, host: str) -> Sequence[str]:
        """Return the addresses of a name. Raises DNSLookupError, also when it takes too long."""
        known = self._known.get(host)
        if known is None or known.until <= self._reactor.seconds():
            waiter: Deferred[Sequence[str]] = Deferred()
            self._wait(host, waiter)
            try:
                addresses = await waiter.addTimeout(WAIT_SECONDS, self._reactor)
            except TimedOut as error:
                raise DNSLookupError(f"the look-up of {host} takes too long") from error
        else:
            addresses = known.addresses
        if not addresses:
            raise DNSLookupError(f"{host} has no address")
        return addresses

    def forget(self, host: str) -> None:
        """Look a name up again the next time: nobody answers where it led."""
        known = self._known.get(host)
        if known is not None:
            self._known[host] = _Known(known.addresses, 0.0)

    def _wait(self, host: str, waiter: Deferred[Sequence[str]]) -> None:
        waiters = self._waiters.get(host)
        if waiters is not None:
            waiters.append(waiter)
        elif self._may_start(host):
            self._waiters[host] = [waiter]
            self._start(host)
        else:
            domain = _domain_of(host)
            is_too_much = self._queued[domain] >= MAX_WAITING_OF_DOMAIN and not self._is_found(host)
            if is_too_much or len(self._queue) >= MAX_WAITING:
                raise DNSLookupError(f"too many names are being looked up to ask for {host}")
            self._waiters[host] = [waiter]
            self._queue[host] = None
            self._queued[domain] += 1

    def _is_found(self, host: str) -> bool:
        known = self._known.get(host)
        return known is not None and bool(known.addresses)

    def _may_start(self, host: str) -> bool:
        if self._running >= AT_ONCE:
            return False
        return self._is_found(host) or (
            self._running_new.total() < NEW_AT_ONCE
            and self._running_new[_domain_of(host)] < DOMAIN_AT_ONCE
        )

    def _start(self, host: str) -> None:
        is_new = not self._is_found(host)
        self._running += 1
        if is_new:
            self._running_new[_domain_of(host)] += 1
        self._find(host).addCallback(self._ended, host, is_new=is_new)

    def _ended(self, addresses: Sequence[str], host: str, *, is_new: bool) -> None:
        self._running -= 1
        if is_new:
            _count_down(self._running_new, _domain_of(host))
        lasts = FOUND_SECONDS if addresses else NOT_FOUND_SECONDS
        self._known[host] = _Known(addresses[:_MAX_ADDRESSES], self._reactor.seconds() + lasts)
        self._known.move_to_end(host)
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        for waiter in self._waiters.pop(host):
            if not waiter.called:
                waiter.callback(addresses)
        self._start_waiting()

    def _start_waiting(self) -> None:
        for host in list(self._queue):
            if self._running >= AT_ONCE:
                return
            is_wanted = not all(waiter.called for waiter in self._waiters[host])
            if is_wanted and not self._may_start(host):
                continue
            del self._queue[host]
            _count_down(self._queued, _domain_of(host))
            if is_wanted:
                self._start(host)
            else:
                del self._waiters[host]


def look_up_by(reactor: Any) -> Find:
    """Return a function that asks the operating system.

    Each look-up has a thread of its own, for which the process does not wait when it ends.
    """

    def find(host: str) -> Deferred[list[str]]:
        answer: Deferred[list[str]] = Deferred()

        def run() -> None:
            found = _addresses_of(host)
            with suppress(RuntimeError):  # the reactor has ended
                reactor.callFromThread(answer.callback, found)

        try:
            threading.Thread(target=run, name="name look-up", daemon=True).start()
        except RuntimeError:  # there can be no more threads
            reactor.callLater(0, answer.callback, [])
        return answer

    return find


def _addresses_of(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def _domain_of(host: str) -> str:
    return ".".join(host.lower().rstrip(".").rsplit(".", 2)[-2:])


def _count_down(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
