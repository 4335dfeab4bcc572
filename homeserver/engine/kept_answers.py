"""What other servers have answered, kept for events that wait for their turn or a further answer.

Invariant: all of it together takes so many bytes and no more. When it is too much, rooms lose
theirs, always the one with most its oldest; what is lost can be asked again.
"""

from collections import Counter
from heapq import heapify, heappop, heapreplace

from homeserver.core.identifiers import RoomID

MAX_KEPT_BYTES = 512 * 1_048_576
"""Two answers of the largest size."""
_BYTES_BESIDES = 1_000
"""Taken by an answer but for its text, with the question that it answers."""


class KeptAnswer:
    __slots__ = ("room_id", "size", "text")

    def __init__(self, room_id: RoomID, text: bytes) -> None:
        self.room_id = room_id
        self.size = len(text) + _BYTES_BESIDES
        self.text: bytes | None = text
        """None once it is lost, or nobody needs it any more."""


class KeptAnswers:
    def __init__(self, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self.max_bytes = max_bytes
        self.bytes_kept = 0
        self._rooms: dict[RoomID, dict[KeptAnswer, None]] = {}
        """The answers of each, the oldest first."""
        self._bytes: Counter[RoomID] = Counter()

    def keep(self, room_id: RoomID, text: bytes) -> KeptAnswer:
        """Keep one more. It is not lost at once, however large it is."""
        answer = KeptAnswer(room_id, text)
        if self.bytes_kept + answer.size > self.max_bytes:
            self._make_room(answer)
        self._rooms.setdefault(room_id, {})[answer] = None
        self._count(room_id, answer.size)
        return answer

    def let_go(self, answer: KeptAnswer) -> None:
        if answer.text is None:
            return
        answer.text = None
        of_room = self._rooms[answer.room_id]
        del of_room[answer]
        if not of_room:
            del self._rooms[answer.room_id]
        self._count(answer.room_id, -answer.size)

    def _make_room(self, coming: KeptAnswer) -> None:
        """Let answers go until another fits."""
        fullest = [
            (-taken - (coming.size if room_id == coming.room_id else 0), room_id)
            for room_id, taken in self._bytes.items()
        ]
        heapify(fullest)
        while fullest and self.bytes_kept + coming.size > self.max_bytes:
            taken, room_id = fullest[0]
            oldest = next(iter(self._rooms[room_id]))
            self.let_go(oldest)
            if room_id in self._rooms:
                heapreplace(fullest, (taken + oldest.size, room_id))
            else:
                heappop(fullest)

    def _count(self, room_id: RoomID, more: int) -> None:
        self.bytes_kept += more
        self._bytes[room_id] += more
        if not self._bytes[room_id]:
            del self._bytes[room_id]
