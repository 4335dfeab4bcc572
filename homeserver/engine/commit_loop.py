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
from collections.abc import Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred

from homeserver.background import Background
from homeserver.core.errors import EventMalformed, EventRejected
from homeserver.core.identifiers import RoomID
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.notifier import Notifier
from homeserver.engine.room_change import EventTemplate, NotLoaded, RoomChange, RoomChanges
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.engine.user_rooms import UserRooms
from homeserver.errors import DatabaseUnavailable, ServiceUnavailable
from homeserver.metrics import COMMIT_BATCH
from homeserver.storage import client_transactions, events, memberships, rooms, state_segments
from homeserver.storage.database import Database
from homeserver.storage.query import Txn

logger = logging.getLogger(__name__)

_MAX_BATCH = 500
_MAX_WAITING = 20_000


@dataclass(frozen=True, slots=True)
class Committed:
    """What listeners of the notifier are told, in commit order."""

    room_id: RoomID
    event: TimelineEvent


@dataclass(eq=False, slots=True)
class _Submission:
    room_id: RoomID
    templates: Sequence[EventTemplate]
    answer: Deferred[list[TimelineEvent]] = field(default_factory=Deferred)


class CommitLoop:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        changes: RoomChanges,
        user_rooms: UserRooms,
        notifier: Notifier[Committed],
        background: Background,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._changes = changes
        self._user_rooms = user_rooms
        self._notifier = notifier
        self._background = background
        self._waiting: deque[_Submission] = deque()
        self._is_running = False

    def submit(
        self, room_id: RoomID, templates: Sequence[EventTemplate]
    ) -> Deferred[list[TimelineEvent]]:
        """Commit these events of one room together, all or none.

        Fails with EventRejected, EventMalformed, NotLoaded (load it and try again) or
        DatabaseUnavailable.
        """
        submission = _Submission(room_id, templates)
        if len(self._waiting) >= _MAX_WAITING:
            submission.answer.errback(
                ServiceUnavailable("Too many events are waiting", retry_after_ms=2000)
            )
            return submission.answer
        self._waiting.append(submission)
        if not self._is_running:
            self._is_running = True
            self._background.run("commit_loop", self._run())
        return submission.answer

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._commit_next()
        finally:
            self._is_running = False

    async def _commit_next(self) -> None:
        submissions = self._take()  # 1
        changes: dict[RoomID, RoomChange] = {}
        ready: list[tuple[_Submission, list[TimelineEvent]]] = []
        for submission in submissions:  # 2
            built = self._build(submission, changes)
            if built is not None:
                ready.append((submission, built))
        written = list(changes.values())
        COMMIT_BATCH.observe(sum(len(built) for _, built in ready))
        self._live_rooms.pin(changes)
        try:
            if written:
                await self._db.run(_write_txn, written)  # 3
        except BaseException as error:
            self._fail(changes, ready, error)
            if not isinstance(error, Exception):
                raise
            return
        finally:
            self._live_rooms.pin(())
            self._changes.release_positions()
        self._publish(written)  # 4
        for submission, built in ready:
            _answer(submission, built)

    def _take(self) -> list[_Submission]:
        taken: list[_Submission] = []
        count = 0
        while self._waiting and count < _MAX_BATCH:
            submission = self._waiting.popleft()
            taken.append(submission)
            count += len(submission.templates)
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
            built = [self._changes.add(change, template) for template in submission.templates]
        except (EventRejected, EventMalformed, NotLoaded) as error:
            change.undo(mark)
            submission.answer.errback(error)
            return None
        except Exception as error:
            logger.exception("Event could not be built")
            change.undo(mark)
            submission.answer.errback(error)
            return None
        if change.new_events or change.transactions:
            changes[submission.room_id] = change
        return built

    def _fail(
        self,
        changes: dict[RoomID, RoomChange],
        ready: list[tuple[_Submission, list[TimelineEvent]]],
        error: BaseException,
    ) -> None:
        logger.error("Commit failed rooms=%d", len(changes), exc_info=error)
        for room_id in changes:
            self._live_rooms.drop(room_id)
        for submission, _ in ready:
            submission.answer.errback(
                error
                if isinstance(error, DatabaseUnavailable)
                else DatabaseUnavailable("the commit failed")
            )

    def _publish(self, written: Sequence[RoomChange]) -> None:
        keys: set[str] = set()
        told: list[Committed] = []
        for change in written:
            room = change.room
            change.apply()
            self._live_rooms.weigh(room)
            keys.add(room.room_id)
            for user_id, member in change.members.items():
                self._user_rooms.changed(
                    user_id, room.room_id, room.room_nid, member.membership, member.event_nid
                )
                keys.add(user_id)
            self._user_rooms.room_moved(room.room_nid, room.last_event)
            told += [Committed(room.room_id, found) for found in change.new_events]
        told.sort(key=lambda committed: committed.event.event_nid)
        self._notifier.wake(keys)
        self._notifier.publish(told)


def _answer(submission: _Submission, built: list[TimelineEvent]) -> None:
    if not submission.answer.called:
        submission.answer.callback(built)


def _write_txn(txn: Txn, changes: Sequence[RoomChange]) -> None:
    events.insert_events(txn, [row for change in changes for row in change.event_rows])
    state_segments.insert_segments(txn, [row for change in changes for row in change.segments])
    state_segments.append_changes(txn, [row for change in changes for row in change.growths])
    rooms.upsert_heads(txn, [change.head() for change in changes if change.new_events])
    memberships.upsert_memberships(
        txn, [row for change in changes for row in change.membership_rows]
    )
    client_transactions.insert_transactions(
        txn, [row for change in changes for row in change.transactions]
    )
    for change in changes:
        for target_nid, redaction_nid in change.redactions:
            events.update_redacted_by(txn, change.room.room_nid, target_nid, redaction_nid)
