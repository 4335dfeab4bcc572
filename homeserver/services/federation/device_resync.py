"""Asks other servers for the device lists that are wanting, until it has them.

spec: server-server-api/#device-management, v1.19. One user of a server at a time, few servers at
once. Invariant: every list that is marked in the database is here, or under way.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore

from homeserver.background import Background
from homeserver.clock import Clock
from homeserver.core.identifiers import ServerName, UserID, server_name_of
from homeserver.engine.commit_loop import Committed
from homeserver.engine.live_room import MEMBER
from homeserver.engine.live_rooms import LiveRooms
from homeserver.errors import BadJSON, DatabaseUnavailable
from homeserver.randomness import Randomness
from homeserver.services.federation.remote_devices import RemoteDevices
from homeserver.transport.outbound import RequestFailed

logger = logging.getLogger(__name__)

_AT_ONCE = 20
_REST_SECONDS = 5.0
"""A server that was asked for everything that was wanting is not asked again at once."""
_FIRST_PAUSE_SECONDS = 10.0
_LAST_PAUSE_SECONDS = 600.0


class DeviceResync:
    def __init__(
        self,
        remote_devices: RemoteDevices,
        live_rooms: LiveRooms,
        background: Background,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._remote_devices = remote_devices
        self._live_rooms = live_rooms
        self._background = background
        self._clock = clock
        self._randomness = randomness
        self._waiting: dict[ServerName, OrderedDict[UserID, None]] = {}
        self._pauses: dict[ServerName, Deferred[None]] = {}
        self._slots = DeferredSemaphore(_AT_ONCE)

    async def start(self) -> None:
        for user_id in await self._remote_devices.start():
            self.note(user_id)

    def note(self, user_id: UserID) -> None:
        """Say that the list of a user is marked."""
        server = server_name_of(user_id)
        if server is None:
            return
        users = self._waiting.get(server)
        if users is not None:
            users[user_id] = None
            return
        self._waiting[server] = OrderedDict({user_id: None})
        self._background.run("device lists of a server", self._run(server))

    def note_reached(self, server: ServerName) -> None:
        """The server has been heard of: do not wait for the back-off."""
        pause = self._pauses.get(server)
        if pause is not None and not pause.called:
            pause.callback(None)

    async def _run(self, server: ServerName) -> None:
        users = self._waiting[server]
        pause = _FIRST_PAUSE_SECONDS
        try:
            while users:
                user_id = next(iter(users))
                del users[user_id]
                try:
                    if not await self._refresh(user_id):
                        users[user_id] = None
                    pause = _FIRST_PAUSE_SECONDS
                    if not users.keys() - {user_id}:
                        await self._clock.sleep(_REST_SECONDS)
                except CancelledError:
                    raise
                except (RequestFailed, BadJSON, DatabaseUnavailable) as error:
                    logger.info("Devices not told; will ask again user=%s: %s", user_id, error)
                    users[user_id] = None
                    await self._wait(server, self._randomness.jitter(pause))
                    pause = min(pause * 2, _LAST_PAUSE_SECONDS)
        finally:
            del self._waiting[server]

    async def _refresh(self, user_id: UserID) -> bool:
        await self._slots.acquire()
        try:
            if not await self._remote_devices.is_followed(user_id):
                return True  # out of sight since
            return await self._remote_devices.refresh(user_id)
        finally:
            self._slots.release()

    async def _wait(self, server: ServerName, seconds: float) -> None:
        waiting = self._pauses[server] = Deferred()
        timer = self._clock.call_later(seconds, lambda: self.note_reached(server))
        try:
            await waiting
        finally:
            del self._pauses[server]
            if timer.active():
                timer.cancel()

    def note_committed(self, committed: Sequence[Committed]) -> None:
        """Forget those whom no local user shares a room with any more."""
        gone: set[UserID] = set()
        for each in committed:
            event = each.event.event
            if event.type != MEMBER or event.membership == "join" or event.state_key is None:
                continue
            room = self._live_rooms.find_loaded(each.room_id)
            user_id = UserID(event.state_key)
            if self._remote_devices.is_remote(user_id):
                gone.add(user_id)
            elif room is not None and self._remote_devices.server_name not in room.servers:
                gone |= {user for user in room.joined if self._remote_devices.is_remote(user)}
        if gone:
            self._background.run(
                "devices out of sight", self._remote_devices.forget_if_unseen(gone)
            )
