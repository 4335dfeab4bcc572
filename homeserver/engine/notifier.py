"""Who waits for what, and who hears of each committed event.

Interest, not broadcast: a waiting sync names the keys it cares for (its user id and the ids of its
rooms), and a change wakes exactly the waits that named one of its keys. Listeners (appservices,
federation, push) hear of every committed event, in commit order.
"""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

from homeserver.metrics import SYNC_WAITERS

E = TypeVar("E")


class Notifier(Generic[E]):
    """`E` is what listeners are told: a committed event."""

    def __init__(self) -> None:
        self._waits: dict[str, set[Deferred[None]]] = {}
        self._keys: dict[Deferred[None], tuple[str, ...]] = {}
        self._listeners: list[Callable[[list[E]], None]] = []
        self.is_closed = False
        SYNC_WAITERS.set_function(lambda: len(self._keys))

    def wait(self, keys: Iterable[str]) -> Deferred[None]:
        """Fires at the next change of any of `keys` (user ids, room ids); may be cancelled."""
        waiting: Deferred[None] = Deferred(self.forget)
        if self.is_closed:
            waiting.callback(None)
            return waiting
        named = tuple(keys)
        self._keys[waiting] = named
        for key in named:
            self._waits.setdefault(key, set()).add(waiting)
        return waiting

    def wake(self, keys: Iterable[str]) -> None:
        woken: set[Deferred[None]] = set()
        for key in keys:
            woken |= self._waits.get(key, set())
        for waiting in woken:
            self.forget(waiting)
        for waiting in woken:
            self.end(waiting)

    def end(self, waiting: Deferred[None]) -> None:
        """Wake one wait, if it still waits."""
        self.forget(waiting)
        if not waiting.called:
            waiting.callback(None)

    def close(self) -> None:
        """End every wait, now and from now on: the server stops."""
        self.is_closed = True
        for waiting in list(self._keys):
            self.end(waiting)

    def subscribe(self, listener: Callable[[list[E]], None]) -> None:
        """Call `listener` with each batch of committed events; it must not block or raise."""
        self._listeners.append(listener)

    def publish(self, events: list[E]) -> None:
        for listener in self._listeners:
            listener(events)

    def forget(self, waiting: Deferred[None]) -> None:
        """Leave off one wait, without waking it."""
        for key in self._keys.pop(waiting, ()):
            waits = self._waits.get(key)
            if waits is not None:
                waits.discard(waiting)
                if not waits:
                    del self._waits[key]
