"""Long computations off the reactor: so many at once, so many waiting, and no more.

Invariant: a place is free again when its thread is, not when the client hangs up.
"""

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.python.failure import Failure

from homeserver.errors import LimitExceeded

P = ParamSpec("P")
T = TypeVar("T")

_RETRY_AFTER_MS = 2000


class Threads(Protocol):
    """Where long computations run."""

    def call(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]: ...


class BoundedThreads:
    def __init__(
        self,
        threads: Threads,
        *,
        at_once: int,
        max_waiting: int,
        refusal: str = "There is too much to do",
    ) -> None:
        self._threads = threads
        self._places = DeferredSemaphore(at_once)
        self._max_waiting = max_waiting
        self._refusal = refusal

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Raises LimitExceeded when too many are waiting."""
        if len(self._places.waiting) >= self._max_waiting:
            raise LimitExceeded(self._refusal, retry_after_ms=_RETRY_AFTER_MS)
        await self._places.acquire()
        answer: Deferred[T] = Deferred()

        def ended(result: T | Failure) -> None:
            self._places.release()
            if not answer.called:
                answer.callback(result)

        self._threads.call(function, *args, **kwargs).addBoth(ended)
        return await answer
