"""History that this server lacks, fetched when somebody reads up to where it is missing.

spec: server-server-api/#backfilling-and-retrieving-missing-events, v1.19. Invariants: whoever reads
waits a bounded time; one fetch a room at a time; a gap that nobody could close is left alone for a
while that grows, so that reading it again and again asks nobody.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from twisted.internet.defer import Deferred

from homeserver.background import Background
from homeserver.clock import Clock, cancel_call
from homeserver.core.events import Event
from homeserver.core.identifiers import EventID, RoomID, ServerName
from homeserver.engine.backfill import MAX_EDGE, Gap
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.remote_rooms import RemoteRooms
from homeserver.engine.remote_server import RemoteFailure
from homeserver.errors import MatrixError
from homeserver.randomness import Randomness
from homeserver.services.federation.remote_servers import RemoteServers

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 10.0
_MAX_SERVERS = 4
"""So many are asked about one gap."""
_MAX_REMEMBERED = 10_000
_FIRST_PAUSE_SECONDS = 10.0
_LAST_PAUSE_SECONDS = 3600.0
_SERVER_PAUSE_SECONDS = 60.0
"""A server that gave nothing is asked last for so long."""


class Progress(Enum):
    WHOLE = "whole"
    """Nothing is missing."""
    MORE = "more"
    """There may be new events: read again."""
    LATER = "later"
    """They are being fetched, but not before the time was up."""
    HOPELESS = "hopeless"
    """Something is missing that nobody could give."""


@dataclass(frozen=True, slots=True)
class Extended:
    progress: Progress
    depths: tuple[int, int] = (0, 0)
    """LATER: depths of the first and the last event before which something is missing."""


@dataclass(frozen=True, slots=True)
class _Failed:
    times: int
    until: float


class RemoteHistory:
    def __init__(
        self,
        server_name: ServerName,
        rooms: RemoteRooms,
        servers: RemoteServers,
        clock: Clock,
        randomness: Randomness,
        background: Background,
    ) -> None:
        self._server_name = server_name
        self._rooms = rooms
        self._servers = servers
        self._clock = clock
        self._randomness = randomness
        self._background = background
        self._running: dict[RoomID, Deferred[None]] = {}
        self._failed: OrderedDict[tuple[RoomID, EventID], _Failed] = OrderedDict()
        self._unhelpful: OrderedDict[ServerName, float] = OrderedDict()

    def deadline(self) -> float:
        """Return until when a reader who begins now waits, of the monotonic clock."""
        return self._clock.monotonic() + _WAIT_SECONDS

    async def extend(self, room: LiveRoom, over: int, up_to: int, deadline: float) -> Extended:
        """Fetch what is missing before events of depths in (over, up_to].

        1. Nobody else has been in the room, or nothing is missing.
        2. What nobody could give a short while ago is not asked for.
        3. The rest is fetched, for whoever waits for it.
        """
        if self._server_name not in room.servers or (  # 1
            len(room.servers) == 1 and not room.is_partial
        ):
            return Extended(Progress.WHOLE)
        gaps = await self._rooms.backfill.list_gaps(room.room_id, over, up_to)
        if not gaps:
            return Extended(Progress.WHOLE)
        hopeful = [gap for gap in gaps if self._is_hopeful(room.room_id, gap.event_id)]  # 2
        if not hopeful:
            return Extended(Progress.HOPELESS)
        depths = (hopeful[-1].depth, hopeful[0].depth)
        if self._clock.monotonic() >= deadline:
            return Extended(Progress.LATER, depths)
        running = self._running.get(room.room_id)  # 3
        if running is None:
            running = self._background.run(
                "history of a room", self._fetch(room, hopeful[:MAX_EDGE])
            )
            self._running[room.room_id] = running

            def ended(_: None) -> None:
                self._running.pop(room.room_id, None)

            running.addBoth(ended)
        if await is_ended(running, self._clock, deadline) and not self._background.is_stopped:
            return Extended(Progress.MORE)
        return Extended(Progress.LATER, depths)

    async def is_gap_before(self, room: LiveRoom, event: Event | None) -> bool:
        """Return whether history is missing before an event; None: before any."""
        if event is None:
            return bool(await self._rooms.backfill.list_gaps(room.room_id))
        gaps = await self._rooms.backfill.list_gaps(room.room_id, event.depth - 1, event.depth)
        return any(gap.event_id == event.event_id for gap in gaps)

    def list_servers(self, room: LiveRoom) -> list[ServerName]:
        """Return some of a room's other servers, those with the most members first."""
        now = self._clock.monotonic()
        known = [ServerName(name) for name in room.servers]
        known += () if room.partial is None else room.partial.servers
        names = [name for name in dict.fromkeys(known) if name != self._server_name]
        names.sort(
            key=lambda name: (self._unhelpful.get(name, now) > now, -room.servers.get(name, 0))
        )
        return names[:_MAX_SERVERS]

    def _is_hopeful(self, room_id: RoomID, event_id: EventID) -> bool:
        failed = self._failed.get((room_id, event_id))
        return failed is None or failed.until <= self._clock.monotonic()

    async def _fetch(self, room: LiveRoom, gaps: Sequence[Gap]) -> None:
        helped = False
        try:
            helped = await self._ask(room, [gap.event_id for gap in gaps])
        finally:
            for gap in gaps:
                self._note(room.room_id, gap.event_id, helped=helped)

    async def _ask(self, room: LiveRoom, edge: Sequence[EventID]) -> bool:
        """Return whether some server had history that is new."""
        for server in self.list_servers(room):
            try:
                count = await self._rooms.backfill.extend(
                    room.room_id, self._servers.get(server), edge
                )
            except (RemoteFailure, MatrixError) as error:
                logger.info("No history room=%s server=%s: %s", room.room_id, server, error)
                count = 0
            if count:
                logger.info(
                    "History fetched room=%s server=%s count=%d", room.room_id, server, count
                )
                return True
            self._unhelpful[server] = self._clock.monotonic() + _SERVER_PAUSE_SECONDS
            self._unhelpful.move_to_end(server)
            if len(self._unhelpful) > _MAX_REMEMBERED:
                self._unhelpful.popitem(last=False)
        return False

    def _note(self, room_id: RoomID, event_id: EventID, *, helped: bool) -> None:
        key = (room_id, event_id)
        failed = self._failed.pop(key, None)
        if helped:
            return
        times = 0 if failed is None else failed.times
        pause = min(_FIRST_PAUSE_SECONDS * 2 ** min(times, 12), _LAST_PAUSE_SECONDS)
        until = self._clock.monotonic() + self._randomness.jitter(pause)
        self._failed[key] = _Failed(times + 1, until)
        if len(self._failed) > _MAX_REMEMBERED:
            self._failed.popitem(last=False)


async def is_ended(running: Deferred[None], clock: Clock, deadline: float) -> bool:
    """Wait for something in the background until it has ended, or a time of the clock."""
    waiting: Deferred[None] = Deferred()

    def go_on(_: object = None) -> None:
        if not waiting.called:
            waiting.callback(None)

    running.addBoth(go_on)
    timer = clock.call_later(max(0.0, deadline - clock.monotonic()), go_on)
    try:
        await waiting
    finally:
        cancel_call(timer)
    return bool(running.called)
