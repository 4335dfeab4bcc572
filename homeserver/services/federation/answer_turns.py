"""How many costly answers are made for other servers at the same time.

Invariants: so many are under way, so many wait, and of both one server has a share; who waits is
served by turns among servers. Who is refused is told when to ask again. Hanging up gives back no
turn before its time: the database would still be busy with what was asked.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.background import Background
from homeserver.core.identifiers import ServerName
from homeserver.errors import LimitExceeded

MAX_WAITING = 200
MAX_WAITING_OF_ONE = 20
_RETRY_AFTER_MS = 10_000


T = TypeVar("T")


class FairTurns:
    def __init__(self, background: Background, *, at_once: int, at_once_of_one: int) -> None:
        self._background = background
        self._at_once = at_once
        self._at_once_of_one = at_once_of_one
        self._under_way: Counter[ServerName] = Counter()
        self._waiting: OrderedDict[ServerName, deque[Deferred[None]]] = OrderedDict()
        self._is_beginning = False

    def check(self, origin: ServerName) -> None:
        """Raise LimitExceeded unless something more of a server may wait."""
        if (
            len(self._waiting.get(origin, ())) >= MAX_WAITING_OF_ONE
            or sum(map(len, self._waiting.values())) >= MAX_WAITING
        ):
            raise LimitExceeded("There is too much to answer", retry_after_ms=_RETRY_AFTER_MS)

    async def make(
        self,
        origin: ServerName,
        answer: Callable[[], Coroutine[Deferred[Any], Any, T]],
        *,
        is_owed: bool = False,
    ) -> T:
        """Return what `answer()` gives when it is a server's turn. Raises LimitExceeded, and as it.

        is_owed  too late to refuse it: something was done for which this is the answer
        """
        if self._may_begin(origin):
            self._under_way[origin] += 1
        else:
            if not is_owed:
                self.check(origin)
            await self._wait(origin)
        made: Deferred[T] = Deferred()
        self._background.run("answer to a server", self._make(origin, answer, made))
        return await made

    async def _make(
        self,
        origin: ServerName,
        answer: Callable[[], Coroutine[Deferred[Any], Any, T]],
        made: Deferred[T],
    ) -> None:
        def tell(result: T | Failure) -> None:
            self._end(origin)
            if not made.called:
                made.callback(result)

        await Deferred.fromCoroutine(answer()).addBoth(tell)

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

    def _end(self, origin: ServerName) -> None:
        self._under_way[origin] -= 1
        if not self._under_way[origin]:
            del self._under_way[origin]
        if self._is_beginning:
            return  # what has just begun has ended at once: whoever began it goes on
        self._is_beginning = True
        try:
            while (turn := self._take_next()) is not None:
                turn.callback(None)
        finally:
            self._is_beginning = False

    def _take_next(self) -> Deferred[None] | None:
        for origin, waiting in self._waiting.items():
            if self._may_begin(origin):
                turn = waiting[0]
                self._waiting.move_to_end(origin)
                self._remove(origin, turn)
                self._under_way[origin] += 1
                return turn
        return None


class AnswerTurns:
    """They leave most of the database's threads to clients."""

    def __init__(self, background: Background) -> None:
        self.whole_rooms = FairTurns(background, at_once=3, at_once_of_one=1)
        """States of rooms, and auth chains."""
        self.pages = FairTurns(background, at_once=6, at_once_of_one=2)
        """Of history."""
