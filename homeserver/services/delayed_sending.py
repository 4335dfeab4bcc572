"""Sending delayed events when they are due, exactly once, and noting what became of them.

spec: MSC4140 beside v1.19, "Scheduling a delayed event", "Additional homeserver behaviour".

One timer, for what is due next. What is due is taken from the database, the oldest first and a few
of each user; rooms are sent to side by side, the events of a room one after another. Taking an
event makes it due again later, so that neither a failure nor a lost process forgets it. It is sent
in a transaction of its own, named by its `delay_id` and remembered for ever: the second try of what
has been sent finds the first event. `alone` keeps a cancellation from overtaking a send.

Time is the monotonic clock's, set by the wall clock when the process starts: a clock that is set
meanwhile makes nothing early or late.

NOTSPEC: a delayed state event is cancelled when another user sets the same state. An earlier
revision of the MSC and other servers have it so; the later one leaves it open.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import orjson
from twisted.internet.defer import CancelledError, DeferredLock
from twisted.internet.interfaces import IDelayedCall

from homeserver.background import Background
from homeserver.clock import Clock, cancel_call
from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.commit_loop import Committed
from homeserver.engine.live_room import MEMBER
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.sent_transactions import DELAYED
from homeserver.errors import (
    Conflict,
    DatabaseUnavailable,
    LimitExceeded,
    MatrixError,
    ServersFailed,
    ServiceUnavailable,
)
from homeserver.metrics import DELAYED_EVENTS
from homeserver.randomness import Randomness
from homeserver.services.messages import Messages
from homeserver.storage import delayed_events
from homeserver.storage.database import Database
from homeserver.storage.delayed_events import Claimed, Delayed
from homeserver.storage.query import Txn

logger = logging.getLogger(__name__)

_ID_LETTERS = 43
MAX_AT_ONCE = 50
"""So many are sent at a time, to as many rooms."""
MAX_OF_A_USER = 5
"""So many of one user's at a time: his hundred do not hold up the others."""
MAX_TRIES = 30
"""With pauses that grow to five minutes: about two hours."""
_RETRY_SECONDS = 10.0
_MAX_RETRY_SECONDS = 300.0
_MAX_PAUSE_SECONDS = 60.0
MAX_STATES = 50_000
"""State events in memory, to be cancelled at once; others are cancelled when they are due."""
_KEPT_FINALISED = 100
_KEPT_MS = 7 * 24 * 3600 * 1000

_PASSING = (DatabaseUnavailable, ServiceUnavailable, ServersFailed, LimitExceeded)
_REPLACED: JsonObject = {
    "errcode": "ORG.MATRIX.MSC4140_CANCELLED_BY_STATE_UPDATE",
    "error": "Another user has set this state meanwhile",
}
_TRIED_OUT: JsonObject = {"errcode": "M_UNKNOWN", "error": "It could not be sent for too long"}

_Slot = tuple[RoomID, str, str]


class DelayedSending:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        randomness: Randomness,
        background: Background,
        live_rooms: LiveRooms,
        messages: Messages,
    ) -> None:
        self._db = database
        self._clock = clock
        self._randomness = randomness
        self._background = background
        self._live_rooms = live_rooms
        self._messages = messages
        self._started_at = 0.0
        """What the wall clock said when the monotonic clock said 0, in milliseconds."""
        self._timer: IDelayedCall | None = None
        self._timer_ms = 0
        self._is_running = False
        self._is_woken = False
        self._failures = 0
        self._busy_rooms: set[int] = set()
        self._busy_users: Counter[int] = Counter()
        self._locks: dict[str, tuple[DeferredLock, list[None]]] = {}
        self._states: dict[_Slot, dict[str, UserID]] = {}
        """Who has scheduled what for each state, by delay id."""
        self._state_count = 0

    async def start(self) -> None:
        """Go on with what a process before this one has left."""
        self._started_at = self._clock.now_ms() - self._clock.monotonic() * 1000
        await self._db.run(delayed_events.update_all_due, self.now())
        for one in await self._db.read(delayed_events.list_state_delays, MAX_STATES):
            self.note_state((one.room_id, one.event_type, one.state_key), one.delay_id, one.user_id)
        self._wake()

    def now(self) -> int:
        """Return the milliseconds that `due_ts` is counted in."""
        return int(self._started_at + self._clock.monotonic() * 1000)

    def make_id(self) -> str:
        """Return a `delay_id`, which nobody can guess."""
        return self._randomness.token(_ID_LETTERS)

    # --- when

    def note_due(self, due_ts: int) -> None:
        """Something is due then; it may be the next."""
        if self._timer is not None and self._timer_ms <= due_ts:
            return
        cancel_call(self._timer)
        self._timer_ms = due_ts
        # A millisecond more: a timer may be a little early, the event never.
        seconds = max(0, due_ts - self.now() + 1) / 1000
        self._timer = self._clock.call_later(seconds, self._wake)

    def _wake(self) -> None:
        cancel_call(self._timer)
        self._timer = None
        self._is_woken = True
        if not self._is_running:
            self._is_running = True
            self._background.run("delayed events", self._take_due())

    async def _take_due(self) -> None:
        try:
            while self._is_woken:
                self._is_woken = False
                await self._take_some()
            self._failures = 0
        except CancelledError:
            raise
        except Exception:
            # Whatever it is: what was handed in must not be forgotten until the next restart.
            self._failures += 1
            pause = min(2.0**self._failures, _MAX_PAUSE_SECONDS)
            logger.exception("Delayed events cannot be taken failures=%d", self._failures)
            self.note_due(self.now() + int(self._randomness.jitter(pause) * 1000))
        finally:
            self._is_running = False

    async def _take_some(self) -> None:
        free = MAX_AT_ONCE - sum(self._busy_users.values())
        if free <= 0:
            return  # the first that ends wakes
        rooms = list(self._busy_rooms)
        claimed = await self._db.run(
            delayed_events.claim_due,
            self.now(),
            rooms,
            self._busy_users.copy(),
            at_most=free,
            at_most_a_user=MAX_OF_A_USER,
            retry_seconds=(self._randomness.jitter(_RETRY_SECONDS), _MAX_RETRY_SECONDS),
        )
        if claimed:
            self._send_all(claimed)
            self._is_woken = True
            return
        full = [user for user, count in self._busy_users.items() if count >= MAX_OF_A_USER]
        next_ts = await self._db.read(delayed_events.find_next_due, rooms, full)
        if next_ts is not None:
            self.note_due(next_ts)

    # --- sending

    def _send_all(self, claimed: Sequence[Claimed]) -> None:
        by_room: dict[int, list[Claimed]] = {}
        for one in claimed:
            by_room.setdefault(one.room_nid, []).append(one)
        for room_nid, some in by_room.items():
            self._busy_rooms.add(room_nid)
            self._busy_users.update(one.user_nid for one in some)
            self._background.run("delayed events", self._send_some(room_nid, some))

    async def _send_some(self, room_nid: int, claimed: Sequence[Claimed]) -> None:
        try:
            for one in claimed:
                await self._send_due(one.delay_id)
        finally:
            self._busy_rooms.discard(room_nid)
            self._busy_users.subtract(one.user_nid for one in claimed)
            self._busy_users += Counter()  # drops the zeros
            self._wake()

    async def _send_due(self, delay_id: str) -> None:
        async with self.alone(delay_id):
            delayed = await self._db.read(delayed_events.find_delayed, delay_id)
            if delayed is None or delayed.finalised_ts is not None:
                return
            if not delayed.tries:
                return  # restarted since it was taken
            if delayed.tries > MAX_TRIES:
                await self.finalise(delayed, error=_TRIED_OUT)
                return
            if await self._cancel_if_replaced(delayed):
                return
            try:
                event_id = await self._make(delayed)
            except _PASSING as error:
                DELAYED_EVENTS.labels("retried").inc()
                logger.info("Delayed event is tried again tries=%d: %s", delayed.tries, error)
            except MatrixError as error:
                await self.finalise(delayed, error=error.body())
            else:
                await self.finalise(delayed, event_id=event_id)

    async def send(self, delayed: Delayed) -> None:
        """Send it now, within `alone`. It stays scheduled when that fails.

        Raises what the room says, and Conflict when another user has set its state meanwhile.
        """
        if await self._cancel_if_replaced(delayed):
            raise Conflict("Another user has set this state meanwhile", errcode="M_UNKNOWN")
        await self.finalise(delayed, event_id=await self._make(delayed))

    async def _make(self, delayed: Delayed) -> EventID:
        content: JsonObject = orjson.loads(delayed.content)
        if delayed.state_key is None:
            return await self._messages.send(
                delayed.room_id,
                delayed.user_id,
                delayed.event_type,
                content,
                device_id=DELAYED,
                txn_id=delayed.delay_id,
                origin_server_ts=delayed.origin_server_ts,
            )
        return await self._messages.set_state(
            delayed.room_id,
            delayed.user_id,
            delayed.event_type,
            delayed.state_key,
            content,
            device_id=DELAYED,
            txn_id=delayed.delay_id,
            origin_server_ts=delayed.origin_server_ts,
        )

    async def _cancel_if_replaced(self, delayed: Delayed) -> bool:
        is_replaced = await self._is_replaced(delayed)
        if is_replaced:
            await self.finalise(delayed, error=_REPLACED)
        return is_replaced

    async def _is_replaced(self, delayed: Delayed) -> bool:
        """Tell whether another user has set the state since this was handed in."""
        if delayed.state_key is None:
            return False
        room = await self._live_rooms.find(delayed.room_id)
        if room is None:
            return False
        if delayed.event_type == MEMBER:
            found = await self._live_rooms.list_member_events(room, [UserID(delayed.state_key)])
            current = found[0] if found else None
        else:
            current = room.find_state(delayed.event_type, delayed.state_key)
        return (
            current is not None
            and current.event_nid > delayed.position
            and current.sender != delayed.user_id
        )

    # --- the end

    @asynccontextmanager
    async def alone(self, delay_id: str) -> AsyncIterator[None]:
        """Hold one delayed event: it is not sent, cancelled or restarted by two at once."""
        lock, holders = self._locks.setdefault(delay_id, (DeferredLock(), []))
        holders.append(None)
        try:
            await lock.acquire()
            try:
                yield
            finally:
                lock.release()
        finally:
            holders.pop()
            if not holders:
                del self._locks[delay_id]

    async def finalise(
        self,
        delayed: Delayed,
        *,
        event_id: EventID | None = None,
        error: JsonObject | None = None,
    ) -> None:
        """Note that it was sent or has failed; neither: that it was cancelled."""
        await self._db.run(
            _finalise_txn,
            delayed.delay_id,
            self._clock.now_ms(),
            event_id,
            None if error is None else orjson.dumps(error),
        )
        if delayed.state_key is not None:
            slot = (delayed.room_id, delayed.event_type, delayed.state_key)
            self._forget_state(slot, delayed.delay_id)
        outcome = "sent" if event_id is not None else "cancelled" if error is None else "failed"
        DELAYED_EVENTS.labels(outcome).inc()

    async def delete_old(self) -> None:
        await self._db.run(delayed_events.delete_old, self._clock.now_ms() - _KEPT_MS)

    # --- states that others set

    def note_state(self, slot: _Slot, delay_id: str, user_id: UserID) -> None:
        """A state event is scheduled for this slot."""
        if self._state_count < MAX_STATES:
            self._states.setdefault(slot, {})[delay_id] = user_id
            self._state_count += 1

    def _forget_state(self, slot: _Slot, delay_id: str) -> None:
        delays = self._states.get(slot)
        if delays is not None and delays.pop(delay_id, None) is not None:
            self._state_count -= 1
            if not delays:
                del self._states[slot]

    def note_committed(self, committed: Sequence[Committed]) -> None:
        """Cancel what is scheduled for states that another user has set."""
        if not self._states:
            return
        for room_id, event in ((one.room_id, one.event) for one in committed):
            if event.state_key is None:
                continue
            slot = (room_id, event.type, event.state_key)
            others = [d for d, user in self._states.get(slot, {}).items() if user != event.sender]
            if others:
                self._background.run("delayed events", self._cancel_replaced(slot, others))

    async def _cancel_replaced(self, slot: _Slot, delay_ids: Sequence[str]) -> None:
        for delay_id in delay_ids:
            async with self.alone(delay_id):
                delayed = await self._db.read(delayed_events.find_delayed, delay_id)
                if delayed is None or delayed.finalised_ts is not None:
                    self._forget_state(slot, delay_id)
                else:
                    await self._cancel_if_replaced(delayed)


def _finalise_txn(
    txn: Txn, delay_id: str, now_ms: int, event_id: EventID | None, error: bytes | None
) -> None:
    user_nid = delayed_events.update_finalised(txn, delay_id, now_ms, event_id, error)
    if user_nid is not None:
        delayed_events.delete_surplus(txn, user_nid, _KEPT_FINALISED)
