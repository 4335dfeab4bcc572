"""Writes to a stream that are visible when they are answered, and go on when nobody waits.

Invariants: a position is released only after its transaction has ended. (A request is cancelled
when its client hangs up, but its transaction runs on in its thread; released by the cancelling, the
position would let readers pass a row that is committed a moment later.) And nobody is told of a
write before the stream's `current` has reached it: it may be held back by an earlier position.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.background import Background
from homeserver.engine.streams import Stream

T = TypeVar("T")


class StreamWriter:
    """The only writer of a stream."""

    def __init__(self, stream: Stream, background: Background) -> None:
        self._stream = stream
        self._background = background
        self._held_back: list[tuple[int, Deferred[None]]] = []

    async def write(
        self,
        transaction: Callable[[int], Awaitable[T]],
        then: Callable[[T], Awaitable[None]],
    ) -> T:
        """Run `transaction(position)`; when its position is visible, return its result.

        `then` tells those who wait for it, also when the caller was cancelled.
        """
        visible: Deferred[T] = Deferred(lambda _deferred: None)
        running = self._background.run(
            f"write to {self._stream.name}", self._run(transaction, then, visible)
        )
        # At shutdown it is not run at all.
        running.addCallback(lambda _: None if visible.called else visible.cancel())
        return await visible

    async def _run(
        self,
        transaction: Callable[[int], Awaitable[T]],
        then: Callable[[T], Awaitable[None]],
        visible: Deferred[T],
    ) -> None:
        positions: list[int] = []

        def begin(position: int) -> Awaitable[T]:
            positions.append(position)
            return transaction(position)

        try:
            result = await self._stream.write(begin)
        except BaseException:
            self._show()
            if visible.called:
                raise  # nobody waits any more; the background logs it
            visible.errback(Failure())
            return
        shown: Deferred[None] = Deferred()
        self._held_back.append((positions[0], shown))
        self._show()
        await shown
        if not visible.called:
            visible.callback(result)
        await then(result)

    def _show(self) -> None:
        current = self._stream.current
        ready = [shown for position, shown in self._held_back if position <= current]
        self._held_back = [held for held in self._held_back if held[0] > current]
        for shown in ready:
            shown.callback(None)
