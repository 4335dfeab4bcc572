"""What other servers tell this one: transactions of events and ephemeral data.

spec: server-server-api/#transactions, #pdus, v1.19. Invariant: what a transaction was answered for
is either worked through or stored, so that no crash loses it; and a repeated transaction does
nothing but get the answer it had.

1. A repetition gets its answer.   2. Messages to devices come first: they may hold the key of an
event beside them.   3. Events go to their rooms, each room by itself, and the other EDUs meanwhile.
4. What is not worked through in time is stored.   5. The answer is, too, and is given.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from twisted.internet.defer import CancelledError, Deferred

from homeserver.background import Background
from homeserver.clock import Clock
from homeserver.core.canonical_json import decode_lenient_json, encode_lenient_json
from homeserver.core.errors import IdentifierInvalid
from homeserver.core.identifiers import RoomID, ServerName, parse_room_id
from homeserver.core.json_types import JsonObject
from homeserver.errors import (
    BadRequest,
    DatabaseUnavailable,
    LimitExceeded,
    MatrixError,
    ServiceUnavailable,
)
from homeserver.metrics import BACKGROUND_FAILURES, INBOUND_EVENTS, INBOUND_TRANSACTIONS
from homeserver.services.federation.inbound_budget import Held, InboundBudget
from homeserver.services.federation.inbound_edus import InboundEDUs
from homeserver.services.federation.room_events import RoomEvents
from homeserver.storage import inbound_transactions
from homeserver.storage.database import Database

logger = logging.getLogger(__name__)

MAX_PDUS = 50
MAX_EDUS = 100
_MAX_UNDER_WAY = 1_000
"""Events of one server that may be worked on, answered or not."""
_ANSWER_SECONDS = 3.0
_FIRST_PAUSE_SECONDS = 1.0
_LAST_PAUSE_SECONDS = 60.0
_KEPT_MS = 24 * 3600 * 1000
_TIDY_SECONDS = 3600.0
_READ_AT_ONCE = 500
_MAX_TXN_ID = 255
_TO_DEVICE = "m.direct_to_device"


@dataclass(eq=False, slots=True)
class _Work:
    """Events of one room, of one transaction."""

    room_id: RoomID
    pdus: Sequence[JsonObject]
    held: Held | None
    """None: read from the database, one after the other."""
    results: dict[str, str | None] = field(default_factory=dict)
    """Event id -> what was wrong with it."""
    done: Deferred[None] = field(default_factory=Deferred)
    is_done: bool = False
    has_failed: bool = False
    """By our fault, before it was answered for: the transaction must come again."""
    stored: Sequence[int] = ()


class InboundTransactions:
    def __init__(
        self,
        database: Database,
        clock: Clock,
        background: Background,
        events: RoomEvents,
        edus: InboundEDUs,
        budget: InboundBudget,
    ) -> None:
        self._db = database
        self._clock = clock
        self._background = background
        self._events = events
        self._edus = edus
        self._budget = budget
        self._under_way: dict[tuple[ServerName, str], list[Deferred[bytes]]] = {}
        self._counts: Counter[ServerName] = Counter()

    async def start(self) -> None:
        """Go on with what was answered but not worked through."""
        self._background.run("staged events", self._work_through_stored())
        self._background.loop("old transactions of others", self._tidy, every_seconds=_TIDY_SECONDS)

    async def _work_through_stored(self) -> None:
        after, pause = 0, _FIRST_PAUSE_SECONDS
        while True:
            try:
                rows = await self._db.read(inbound_transactions.list_staged, after, _READ_AT_ONCE)
                if not rows:
                    return
                for row in rows:
                    pdu = decode_lenient_json(row.pdu)
                    assert isinstance(pdu, dict)
                    work = _Work(row.room_id, [pdu], None, stored=[row.staged_nid])
                    self._counts[row.origin] += 1
                    await self._work(row.origin, work)
                    after, pause = row.staged_nid, _FIRST_PAUSE_SECONDS
            except DatabaseUnavailable as error:  # they are answered for: nobody sends them again
                logger.warning("Staged events wait for the database: %s", error)
                await self._clock.sleep(pause)
                pause = min(pause * 2, _LAST_PAUSE_SECONDS)

    async def _tidy(self) -> None:
        before = self._clock.now_ms() - _KEPT_MS
        await self._db.run(inbound_transactions.delete_old_responses, before)

    async def receive(
        self, origin: ServerName, txn_id: str, body: JsonObject, body_bytes: int
    ) -> bytes:
        """Return the answer as JSON. Raises BadRequest, LimitExceeded."""
        if len(txn_id) > _MAX_TXN_ID or "\x00" in txn_id:
            raise BadRequest("A transaction id has at most 255 characters, none of them NUL")
        held = self._budget.hold(origin, body_bytes)  # a repetition, too, takes room as it waits
        try:
            return await self._answer_one(origin, txn_id, body, held)
        finally:
            held.let_go()

    async def _answer_one(
        self, origin: ServerName, txn_id: str, body: JsonObject, held: Held
    ) -> bytes:
        key = (origin, txn_id)
        others = self._under_way.get(key)
        if others is not None:  # 1
            waiting: Deferred[bytes] = Deferred()
            others.append(waiting)
            return await waiting
        self._under_way[key] = []
        failure: Exception = ServiceUnavailable("Send this again", retry_after_ms=1000)
        answer = None
        try:
            answer = await self._answer_once(origin, txn_id, body, held)
        except (MatrixError, DatabaseUnavailable) as error:
            failure = error
            raise
        finally:  # also when the one who was first has hung up
            INBOUND_TRANSACTIONS.labels("refused" if answer is None else "answered").inc()
            for waiting in self._under_way.pop(key):
                if answer is None:
                    waiting.errback(failure)
                else:
                    waiting.callback(answer)
        return answer

    async def _answer_once(
        self, origin: ServerName, txn_id: str, body: JsonObject, held: Held
    ) -> bytes:
        answer = await self._db.read(inbound_transactions.find_response, origin, txn_id)
        if answer is None:
            answer = await self._receive(origin, body, held)
            await self._db.run(  # 5
                inbound_transactions.insert_response,
                origin,
                txn_id,
                answer,
                self._clock.now_ms(),
            )
        return answer

    async def _receive(self, origin: ServerName, body: JsonObject, held: Held) -> bytes:
        pdus, edus = _objects(body, "pdus", MAX_PDUS), _objects(body, "edus", MAX_EDUS)
        if self._counts[origin] + len(pdus) > _MAX_UNDER_WAY:
            raise LimitExceeded(
                "Your events come faster than they can be read", retry_after_ms=5000
            )
        for edu in edus:  # 2
            if edu.get("edu_type") == _TO_DEVICE:
                await self._edus.receive(origin, edu)
        works = [_Work(room_id, found, held) for room_id, found in _by_room(pdus).items()]
        for work in works:  # 3
            held.share()
            self._counts[origin] += len(work.pdus)
            self._background.run("events of a transaction", self._work(origin, work))
        for edu in edus:
            if edu.get("edu_type") != _TO_DEVICE:
                await self._edus.receive(origin, edu)
        await self._wait_for(works)
        for work in works:  # 4
            if not work.is_done:
                work.stored = await self._db.run(
                    inbound_transactions.insert_staged,
                    origin,
                    work.room_id,
                    [encode_lenient_json(pdu) for pdu in work.pdus],
                    self._clock.now_ms(),
                )
                if work.is_done:
                    await self._db.run(inbound_transactions.delete_staged, work.stored)
        if any(work.has_failed for work in works):
            raise ServiceUnavailable("Your events cannot be stored now", retry_after_ms=10_000)
        results: JsonObject = {}
        for work in works:
            for event_id, problem in work.results.items():
                results[event_id] = {} if problem is None else {"error": problem}
        return orjson.dumps({"pdus": results})

    async def _wait_for(self, works: Sequence[_Work]) -> None:
        """Return when all is done, or after a while."""
        pending = [work for work in works if not work.is_done]
        if not pending:
            return
        enough: Deferred[None] = Deferred()

        def one_done(_: object) -> None:
            if all(work.is_done for work in works) and not enough.called:
                enough.callback(None)

        for work in pending:
            work.done.addBoth(one_done)
        timer = self._clock.call_later(
            _ANSWER_SECONDS, lambda: None if enough.called else enough.callback(None)
        )
        try:
            await enough
        finally:
            if timer.active():
                timer.cancel()

    async def _work(self, origin: ServerName, work: _Work) -> None:
        pause = _FIRST_PAUSE_SECONDS
        try:
            while True:
                try:
                    work.results = await self._events.receive(origin, work.room_id, work.pdus)
                    break
                except (DatabaseUnavailable, MatrixError) as error:
                    if not work.stored:
                        work.has_failed = True
                        break
                    if isinstance(error, MatrixError) and pause >= _LAST_PAUSE_SECONDS:
                        logger.warning("Events given up origin=%s: %s", origin, error)
                        break
                    logger.warning("Events cannot be taken in yet origin=%s: %s", origin, error)
                    await self._clock.sleep(pause)
                    pause = min(pause * 2, _LAST_PAUSE_SECONDS)
                except CancelledError:
                    raise
                except Exception:
                    # Sent again, or read again after a restart, they would only do it once more.
                    BACKGROUND_FAILURES.labels(task="events of a transaction").inc()
                    logger.exception("Events left out origin=%s room=%s", origin, work.room_id)
                    break
        finally:
            self._counts[origin] -= len(work.pdus)
            if not self._counts[origin]:
                del self._counts[origin]
            if work.held is not None:
                work.held.let_go()
        for problem in work.results.values():
            INBOUND_EVENTS.labels("accepted" if problem is None else "refused").inc()
        work.is_done = True
        if work.stored:
            await self._db.run(inbound_transactions.delete_staged, work.stored)
        work.done.callback(None)


def _objects(body: JsonObject, key: str, limit: int) -> list[JsonObject]:
    value = body.get(key, [])
    if not isinstance(value, list) or len(value) > limit:
        raise BadRequest(f"{key} is a list of at most {limit}")
    return [entry for entry in value if isinstance(entry, dict)]


def _by_room(pdus: Sequence[JsonObject]) -> Mapping[RoomID, list[JsonObject]]:
    rooms: dict[RoomID, list[JsonObject]] = {}
    for pdu in pdus:
        try:
            rooms.setdefault(parse_room_id(str(pdu.get("room_id"))), []).append(pdu)
        except IdentifierInvalid:
            continue  # nobody could say of which event the answer speaks
    return rooms
