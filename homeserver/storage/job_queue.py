"""The bounded queue in front of the database's threads, with two lanes.

Urgent jobs (commits, sessions) are taken before the others, and some threads take nothing else, so
that slow reads can use up neither the queue nor the threads.
"""

import threading
from collections import deque
from typing import Generic, Protocol, TypeVar


class Queued(Protocol):
    @property
    def queued_at(self) -> float: ...

    @property
    def is_urgent(self) -> bool: ...


J = TypeVar("J", bound=Queued)


class JobQueue(Generic[J]):
    def __init__(self, max_waiting: int) -> None:
        """`max_waiting` is the bound of each lane."""
        self._max_waiting = max_waiting
        self._urgent: deque[J] = deque()
        self._others: deque[J] = deque()
        lock = threading.Lock()
        self._for_any = threading.Condition(lock)
        self._for_urgent = threading.Condition(lock)
        self._idle = 0
        """Threads for any job that wait, and have not been told to look."""
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._urgent) + len(self._others)

    def put(self, job: J) -> bool:
        """Return False when the lane is full."""
        lane = self._urgent if job.is_urgent else self._others
        with self._for_any:
            if len(lane) >= self._max_waiting:
                return False
            lane.append(job)
            if self._idle:
                self._idle -= 1
                self._for_any.notify()
            elif job.is_urgent:
                self._for_urgent.notify()
        return True

    def take(self, *, only_urgent: bool) -> J | None:
        """Wait for a job. None: the queue is closed and empty."""
        with self._for_any:
            while True:
                if self._urgent:
                    return self._urgent.popleft()
                if self._others and (not only_urgent or self._is_closed):
                    return self._others.popleft()
                if self._is_closed:
                    return None
                if only_urgent:
                    self._for_urgent.wait()
                else:
                    self._idle += 1
                    self._for_any.wait()

    def drop_older(self, than: float) -> list[J]:
        """Take away the jobs that were put before that time, oldest first."""
        dropped: list[J] = []
        with self._for_any:
            for lane in (self._urgent, self._others):
                while lane and lane[0].queued_at < than:
                    dropped.append(lane.popleft())
        return dropped

    def close(self) -> None:
        """Let the threads finish what waits, and no more."""
        with self._for_any:
            self._is_closed = True
            self._for_any.notify_all()
            self._for_urgent.notify_all()
