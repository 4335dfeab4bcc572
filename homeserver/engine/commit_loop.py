"""The commit loop: every event of every room goes through here, many in one transaction.

1. Take everything that waits (at most 500 events).
2. Build and authorise each against its room, in order; what fails is answered at once.
3. Commit all of it in one transaction.
4. Apply it to the live rooms, wake whom it concerns, answer.

Idle, an event is committed at once; busy, batches grow by themselves. Invariant: nothing is
answered, shown or remembered before its commit is durable. When a commit fails, what memory knows
of its rooms is dropped, because only the database knows whether it happened.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from twisted.internet.defer import CancelledError, Deferred

from homeserver.background import Background
from homeserver.core.errors import EventMalformed, EventRejected
from homeserver.core.identifiers import RoomID
from homeserver.engine.change_writer import ChangeWriter, all_failed
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.not_loaded import NotLoaded
from homeserver.engine.notifier import Notifier
from homeserver.engine.room_change import EventTemplate, RoomChange, RoomChanges
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.engine.user_rooms import UserRooms
from homeserver.errors import DatabaseUnavailable, ServiceUnavailable
from homeserver.metrics import COMMIT_BATCH

logger = logging.getLogger(__name__)

_MAX_BATCH = 500
_MAX_WAITING = 20_000
Build = Callable[[RoomChange], list[TimelineEvent]]


@dataclass(frozen=True, slots=True)
class Committed:
    """What listeners of the notifier are told, in commit order."""

    room_id: RoomID
    event: TimelineEvent


@dataclass(eq=False, slots=True)
class _Submission:
    room_id: RoomID
    size: int
    """How many events."""
    build: Build
    passes: bool
    """It is by whoever holds the room."""
    answer: Deferred[list[TimelineEvent]] = field(default_factory=Deferred)


class CommitLoop:
    def __init__(
        self,
        writer: ChangeWriter,
        live_rooms: LiveRooms,
        changes: RoomChanges,
        user_rooms: UserRooms,
        notifier: Notifier[Committed],
        background: Background,
    ) -> None:
        self._writer = writer
        self._live_rooms = live_rooms
        self._changes = changes
        self._user_rooms = user_rooms
        self._notifier = notifier
        self._background = background
        self._waiting: deque[_Submission] = deque()
        self._held: dict[RoomID, list[_Submission]] = {}
        """What waits until a room is no longer held."""
        self._is_running = False
        self._unsure_keys: set[str] = set()
        """Who is to look again after the next commit, because one before may have happened."""

    def submit(
        self, room_id: RoomID, templates: Sequence[EventTemplate]
    ) -> Deferred[list[TimelineEvent]]:
        """Commit these events of one room together, all or none.

        Fails with EventRejected, EventMalformed, NotLoaded (load it and try again) or
        DatabaseUnavailable.
        """

        def build(change: RoomChange) -> list[TimelineEvent]:
            return [self._changes.add(change, template) for template in templates]

        return self.submit_change(room_id, len(templates), build)

    @contextmanager
    def holding(self, room_id: RoomID) -> Iterator[None]:
        """Let all that is written to a room wait, but for what `passes`.

        What is being committed already may still move the room. Not for long, and not twice.
        """
        assert room_id not in self._held
        self._held[room_id] = []
        try:
            yield
        finally:
            self._waiting += self._held.pop(room_id)
            self._begin()

    def submit_change(
        self, room_id: RoomID, size: int, build: Build, *, passes: bool = False
    ) -> Deferred[list[TimelineEvent]]:
        """Commit what `build`, called with the room's change, puts into it: `size` events.

        `build` may be called in vain and must not wait. Fails as `submit`.
        """
        submission = _Submission(room_id, size, build, passes)
        if len(self._waiting) + sum(map(len, self._held.values())) >= _MAX_WAITING:
            submission.answer.errback(
                ServiceUnavailable("Too many events are waiting", retry_after_ms=2000)
            )
            return submission.answer
        self._waiting.append(submission)
        self._begin()
        return submission.answer

    def _begin(self) -> None:
        if self._waiting and not self._is_running:
            self._is_running = True
            self._background.run("commit_loop", self._run())

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._commit_next()
        finally:
            self._is_running = False

    async def _commit_next(self) -> None:
        submissions = self._take()  # 1
        if not submissions:
            return
        changes: dict[RoomID, RoomChange] = {}
        ready: list[tuple[_Submission, list[TimelineEvent]]] = []
        for submission in submissions:  # 2
            built = self._build(submission, changes)
            if built is not None:
                ready.append((submission, built))
        COMMIT_BATCH.observe(sum(len(built) for _, built in ready))
        self._live_rooms.pin(changes)
        failed: Mapping[RoomID, Exception] = all_failed(list(changes.values()), CancelledError())
        try:
            failed = await self._writer.write(list(changes.values()))  # 3
        finally:
            written = [change for room_id, change in changes.items() if room_id not in failed]
            self._changes.end_batch(max((c.last_position for c in written), default=0))
            self._live_rooms.pin(())
            self._fail(changes, ready, failed)
        if written:
            self._publish(written)  # 4
        for submission, built in ready:
            _answer(submission, built)

    def _take(self) -> list[_Submission]:
        taken: list[_Submission] = []
        count = 0
        while self._waiting and count < _MAX_BATCH:
            submission = self._waiting.popleft()
            if submission.room_id in self._held and not submission.passes:
                self._held[submission.room_id].append(submission)
                continue
            taken.append(submission)
            count += submission.size
        return taken

    def _build(
        self, submission: _Submission, changes: dict[RoomID, RoomChange]
    ) -> list[TimelineEvent] | None:
        room = self._live_rooms.find_loaded(submission.room_id)
        if room is None:
            submission.answer.errback(NotLoaded("room"))
            return None
        change = changes.get(submission.room_id)
        if change is None:
            change = self._changes.begin(room)
        mark = change.mark()
        try:
            built = submission.build(change)
        except (EventRejected, EventMalformed, NotLoaded) as error:
            change.undo(mark)
            submission.answer.errback(error)
            return None
        except Exception as error:
            logger.exception("Event could not be built")
            change.undo(mark)
            submission.answer.errback(error)
            return None
        if change.has_rows:
            changes[submission.room_id] = change
        return built

    def _fail(
        self,
        changes: Mapping[RoomID, RoomChange],
        ready: Sequence[tuple[_Submission, list[TimelineEvent]]],
        failed: Mapping[RoomID, Exception],
    ) -> None:
        """Answer those whose commit failed, and forget what memory has of their rooms.

        Should it have happened all the same, syncs must find it: the rooms count as moved.
        """
        for room_id, error in failed.items():
            change = changes[room_id]
            if not isinstance(error, DatabaseUnavailable):  # that the pool has logged
                logger.error("Commit failed room=%s", room_id, exc_info=error)
            self._live_rooms.drop(room_id)
            self._user_rooms.room_moved(change.room.room_nid, change.last_position)
            self._unsure_keys.add(room_id)
            for user_id in change.members:
                self._user_rooms.drop(user_id)
                self._unsure_keys.add(user_id)
        for submission, _ in ready:
            cause = failed.get(submission.room_id)
            if cause is not None and not submission.answer.called:
                submission.answer.errback(
                    cause
                    if isinstance(cause, DatabaseUnavailable)
                    else DatabaseUnavailable("the commit failed")
                )

    def _publish(self, written: Sequence[RoomChange]) -> None:
        keys, self._unsure_keys = self._unsure_keys, set()
        told: list[Committed] = []
        for change in written:
            room = change.room
            change.apply()
            if change.shown_up_to:
                keys.add(room.room_id)
            for user_id, member in change.members.items():
                self._user_rooms.changed(user_id, room, member)
                keys.add(user_id)
            self._user_rooms.room_moved(room.room_nid, room.last_event)
            told += [Committed(room.room_id, found) for found in change.new_events]
        told.sort(key=lambda committed: committed.event.event_nid)
        self._notifier.wake(keys)
        self._notifier.publish(told)
        for change in written:
            self._live_rooms.weigh(change.room)  # now, as listeners look into the room


def _answer(submission: _Submission, built: list[TimelineEvent]) -> None:
    if not submission.answer.called:
        submission.answer.callback(built)
