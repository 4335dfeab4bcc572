"""Events that are handed in now and sent later, unless their owner cancels or postpones them.

spec: MSC4140 beside v1.19. Invariant: what was answered with a `delay_id` is in the database, and
stays scheduled until it is sent, cancelled, or fails for good.

The MSC lets the owner alone manage an event. COMPAT(MatrixRTC, Synapse): before it was accepted,
whoever knew the `delay_id` could, without a token, and calls hand it to the server of their media
so that it reports who has gone. Such requests are understood; with a token it must be the owner's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import orjson

from homeserver.clock import Clock
from homeserver.core.canonical_json import MAX_INTEGER, encode_canonical_json, encode_lenient_json
from homeserver.core.errors import JsonInvalid
from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.event_author import check_names
from homeserver.engine.sent_transactions import DELAYED, SentTransactions
from homeserver.errors import (
    BadJSON,
    BadRequest,
    Conflict,
    Forbidden,
    InvalidParam,
    LimitExceeded,
    NotFound,
    TooLarge,
)
from homeserver.requester import Requester
from homeserver.services.delayed_sending import DelayedSending
from homeserver.services.room_access import RoomAccess
from homeserver.storage import delayed_events
from homeserver.storage.database import Database
from homeserver.storage.delayed_events import Delayed, Held, NewDelayed
from homeserver.storage.dictionaries import intern_users
from homeserver.storage.query import Txn

_MAX_CONTENT_BYTES = 65_536
"""What a whole event may have."""

CountSchedule = Callable[[UserID], None]
"""Raises LimitExceeded."""


@dataclass(frozen=True, slots=True)
class Limits:
    max_delay_ms: int
    """0: nothing is taken."""
    max_scheduled: int
    """Of one user; 0: nothing is taken."""
    max_bytes: int
    """Of their contents together."""
    count_schedule: CountSchedule
    """Counts each that is handed in."""

    @property
    def allow_any(self) -> bool:
        return self.max_delay_ms > 0 and self.max_scheduled > 0


@dataclass(frozen=True, slots=True)
class Wish:
    room_id: RoomID
    event_type: str
    content: JsonObject
    delay_ms: int
    state_key: str | None = None
    txn_id: str | None = None
    origin_server_ts: int | None = None


class DelayedEvents:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        access: RoomAccess,
        sending: DelayedSending,
        transactions: SentTransactions,
        limits: Limits,
    ) -> None:
        self._db = database
        self._clock = clock
        self._access = access
        self._sending = sending
        self._transactions = transactions
        self._limits = limits

    def capabilities(self) -> JsonObject:
        """Return what clients are told of the limits; nothing when none are taken."""
        if not self._limits.allow_any:
            return {}
        limits: JsonObject = {
            "max_delay_ms": self._limits.max_delay_ms,
            "max_scheduled": self._limits.max_scheduled,
        }
        return {"org.matrix.msc4140.delayed_events": limits}

    async def schedule(self, requester: Requester, wish: Wish) -> str:
        """Return the delay id; the first one's for a repeated transaction.

        Raises Forbidden when it is off or the user is not in the room, BadRequest for a delay that
        is too long, LimitExceeded, BadJSON, TooLarge, InvalidParam.
        """
        self._check_delay(wish.delay_ms)
        if requester.appservice_id is None:
            self._limits.count_schedule(requester.user_id)
        room = await self._access.access_joined(requester.user_id, wish.room_id)
        check_names(wish.event_type, wish.state_key, wish.txn_id)
        encode = (
            encode_canonical_json if room.version.strict_canonical_json else encode_lenient_json
        )
        try:
            content = encode(wish.content)
        except JsonInvalid as error:
            raise BadJSON(str(error)) from error
        if len(content) > min(_MAX_CONTENT_BYTES, self._limits.max_bytes):
            raise TooLarge("The event is too large")
        given_ts = wish.origin_server_ts if requester.appservice_id is not None else None
        if given_ts is not None and not 0 <= given_ts <= MAX_INTEGER:
            raise InvalidParam("ts must be a time")
        now = self._sending.now()
        new = NewDelayed(
            delay_id=self._sending.make_id(),
            device_id=requester.device_id or requester.appservice_id or "",
            txn_id=wish.txn_id,
            room_nid=room.room_nid,
            event_type=wish.event_type,
            state_key=wish.state_key,
            origin_server_ts=given_ts,
            content=content,
            delay_ms=wish.delay_ms,
            since_ts=self._clock.now_ms(),
            position=room.last_event,
            due_ts=now + wish.delay_ms,
        )
        # Before it is stored: afterwards the request, or the database's answer, may be lost. And
        # then again: a short delay may be over before the row is there to be found.
        self._sending.note_due(new.due_ts)
        try:
            answer = await self._db.run(_schedule_txn, requester.user_id, new, self._limits)
        finally:
            self._sending.note_due(new.due_ts)
        if isinstance(answer, Held):
            wait_ms = max(1, (answer.next_ts or now) - now)
            raise LimitExceeded("You have too much scheduled already", retry_after_ms=wait_ms)
        if answer == new.delay_id and wish.state_key is not None:
            slot = (wish.room_id, wish.event_type, wish.state_key)
            self._sending.note_state(slot, new.delay_id, requester.user_id)
        return answer

    def _check_delay(self, delay_ms: int) -> None:
        longest = self._limits.max_delay_ms
        if not self._limits.allow_any:
            raise Forbidden("Delayed events are not enabled on this server")
        if delay_ms <= 0:
            raise InvalidParam("The delay must be a positive number of milliseconds")
        if delay_ms > longest:
            raise BadRequest(
                f"The delay can have at most {longest} milliseconds",
                errcode="ORG.MATRIX.MSC4140_DELAY_TOO_LARGE",
                extra={
                    # COMPAT(older clients): how earlier revisions said it.
                    "org.matrix.msc4140.errcode": "M_MAX_DELAY_EXCEEDED",
                    "org.matrix.msc4140.max_delay": longest,
                },
            )

    # --- what is scheduled

    async def restart(self, requester: Requester | None, delay_id: str) -> None:
        """Begin the delay anew. Raises NotFound, Conflict when it is finalised."""
        async with self._sending.alone(delay_id):
            delayed = await self._settle(await self._find(requester, delay_id))
            if delayed.finalised_ts is not None:
                raise _too_late(delayed)
            now = self._sending.now()
            await self._db.run(delayed_events.update_restarted, delay_id, self._clock.now_ms(), now)
            self._sending.note_due(now + delayed.delay_ms)

    async def cancel(self, requester: Requester | None, delay_id: str) -> None:
        """Raises NotFound, Conflict when it has been sent."""
        async with self._sending.alone(delay_id):
            delayed = await self._settle(await self._find(requester, delay_id))
            if delayed.event_id is not None:
                raise _too_late(delayed)
            if delayed.finalised_ts is None:
                await self._sending.finalise(delayed)

    async def send(self, requester: Requester | None, delay_id: str) -> None:
        """Send it now. It stays scheduled when that fails.

        Raises NotFound, Conflict when it is cancelled or has failed, and what the room says.
        """
        async with self._sending.alone(delay_id):
            delayed = await self._find(requester, delay_id)
            if delayed.event_id is not None:
                return
            if delayed.finalised_ts is not None:
                raise _too_late(delayed)
            await self._sending.send(delayed)

    async def get(self, requester: Requester, delay_id: str) -> JsonObject:
        """Raises NotFound, also for one of another user."""
        delayed = await self._find(requester, delay_id)
        shown = _scheduled(delayed)
        if delayed.finalised_ts is not None:
            finalised: JsonObject = {"finalised_ts": delayed.finalised_ts}
            if delayed.event_id is not None:
                finalised["event_id"] = delayed.event_id
            if delayed.error is not None:
                finalised["error"] = orjson.loads(delayed.error)
            shown["finalised"] = finalised
        return shown

    async def list_scheduled(self, user_id: UserID) -> list[JsonObject]:
        rows = await self._db.read(delayed_events.list_scheduled, user_id)
        return [_scheduled(delayed) for delayed in rows]

    async def _find(self, requester: Requester | None, delay_id: str) -> Delayed:
        delayed = await self._db.read(delayed_events.find_delayed, delay_id)
        if delayed is None or (requester is not None and requester.user_id != delayed.user_id):
            raise NotFound("There is no such delayed event")
        return delayed

    async def _settle(self, delayed: Delayed) -> Delayed:
        """Note that it was sent, should that have failed. Within `alone`."""
        if delayed.finalised_ts is not None:
            return delayed
        event_id = await self._transactions.find(
            (delayed.user_id, DELAYED), (delayed.room_nid, delayed.delay_id)
        )
        if event_id is None:
            return delayed
        await self._sending.finalise(delayed, event_id=event_id)
        return replace(delayed, event_id=event_id, finalised_ts=self._clock.now_ms())


def _too_late(delayed: Delayed) -> Conflict:
    # COMPAT(matrix-js-sdk): the MSC's 409, but not M_UNKNOWN: at that a call ends, while a leaving
    # that is not found is handed in anew.
    outcome = "been sent" if delayed.event_id is not None else "been cancelled"
    return Conflict(f"The delayed event has {outcome} already", errcode="M_NOT_FOUND")


def _scheduled(delayed: Delayed) -> JsonObject:
    shown: JsonObject = {
        "delay_id": delayed.delay_id,
        "room_id": delayed.room_id,
        "type": delayed.event_type,
        "delay_ms": delayed.delay_ms,
        "delayed_since_ts": delayed.since_ts,
        "content": orjson.loads(delayed.content),
        # COMPAT(older clients): what earlier revisions called them.
        "delay": delayed.delay_ms,
        "running_since": delayed.since_ts,
    }
    if delayed.state_key is not None:
        shown["state_key"] = delayed.state_key
    return shown


def _schedule_txn(txn: Txn, user_id: UserID, new: NewDelayed, limits: Limits) -> str | Held:
    """Return the delay id; what the user has scheduled already when it is too much."""
    user_nid = intern_users(txn, [user_id])[user_id]
    delayed_events.lock_user(txn, user_nid)
    if new.txn_id is not None:
        known = delayed_events.find_transaction(
            txn, user_nid, new.device_id, new.room_nid, new.txn_id
        )
        if known is not None:
            return known
    held = delayed_events.count_scheduled(txn, user_nid)
    if held.count >= limits.max_scheduled or held.bytes + len(new.content) > limits.max_bytes:
        return held
    delayed_events.insert_delayed(txn, user_nid, new)
    return new.delay_id
