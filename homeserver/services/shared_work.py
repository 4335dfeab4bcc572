"""Work that several ask for at the same time and that is done once.

Invariant: it goes on when those who asked for it go away; a failure is told to all of them.
"""

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.background import Background
from homeserver.errors import LimitExceeded

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_RETRY_AFTER_MS = 2000


class SharedWork(Generic[K, T]):
    def __init__(self, name: str, background: Background, *, max_under_way: int) -> None:
        self._name = name
        self._background = background
        self._max_under_way = max_under_way
        self._waiting: dict[K, list[Deferred[T]]] = {}

    async def get(self, key: K, begin: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
        """Return what `begin()` gives, or what it gives those who asked before.

        Raises LimitExceeded when too much is under way.
        """
        mine: Deferred[T] = Deferred()
        others = self._waiting.get(key)
        if others is not None:
            others.append(mine)
        elif len(self._waiting) >= self._max_under_way:
            raise LimitExceeded("There is too much to do", retry_after_ms=_RETRY_AFTER_MS)
        else:
            self._waiting[key] = [mine]
            self._background.run(self._name, self._work(key, begin))
        return await mine

    async def _work(self, key: K, begin: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> None:
        def tell(result: T | Failure) -> None:
            for waiter in self._waiting.pop(key):
                if not waiter.called:
                    waiter.callback(result)

        await Deferred.fromCoroutine(begin()).addBoth(tell)
