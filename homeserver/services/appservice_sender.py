"""Tells each application service of the events that concern it.

spec: application-service-api/#pushing-events, v1.19. One transaction under way a service, in
order, repeated with back-off until it is acknowledged. What is kept is a cursor, no copies:

1. What is committed while the server runs waits in memory, bounded.
2. What memory does not have (after a restart, or an outage that was too long for it) is read again
   from the rooms that have moved since the cursor.
3. Before a transaction is sent its last event is written down, so that a repetition after a crash
   carries the same events under the same id.
"""

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain

from twisted.internet.defer import CancelledError, Deferred

from homeserver.background import Background
from homeserver.clock import Clock
from homeserver.core.identifiers import RoomID, UserID
from homeserver.engine.commit_loop import Committed
from homeserver.engine.live_room import MEMBER
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.out_of_band import load_moved
from homeserver.engine.timeline_event import TimelineEvent, load_timeline_event, with_room_id
from homeserver.metrics import APPSERVICE_TRANSACTIONS
from homeserver.randomness import Randomness
from homeserver.services.appservices import Appservice
from homeserver.storage import appservices, events, out_of_band, rooms
from homeserver.storage.database import Database
from homeserver.transport.outbound import HttpClient, RequestFailed

logger = logging.getLogger(__name__)

_MAX_EVENTS = 100
_MAX_WAITING = 10_000
_TIMEOUT_SECONDS = 60.0
_FIRST_PAUSE_SECONDS = 1.0
_LAST_PAUSE_SECONDS = 300.0

Found = tuple[RoomID, TimelineEvent]


class AppserviceSender:
    """The queue of one application service."""

    def __init__(
        self,
        service: Appservice,
        database: Database,
        live_rooms: LiveRooms,
        http: HttpClient,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self.appservice_id = service.id
        self._service = service
        self._db = database
        self._live_rooms = live_rooms
        self._http = http
        self._clock = clock
        self._randomness = randomness
        self._waiting: deque[Found] = deque()
        self._is_behind = True
        """Memory does not have everything after the cursor."""
        self._news: Deferred[None] = Deferred()
        self._delivered = 0
        self._newest = 0
        self._pause: Deferred[None] | None = None
        self._is_reached = False

    async def start(self, position: int, background: Background) -> None:
        """Go on after the last acknowledged event; a new service begins at `position`."""
        cursor = await self._db.read(appservices.find_cursor, self._service.id)
        if cursor is None:
            await self._db.run(appservices.upsert_cursor, self._service.id, position, None)
            self._delivered = position
        else:
            self._delivered = cursor.delivered
        self._newest = position
        if self._service.registration.url:
            background.run(f"appservice {self._service.id}", self._run())

    def note_reached(self) -> None:
        """The service has answered a ping: do not wait for the end of a back-off."""
        if self._pause is not None and not self._pause.called:
            self._is_reached = True
            self._pause.cancel()

    def note_committed(self, committed: Sequence[Committed]) -> None:
        """Listen to the notifier, and to memberships in rooms that this server is not in."""
        for one in committed:
            self._newest = max(self._newest, one.event.event_nid)
            if self._is_behind:
                continue
            room = self._live_rooms.find_loaded(one.room_id)
            if room is None or len(self._waiting) >= _MAX_WAITING:
                self._fall_behind()
            elif self._concerns(one.room_id, one.event, room.joined):  # 1
                self._waiting.append((one.room_id, one.event))
        if not self._news.called:
            self._news.callback(None)

    def _fall_behind(self) -> None:
        self._waiting.clear()
        self._is_behind = True

    def _concerns(
        self, room_id: RoomID, event: TimelineEvent, joined: Iterable[UserID] = ()
    ) -> bool:
        concerned = [event.event.sender]
        if event.event.type == MEMBER:
            concerned.append(UserID(event.event.state_key or ""))
        return self._service.is_interested_in_room(room_id, chain(concerned, joined))

    async def _run(self) -> None:
        """Deliver for ever. Whatever goes wrong, begin again at what is written down."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._follow()
            except CancelledError:
                raise
            except Exception:
                logger.exception(
                    "Appservice is not told of events; will try again appservice=%s seconds=%.0f",
                    self._service.id,
                    pause,
                )
            self._fall_behind()
            await self._back_off(pause)
            pause = min(pause * 2, _LAST_PAUSE_SECONDS)

    async def _back_off(self, seconds: float) -> None:
        """Wait, but not after `note_reached`."""
        self._pause = self._clock.sleep(self._randomness.jitter(seconds))
        try:
            await self._pause
        except CancelledError:
            if not self._is_reached:
                raise
        finally:
            self._pause = None
            self._is_reached = False

    async def _follow(self) -> None:
        cursor = await self._db.read(appservices.find_cursor, self._service.id)
        if cursor is not None:
            self._delivered = cursor.delivered
            if cursor.sending is not None:
                await self._deliver(await self._read_all(cursor.sending), cursor.sending)
        while True:
            if self._is_behind:  # 2
                found, read_to = await self._read(self._delivered, self._newest)
                if not found:
                    self._delivered = read_to
                    self._is_behind = read_to != self._newest
                    await self._db.run(appservices.upsert_cursor, self._service.id, read_to, None)
                    continue
                batch = found[:_MAX_EVENTS]
            elif self._waiting:
                batch = [
                    self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_EVENTS))
                ]
            else:
                self._news = Deferred()
                await self._news
                continue
            await self._deliver(batch, batch[-1][1].event_nid)

    async def _read_all(self, up_to: int) -> list[Found]:
        """Return what concerns the service after the cursor and up to `up_to`, in order."""
        found: list[Found] = []
        after = self._delivered
        while after < up_to:
            more, after = await self._read(after, up_to)
            found += more
        return found

    async def _read(self, after: int, up_to: int) -> tuple[list[Found], int]:
        """Return the first of what concerns the service after `after`, and how far that goes."""
        found: list[Found] = []
        read_to = up_to
        for room_id in await self._db.read(rooms.list_moved_rooms, after):
            room = await self._live_rooms.find(room_id)
            if room is None:
                continue
            stored = await self._db.read(
                events.list_stream_forwards, room.room_nid, after, up_to, _MAX_EVENTS
            )
            if len(stored) == _MAX_EVENTS:
                read_to = min(read_to, stored[-1].event_nid)
            loaded = [load_timeline_event(room.version, row) for row in stored]
            found += [
                (room_id, event) for event in loaded if self._concerns(room_id, event, room.joined)
            ]
        moved = await self._db.read(out_of_band.list_out_of_band, after, up_to, _MAX_EVENTS)
        if len(moved) == _MAX_EVENTS:
            read_to = min(read_to, moved[-1].event_nid)
        found += [
            (one.room_id, one.event)
            for one in map(load_moved, moved)
            if self._concerns(one.room_id, one.event)
        ]
        found = [pair for pair in found if pair[1].event_nid <= read_to]
        found.sort(key=lambda pair: pair[1].event_nid)
        return found, read_to

    async def _deliver(self, batch: Sequence[Found], last: int) -> None:
        registration = self._service.registration
        jsons = [with_room_id(event.json, room_id) for room_id, event in batch]
        body = b'{"events":[' + b",".join(jsons) + b"]}"
        url = f"{(registration.url or '').rstrip('/')}/_matrix/app/v1/transactions/{last}"
        await self._db.run(appservices.upsert_cursor, self._service.id, self._delivered, last)  # 3
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                answer = await self._http.request(
                    "PUT",
                    url,
                    token=registration.hs_token,
                    body=body,
                    timeout_seconds=_TIMEOUT_SECONDS,
                )
                problem = None if answer.status == 200 else f"status {answer.status}"  # noqa: PLR2004
            except RequestFailed as error:
                problem = str(error)
            if problem is None:
                break
            APPSERVICE_TRANSACTIONS.labels("failed").inc()
            logger.warning(
                "Appservice does not take its events; will try again"
                " appservice=%s cause=%s seconds=%.0f",
                self._service.id, problem, pause,
            )  # fmt: skip
            await self._back_off(pause)
            pause = min(pause * 2, _LAST_PAUSE_SECONDS)
        APPSERVICE_TRANSACTIONS.labels("delivered").inc()
        self._delivered = last
        await self._db.run(appservices.upsert_cursor, self._service.id, last, None)
