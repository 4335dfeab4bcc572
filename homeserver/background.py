"""Work that no request waits for. Nothing is fired and forgotten: every such coroutine has an
owner here, its failure is logged and counted, and it is cancelled at shutdown.
"""

import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.python.failure import Failure

from homeserver.clock import Clock, cancel_call
from homeserver.metrics import BACKGROUND_FAILURES
from homeserver.randomness import Randomness

logger = logging.getLogger(__name__)

T = TypeVar("T")
U = TypeVar("U")

_STOP_SECONDS = 10.0


async def gather(running: Sequence[Deferred[T]]) -> list[T]:
    """Return all results once there are all; if any failed, raise the first failure then."""
    results: list[T] = []
    ended: list[tuple[bool, Any]] = await DeferredList(running, consumeErrors=True)
    for is_done, result in ended:
        if not is_done:
            result.raiseException()
        results.append(result)
    return results


async def both(first: Deferred[T], second: Deferred[U]) -> tuple[T, U]:
    """As `gather`, for two of different kinds."""
    running: list[Deferred[Any]] = [first, second]
    one, other = await gather(running)
    return one, other


class Background:
    def __init__(self, clock: Clock, randomness: Randomness) -> None:
        self._clock = clock
        self._randomness = randomness
        self._running: set[Deferred[Any]] = set()
        self._stopped = False

    @property
    def is_stopped(self) -> bool:
        """What is started now is not run at all."""
        return self._stopped

    def run(self, name: str, coroutine: Coroutine[Deferred[Any], Any, Any]) -> Deferred[None]:
        """Start `coroutine` now. The Deferred fires when it has ended, and never fails."""
        if self._stopped:
            coroutine.close()
            done: Deferred[None] = Deferred()
            done.callback(None)
            return done
        running = Deferred.fromCoroutine(coroutine)
        self._running.add(running)

        def ended(result: object) -> None:
            self._running.discard(running)
            if isinstance(result, Failure) and not result.check(CancelledError):
                BACKGROUND_FAILURES.labels(task=name).inc()
                logger.error(
                    "Background task failed task=%s",
                    name,
                    exc_info=result.value,
                )

        return running.addBoth(ended)

    def loop(
        self, name: str, step: Callable[[], Awaitable[object]], *, every_seconds: float
    ) -> Deferred[None]:
        """Run `step` for ever with a pause between; a failing step is retried with back-off."""
        return self.run(name, self._loop(name, step, every_seconds))

    async def _loop(
        self, name: str, step: Callable[[], Awaitable[object]], every_seconds: float
    ) -> None:
        failures = 0
        while True:
            pause = every_seconds
            try:
                await step()
                failures = 0
            except CancelledError:
                raise
            except Exception:
                failures += 1
                pause = max(every_seconds, min(2.0**failures, 300.0))
                BACKGROUND_FAILURES.labels(task=name).inc()
                logger.exception("Background step failed task=%s failures=%d", name, failures)
            await self._clock.sleep(self._randomness.jitter(pause))

    def stop(self) -> Deferred[None]:
        """Cancel everything; fires when all of it has ended, or when that takes too long."""
        self._stopped = True
        running = list(self._running)
        stopped: Deferred[None] = Deferred()

        def give_up() -> None:
            logger.error("Background tasks do not end count=%d", len(self._running))
            stopped.callback(None)

        timer = self._clock.call_later(_STOP_SECONDS, give_up)

        def done(_: object) -> None:
            if not stopped.called:
                cancel_call(timer)
                stopped.callback(None)

        for task in running:
            task.cancel()
        DeferredList(running, consumeErrors=True).addCallback(done)
        return stopped
