"""How many costly answers are made for other servers at the same time.

Invariants: so many are under way, so many wait, and of both one server has a share; who waits is
served by turns among servers. Who is refused is told when to ask again.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred

from homeserver.core.identifiers import ServerName
from homeserver.errors import LimitExceeded

MAX_WAITING = 200
MAX_WAITING_OF_ONE = 20
_RETRY_AFTER_MS = 10_000


class FairTurns:
    def __init__(self, *, at_once: int, at_once_of_one: int) -> None:
        self._at_once = at_once
        self._at_once_of_one = at_once_of_one
        self._under_way: Counter[ServerName] = Counter()
        self._waiting: OrderedDict[ServerName, deque[Deferred[None]]] = OrderedDict()

    def check(self, origin: ServerName) -> None:
        """Raise LimitExceeded unless something more of a server may wait."""
        if (
            len(self._waiting.get(origin, ())) >= MAX_WAITING_OF_ONE
            or sum(map(len, self._waiting.values())) >= MAX_WAITING
        ):
            raise LimitExceeded("There is too much to answer", retry_after_ms=_RETRY_AFTER_MS)

    @asynccontextmanager
    async def of(self, origin: ServerName, *, is_owed: bool = False) -> AsyncIterator[None]:
        """Wait for a server's turn. Raises LimitExceeded.

        is_owed  too late to refuse it: something was done for which this is the answer
        """
        if self._may_begin(origin):
            self._under_way[origin] += 1
        else:
            if not is_owed:
                self.check(origin)
            await self._wait(origin)
        try:
            yield
        finally:
            self._under_way[origin] -= 1
            if not self._under_way[origin]:
                del self._under_way[origin]
            self._begin_next()

    def _may_begin(self, origin: ServerName) -> bool:
        return (
            self._under_way.total() < self._at_once
            and self._under_way[origin] < self._at_once_of_one
        )

    async def _wait(self, origin: ServerName) -> None:
        waiting = self._waiting.setdefault(origin, deque())
        turn: Deferred[None] = Deferred()
        waiting.append(turn)
        try:
            await turn
        except BaseException:  # who asked has hung up
            self._remove(origin, turn)
            raise

    def _remove(self, origin: ServerName, turn: Deferred[None]) -> None:
        waiting = self._waiting[origin]
        waiting.remove(turn)
        if not waiting:
            del self._waiting[origin]

    def _begin_next(self) -> None:
        for origin in list(self._waiting):
            if origin in self._waiting and self._may_begin(origin):
                turn = self._waiting[origin][0]
                self._waiting.move_to_end(origin)
                self._remove(origin, turn)
                self._under_way[origin] += 1
                turn.callback(None)


@dataclass(frozen=True, slots=True)
class AnswerTurns:
    """They leave most of the database's threads to clients."""

    whole_rooms: FairTurns = field(default_factory=lambda: FairTurns(at_once=3, at_once_of_one=1))
    """States of rooms, and auth chains."""
    pages: FairTurns = field(default_factory=lambda: FairTurns(at_once=6, at_once_of_one=2))
    """Of history."""
