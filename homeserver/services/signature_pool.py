"""Checking many signatures: a few at once in the reactor, more of them in threads.

An Ed25519 check takes about 40 µs of a core, and libsodium lets other threads run meanwhile. What
is asked for in one turn of the reactor is collected; a short list is checked at its end, a long one
goes to the threads in pieces. Invariant: a check that was asked for is answered exactly once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.clock import Clock
from homeserver.core.errors import SignatureInvalid
from homeserver.core.events import Event, check_event_signature
from homeserver.core.identifiers import ServerName
from homeserver.services.passwords import Threads

_AT_ONCE = 8
"""So many are checked in the reactor."""
_PIECE = 100
"""So many go to a thread together."""


@dataclass(eq=False, slots=True)
class _Check:
    event: Event
    server: ServerName
    key_id: str
    public_key: str
    answer: Deferred[None] = field(default_factory=Deferred)

    def run(self) -> SignatureInvalid | None:
        try:
            check_event_signature(self.event, self.server, self.key_id, self.public_key)
        except SignatureInvalid as error:
            return error
        return None


class SignaturePool:
    def __init__(self, clock: Clock, threads: Threads) -> None:
        self._clock = clock
        self._threads = threads
        self._waiting: list[_Check] = []

    def verify_event(
        self, event: Event, server: ServerName, key_id: str, public_key: str
    ) -> Deferred[None]:
        """Fail with SignatureInvalid unless the server has signed the event with this key."""
        check = _Check(event, server, key_id, public_key)
        self._waiting.append(check)
        if len(self._waiting) == 1:
            self._clock.call_later(0, self._check_waiting)
        return check.answer

    def _check_waiting(self) -> None:
        checks, self._waiting = self._waiting, []
        if len(checks) <= _AT_ONCE:
            _answer(checks, _run(checks))
            return
        for start in range(0, len(checks), _PIECE):
            piece = checks[start : start + _PIECE]
            self._in_thread(piece)

    def _in_thread(self, checks: Sequence[_Check]) -> None:
        def failed(failure: Failure) -> None:
            for check in checks:
                if not check.answer.called:
                    check.answer.errback(failure)

        running = self._threads.call(_run, checks)
        running.addCallback(lambda outcomes: _answer(checks, outcomes))
        running.addErrback(failed)


def _run(checks: Sequence[_Check]) -> list[SignatureInvalid | None]:
    return [check.run() for check in checks]


def _answer(checks: Sequence[_Check], outcomes: Sequence[SignatureInvalid | None]) -> None:
    for check, outcome in zip(checks, outcomes, strict=True):
        if check.answer.called:  # cancelled
            continue
        if outcome is None:
            check.answer.callback(None)
        else:
            check.answer.errback(outcome)
