"""A bounded memory of what other servers have answered.

Invariant: an answer is told for so long as whoever put it in has said, and no longer; the least
recently used go first when the budget is spent.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from homeserver.clock import Clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ExpiringCache(Generic[K, V]):
    def __init__(self, clock: Clock, *, budget: int) -> None:
        """`budget`: of the sizes that entries are put in with, together."""
        self._clock = clock
        self._budget = budget
        self._entries: OrderedDict[K, tuple[V, float, int]] = OrderedDict()
        self._size = 0

    def find(self, key: K) -> V | None:
        found = self._entries.get(key)
        if found is None:
            return None
        value, expires, _ = found
        if expires <= self._clock.monotonic():
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V, *, seconds: float, size: int = 1) -> None:
        if key in self._entries:
            self._remove(key)
        self._entries[key] = (value, self._clock.monotonic() + seconds, size)
        self._size += size
        while self._size > self._budget:
            self._remove(next(iter(self._entries)))

    def _remove(self, key: K) -> None:
        self._size -= self._entries.pop(key)[2]
