"""Learns the members of rooms that were joined without them.

spec: server-server-api/#joining-rooms (`members_omitted`), v1.19. Invariant: every room that lacks
members is worked on while a local user is in it, after each restart anew, until it lacks none; the
server that answered the join is asked first, then others of the room, with growing pauses.
"""

import logging
from collections.abc import Sequence

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore

from homeserver.background import Background
from homeserver.clock import Clock, cancel_call
from homeserver.core.identifiers import RoomID, ServerName
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.partial_rooms import PartialRoom
from homeserver.engine.remote_rooms import RemoteRooms
from homeserver.engine.remote_server import RemoteFailure
from homeserver.errors import DatabaseUnavailable, MatrixError
from homeserver.randomness import Randomness
from homeserver.services.federation.remote_servers import RemoteServers

logger = logging.getLogger(__name__)

_MAX_AT_ONCE = 3
"""Rooms whose members are fetched; a large one takes hundreds of megabytes meanwhile."""
_SERVERS_A_ROUND = 5
_FIRST_PAUSE_SECONDS = 10.0
_LAST_PAUSE_SECONDS = 3600.0


class PartialJoins:
    def __init__(
        self,
        rooms: RemoteRooms,
        live_rooms: LiveRooms,
        servers: RemoteServers,
        clock: Clock,
        randomness: Randomness,
        background: Background,
    ) -> None:
        self._rooms = rooms
        self._live_rooms = live_rooms
        self._servers = servers
        self._clock = clock
        self._randomness = randomness
        self._background = background
        self._under_way: set[RoomID] = set()
        self._wanted: set[RoomID] = set()
        """Rooms joined since the work on them began, or began again."""
        self._pauses: dict[RoomID, Deferred[None]] = {}
        self._turns = DeferredSemaphore(_MAX_AT_ONCE)

    async def start(self) -> None:
        """Go on with the rooms that the last process left without their members."""
        for room in await self._rooms.partial_rooms.list_rooms():
            self.begin(room.room_id)

    async def list_servers(self, room_id: RoomID) -> Sequence[ServerName]:
        """Return who is in a room that lacks members, as the answer to the join said."""
        room = await self._live_rooms.find(room_id)
        return () if room is None or room.partial is None else room.partial.servers

    def begin(self, room_id: RoomID) -> None:
        """See to it that a room gets its members; should that be under way, at once and anew."""
        self._wanted.add(room_id)
        if room_id in self._under_way:
            self._end_pause(room_id)
            return
        self._under_way.add(room_id)
        self._background.run("members of a room", self._complete(room_id))

    async def _complete(self, room_id: RoomID) -> None:
        try:
            while room_id in self._wanted:
                self._wanted.discard(room_id)
                await self._learn(room_id)
        finally:
            self._under_way.discard(room_id)
            self._wanted.discard(room_id)

    async def _learn(self, room_id: RoomID) -> None:
        """Return when the members are known, or not wanted; or when the room was joined again."""
        began = self._clock.monotonic()
        rounds = 0
        while room_id not in self._wanted:
            try:
                partial = await self._find(room_id)
                if partial is None:
                    return
                if await self._try_round(partial, rounds):
                    seconds = self._clock.monotonic() - began
                    logger.info("Members are known room=%s seconds=%.1f", room_id, seconds)
                    return
            except DatabaseUnavailable as error:
                logger.warning("Members wait for the database room=%s: %s", room_id, error)
            except CancelledError:
                raise
            except Exception:
                # Whatever it is: the room must not lack its members until the next restart.
                logger.exception("Members cannot be learnt room=%s", room_id)
            pause = min(_FIRST_PAUSE_SECONDS * 2 ** min(rounds, 12), _LAST_PAUSE_SECONDS)
            pause = self._randomness.jitter(pause)
            rounds += 1
            logger.info("Members not learnt room=%s next_seconds=%.0f", room_id, pause)
            if room_id not in self._wanted:
                await self._wait(room_id, pause)

    async def _wait(self, room_id: RoomID, seconds: float) -> None:
        waiting = self._pauses[room_id] = Deferred()
        timer = self._clock.call_later(seconds, lambda: self._end_pause(room_id))
        try:
            await waiting
        finally:
            del self._pauses[room_id]
            cancel_call(timer)

    def _end_pause(self, room_id: RoomID) -> None:
        waiting = self._pauses.get(room_id)
        if waiting is not None and not waiting.called:
            waiting.callback(None)

    async def _find(self, room_id: RoomID) -> PartialRoom | None:
        """Return what is known of a room that still lacks members and has a local user."""
        room = await self._live_rooms.find(room_id)
        if room is None or not room.is_partial:
            return None
        if not await self._rooms.out_of_band.is_resident(room_id):
            logger.info("Members are not wanted any more room=%s", room_id)
            return None
        return await self._rooms.partial_rooms.find(room)

    async def _try_round(self, partial: PartialRoom, number: int) -> bool:
        """Ask some of the room's servers, each round others but for the first."""
        for server in _choose(partial.servers, number):
            await self._turns.acquire()
            try:
                logger.info("Asking for members room=%s server=%s", partial.room_id, server)
                await self._rooms.partial.complete(partial.room_id, self._servers.get(server))
            except (RemoteFailure, MatrixError) as error:
                logger.info("No members room=%s server=%s: %s", partial.room_id, server, error)
            else:
                return True
            finally:
                self._turns.release()
        return False


def _choose(servers: Sequence[ServerName], number: int) -> list[ServerName]:
    first, others = list(servers[:1]), servers[1:]
    count = min(_SERVERS_A_ROUND - 1, len(others))
    start = number * count
    return first + [others[(start + n) % len(others)] for n in range(count)]
