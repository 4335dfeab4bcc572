"""Which event was sent at a moment of which this server has no history.

spec: server-server-api/#get_matrixfederationv1timestamp_to_eventroomid, v1.19. Invariant: another
server only says where to look: what counts is the event itself, checked and taken in as history.
"""

import logging
from dataclasses import dataclass

from homeserver.background import Background
from homeserver.clock import Clock
from homeserver.core.identifiers import ServerName
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.remote_rooms import RemoteRooms
from homeserver.engine.remote_server import RemoteFailure
from homeserver.errors import MatrixError
from homeserver.services.federation.remote_history import RemoteHistory, is_ended
from homeserver.services.federation.remote_servers import RemoteServers
from homeserver.services.federation.requests import FederationRequests, list_event_ids
from homeserver.transport.outbound import RequestFailed

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Search:
    timestamp: int
    backwards: bool
    nearest: int | None
    """When the nearest known event was sent."""
    is_found: bool = False

    def is_nearer(self, timestamp: int) -> bool:
        if self.backwards:
            lowest = timestamp if self.nearest is None else self.nearest + 1
            return lowest <= timestamp <= self.timestamp
        highest = timestamp if self.nearest is None else self.nearest - 1
        return self.timestamp <= timestamp <= highest


class RemoteMoments:
    def __init__(
        self,
        rooms: RemoteRooms,
        history: RemoteHistory,
        servers: RemoteServers,
        requests: FederationRequests,
        clock: Clock,
        background: Background,
    ) -> None:
        self._rooms = rooms
        self._history = history
        self._servers = servers
        self._requests = requests
        self._clock = clock
        self._background = background

    async def fetch(
        self, room: LiveRoom, timestamp: int, nearest: int | None, *, backwards: bool
    ) -> bool:
        """Store what other servers say is nearer to a moment; return whether there is any.

        nearest  when the nearest event known here was sent
        """
        search = _Search(timestamp, backwards, nearest)
        running = self._background.run("moment of a room", self._search(room, search))
        await is_ended(running, self._clock, self._history.deadline())
        return search.is_found

    async def _search(self, room: LiveRoom, search: _Search) -> None:
        for server in self._history.list_servers(room):
            try:
                if await self._ask(server, room, search):
                    return
            except (RequestFailed, RemoteFailure, MatrixError) as error:
                logger.info("Moment not found room=%s server=%s: %s", room.room_id, server, error)

    async def _ask(self, server: ServerName, room: LiveRoom, search: _Search) -> bool:
        """1 the server says which event 2 and gives it, if it is not known 3 it is stored."""
        answer = await self._requests.timestamp_to_event(  # 1
            server, room.room_id, search.timestamp, "b" if search.backwards else "f"
        )
        event_ids = list_event_ids([answer.get("event_id")])
        said = answer.get("origin_server_ts")
        if not event_ids or not isinstance(said, int) or not search.is_nearer(said):
            return False
        node = (await self._rooms.graph.load(room, event_ids)).get(event_ids[0])
        if node is None or node.is_outlier:
            source = self._servers.get(server)
            pdu = await source.get_event(event_ids[0])  # 2
            await self._rooms.backfill.take_in(room.room_id, source, [pdu])  # 3
        search.is_found = True
        return True
