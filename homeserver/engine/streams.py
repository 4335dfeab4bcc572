"""Streams: ever-growing sequences of changes, and how far each may be shown.

A position is allocated before its row is written. `current` never passes a position whose
transaction is still under way, so a reader that has seen everything up to `current` has missed
nothing, whatever order the transactions commit in.
"""

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from homeserver.storage.stream_epochs import EventEpoch

T = TypeVar("T")


class Stream:
    """One writer process; positions go on after the highest one stored."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._last = 0
        self._under_way: set[int] = set()

    def start_at(self, position: int) -> None:
        """Go on after `position`, the highest one in the database."""
        self._last = position

    @property
    def current(self) -> int:
        """Every position up to this one is committed, or never will be."""
        return min(self._under_way) - 1 if self._under_way else self._last

    @property
    def newest(self) -> int:
        """The last position that was given out; its transaction may be under way."""
        return self._last

    def allocate(self, count: int = 1) -> int:
        """Return the last of `count` new positions; each must be given to `release`."""
        first = self._last + 1
        self._last += count
        self._under_way.update(range(first, self._last + 1))
        return self._last

    def release(self, last: int, count: int = 1) -> None:
        """Say that the transaction of these positions has ended, well or badly."""
        self._under_way.difference_update(range(last - count + 1, last + 1))

    async def write(self, transaction: Callable[[int], Awaitable[T]]) -> T:
        """Run `transaction(position)` with a new position and release it afterwards."""
        position = self.allocate()
        try:
            return await transaction(position)
        finally:
            self.release(position)


class Streams:
    """Every stream of the server; a sync token is one position of each."""

    def __init__(self) -> None:
        self._epochs: Sequence[EventEpoch] = ()
        self.events = Stream("events")
        self.receipts = Stream("receipts")
        self.account_data = Stream("account_data")
        self.to_device = Stream("to_device")
        self.device_lists = Stream("device_lists")
        self.typing = Stream("typing")
        """In memory only: begins at 0 with each process."""
        self.presence = Stream("presence")
        """In memory only."""

    def know_epochs(self, epochs: Sequence[EventEpoch]) -> None:
        """Take in every gap of the events stream, in order."""
        self._epochs = epochs

    def has_history_of(self, position: int) -> bool:
        """Tell whether a token may hold this position of the events stream.

        False: it was given out by a process whose events are no longer in the database.
        """
        index = bisect_left(self._epochs, position, key=lambda epoch: epoch.first_nid)
        if index == len(self._epochs):
            return position <= self.events.current
        epoch = self._epochs[index]
        return position == epoch.first_nid or position <= epoch.newest_before
