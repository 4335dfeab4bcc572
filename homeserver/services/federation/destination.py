"""The queue of one other server.

What was committed while the server runs waits in memory, bounded; what memory does not have (after
a restart, or an outage that was too long for it) is read again from `outgoing_events`. Invariant:
one transaction is under way at a time, and what it carries is forgotten only when it was taken.
"""

import logging
from bisect import insort
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore

from homeserver.clock import Clock
from homeserver.core.identifiers import ServerName
from homeserver.errors import DatabaseUnavailable
from homeserver.metrics import FEDERATION_TRANSACTIONS
from homeserver.randomness import Randomness
from homeserver.services.federation.catch_up import CatchUp
from homeserver.services.federation.failure_causes import FaultHere, cause_of
from homeserver.services.federation.transmission import EDU, MAX_EDUS, MAX_PDUS, Batch, Transmission
from homeserver.storage import destinations, outgoing_edus
from homeserver.storage.database import Database
from homeserver.storage.outgoing_edus import StoredEDU
from homeserver.transport.federation_client import ErrorAnswer
from homeserver.transport.outbound import RequestFailed

logger = logging.getLogger(__name__)

MAX_WAITING_PDUS = 1_000
MAX_WAITING_EDUS = 1_000
_FIRST_PAUSE_SECONDS = 10.0
_LAST_PAUSE_SECONDS = 3600.0
_EARLY_SECONDS = 60.0
"""So far apart are tries that requests of the server itself have brought about."""
_LOOK_AGAIN_SECONDS = 0.1
"""Something that was to be told first is still on its way into the database."""
_ANSWERING_AT_ONCE = 300
_SILENT_AT_ONCE = 100


class Turns:
    """How many servers are told something at the same time.

    Those that did not answer the last time wait among themselves: they hold up nobody else.
    """

    def __init__(self) -> None:
        self._answering = DeferredSemaphore(_ANSWERING_AT_ONCE)
        self._silent = DeferredSemaphore(_SILENT_AT_ONCE)

    def of(self, failures: int) -> DeferredSemaphore:
        return self._silent if failures else self._answering


@dataclass(frozen=True, slots=True)
class Services:
    """What every destination uses."""

    database: Database
    transmission: Transmission
    catch_up: CatchUp
    clock: Clock
    randomness: Randomness
    turns: Turns = field(default_factory=Turns)


class DestinationQueue:
    def __init__(self, server: ServerName, delivered: int, services: Services) -> None:
        self.server = server
        self.delivered = delivered
        self.is_behind = False
        """Memory does not have every event after the cursor."""
        self.has_stored_edus = False
        self.failures = 0
        self.is_running = False
        self._services = services
        self._pdus: deque[tuple[int, bytes]] = deque()
        """In the order of positions."""
        self._newest_missed = 0
        """Memory does not have it: reading goes on until it has been read."""
        self._edus: OrderedDict[Hashable, EDU] = OrderedDict()
        """What is lost with the process, newest of each key."""
        self._pause: Deferred[None] | None = None
        self._is_asked_to_wait = False
        self._not_early_before = 0.0

    @property
    def has_work(self) -> bool:
        return bool(self._pdus or self._edus) or self.is_behind or self.has_stored_edus

    @property
    def waiting_positions(self) -> Sequence[int]:
        """Of the events in memory; one that is behind has none there."""
        return [position for position, _ in self._pdus]

    @property
    def waiting_edus(self) -> int:
        """How many wait in memory, stored ones not counted."""
        return len(self._edus)

    def add_pdu(self, position: int, pdu: bytes) -> None:
        insort(self._pdus, (position, pdu))
        if self.is_behind or len(self._pdus) > MAX_WAITING_PDUS or self.failures > 1:
            self.fall_behind()

    def add_edu(self, key: Hashable, edu: EDU) -> None:
        """Send the newest of each key. While the server does not answer, it is not kept."""
        if self.failures > 1:
            return
        self._edus.pop(key, None)
        self._edus[key] = edu
        if len(self._edus) > MAX_WAITING_EDUS:
            self._edus.popitem(last=False)

    def fall_behind(self) -> None:
        if self._pdus:
            self._newest_missed = max(self._newest_missed, self._pdus[-1][0])
        self._pdus.clear()
        self.is_behind = True

    def note_reached(self) -> None:
        """The server has been heard of: try again, unless it asked to be left alone."""
        now = self._services.clock.monotonic()
        if self._pause is None or self._is_asked_to_wait or now < self._not_early_before:
            return
        self._not_early_before = now + _EARLY_SECONDS
        self.retry_now()

    def retry_now(self) -> None:
        """Do not wait for the back-off."""
        if self._pause is not None and not self._pause.called:
            self._pause.callback(None)

    async def run(self, first_pause: float = 0.0) -> None:
        """Deliver until there is nothing left."""
        self.is_running = True
        services = self._services
        try:
            if first_pause > 0:
                await self._wait(first_pause)
            while self.has_work:
                try:
                    await self._deliver_some()
                except CancelledError:
                    raise
                except RequestFailed as error:
                    await self._back_off(error)
                except DatabaseUnavailable as error:
                    logger.warning("Server not told server=%s: %s", self.server, error)
                    await self._wait(services.randomness.jitter(_FIRST_PAUSE_SECONDS))
                except Exception as error:
                    logger.exception("Server not told, by a fault here server=%s", self.server)
                    await self._back_off(FaultHere(f"a fault of this server: {error!r}"))
                else:
                    self.failures = 0
        finally:
            self.is_running = False

    async def _deliver_some(self) -> None:
        """1 stored EDUs go first 2 then those in memory 3 and events, from memory or the database.

        4 what was taken is forgotten
        """
        services = self._services
        stored = await self._read_stored()
        edus = [EDU(row.edu_type, row.content) for row in stored]  # 1
        keys = list(self._edus)[: MAX_EDUS - len(edus)]  # 2
        light = {key: self._edus.pop(key) for key in keys}
        edus += light.values()
        reached = self.delivered
        pdus: Sequence[bytes] = []
        taken: list[tuple[int, bytes]] = []
        try:
            if self.is_behind:  # 3
                found = await services.catch_up.next_page(self.server, self.delivered)
                pdus, reached = found.pdus, found.reached
                self.is_behind = not found.is_end or reached < self._newest_missed
                if self.is_behind and reached == self.delivered:
                    await self._wait(_LOOK_AGAIN_SECONDS)
            else:
                while self._pdus and len(taken) < MAX_PDUS:
                    taken.append(self._pdus.popleft())
                pdus = [pdu for _, pdu in taken]
                if taken:  # the cursor does not pass what is still on its way
                    settled = min(taken[-1][0], services.catch_up.settled)
                    reached = max(self.delivered, settled)
            if pdus or edus:
                async with _turn(services.turns.of(self.failures)):
                    await services.transmission.send(self.server, Batch(pdus, edus))
                FEDERATION_TRANSACTIONS.labels("sent").inc()
        except BaseException:
            self.has_stored_edus = self.has_stored_edus or bool(stored)
            for key, edu in light.items():
                self._edus.setdefault(key, edu)
            self._pdus = deque(sorted([*taken, *self._pdus]))
            if reached > self.delivered and not taken:
                self.fall_behind()
            raise
        if stored:  # 4
            nids = [row.edu_nid for row in stored]
            await services.database.run(outgoing_edus.delete_edus, nids)
        self.delivered = reached
        await services.database.run(
            destinations.update_delivered, self.server, reached, services.clock.now_ms()
        )

    async def _read_stored(self) -> Sequence[StoredEDU]:
        """What is stored while they are read may not be among them: it is read the next time."""
        if not self.has_stored_edus:
            return []
        self.has_stored_edus = False
        is_rest = True
        try:
            found = await self._services.database.read(
                outgoing_edus.list_edus, self.server, MAX_EDUS
            )
            is_rest = len(found) == MAX_EDUS
        finally:
            self.has_stored_edus = self.has_stored_edus or is_rest
        return found

    async def _back_off(self, error: RequestFailed) -> None:
        services = self._services
        pause = min(_FIRST_PAUSE_SECONDS * 2 ** min(self.failures, 12), _LAST_PAUSE_SECONDS)
        asked = error.retry_after_seconds if isinstance(error, ErrorAnswer) else None
        if asked is not None:
            pause = max(1.0, min(asked, _LAST_PAUSE_SECONDS))
        self._is_asked_to_wait = asked is not None
        pause = max(services.randomness.jitter(pause), 0.0 if asked is None else pause)
        self.failures += 1
        cause = cause_of(error).value
        FEDERATION_TRANSACTIONS.labels(f"failed_{cause}").inc()
        logger.info(
            "Server not told; will try again server=%s seconds=%.0f cause=%s: %s",
            self.server, pause, cause, error,
        )  # fmt: skip
        if self.failures > 1:
            # What is said now would only be old when it arrives.
            self._edus.clear()
            if self._pdus:
                self.fall_behind()
        now = services.clock.now_ms()
        try:
            await services.database.run(
                destinations.update_failing,
                self.server,
                now,
                now + int(pause * 1000),
                cause,
                str(error).replace("\x00", "")[:1000],
            )
        except DatabaseUnavailable as failure:
            logger.warning("Failure not stored server=%s: %s", self.server, failure)
        await self._wait(pause)
        self._is_asked_to_wait = False

    async def _wait(self, seconds: float) -> None:
        self._pause = Deferred()
        timer = self._services.clock.call_later(seconds, self.retry_now)
        try:
            await self._pause
        finally:
            self._pause = None
            if timer.active():
                timer.cancel()


@asynccontextmanager
async def _turn(semaphore: DeferredSemaphore) -> AsyncIterator[None]:
    await semaphore.acquire()
    try:
        yield
    finally:
        semaphore.release()
