"""Time, as a parameter: nothing else in the homeserver asks the operating system what time it is.

Two clocks: `now_ms` is the wall clock (may jump; only for timestamps people see), `monotonic`
never goes back (time-outs, limits). Tests give a `twisted.internet.task.Clock` as the reactor.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime

T = TypeVar("T")


class TimedOut(Exception):
    """The awaited thing did not happen in time."""


class Clock:
    def __init__(self, reactor: IReactorTime, wall: Callable[[], float] = time.time) -> None:
        """`wall` gives seconds since the epoch."""
        self._reactor = reactor
        self._wall = wall

    def now_ms(self) -> int:
        return int(self._wall() * 1000)

    def monotonic(self) -> float:
        """Seconds from an arbitrary start."""
        return self._reactor.seconds()

    def call_later(self, seconds: float, call: Callable[[], object]) -> IDelayedCall:
        return self._reactor.callLater(seconds, call)

    def sleep(self, seconds: float) -> Deferred[None]:
        delayed: IDelayedCall

        def cancel(_deferred: Deferred[None]) -> None:
            cancel_call(delayed)

        waiting: Deferred[None] = Deferred(cancel)
        delayed = self._reactor.callLater(seconds, waiting.callback, None)
        return waiting


def cancel_call(call: IDelayedCall | None) -> None:
    """Cancel a delayed call that may have run or been cancelled already."""
    if call is None:
        return
    try:
        call.cancel()
    except (AlreadyCalled, AlreadyCancelled):
        return
