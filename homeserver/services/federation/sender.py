"""Tells other servers what happens in the rooms they share with this one.

spec: server-server-api/#transactions, #pdus, #edus, v1.19. Whom an event is for follows from the
live room; it costs no query. Invariant: an event that was acknowledged here reaches each server of
its room, whatever restarts and outages lie between: `outgoing_events` is written with the event,
and each server's cursor moves after it has answered.
"""

from collections.abc import Collection, Hashable, Sequence

from homeserver.background import Background
from homeserver.core.events import Event
from homeserver.core.identifiers import RoomID, ServerName, server_name_of
from homeserver.engine.commit_loop import Committed
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.streams import Stream
from homeserver.services.federation.catch_up import MAX_MISSED, in_room_since, target_servers
from homeserver.services.federation.destination import DestinationQueue, Services
from homeserver.services.federation.stored_edus import TIDY_SECONDS, StoredEDUs
from homeserver.services.federation.transmission import EDU
from homeserver.storage import destinations, outgoing_edus, outgoing_events
from homeserver.storage.destinations import DestinationRow
from homeserver.storage.outgoing_edus import NewEDU
from homeserver.storage.outgoing_events import OutgoingEvent
from homeserver.storage.query import Txn

_TIDY_SECONDS = 300.0
_DELETED_AT_ONCE = 10_000


class FederationSender:
    def __init__(
        self,
        server_name: ServerName,
        live_rooms: LiveRooms,
        stream: Stream,
        services: Services,
        background: Background,
    ) -> None:
        self._server_name = server_name
        self._live_rooms = live_rooms
        self._stream = stream
        self._services = services
        self._background = background
        self._queues: dict[ServerName, DestinationQueue] = {}
        self._new: set[ServerName] = set()
        """Destinations without a row in the database yet."""
        self._is_storing_new = False

    async def start(self) -> None:
        """Go on where the last process stopped.

        1. Servers with a row have a cursor.   2. Those without one have been told everything up to
        `sending_progress`.   3. Who is behind, by what each room has said since, is told at once;
        so is who is in the room no more since then.
        """
        db = self._services.database
        rows = await db.read(destinations.list_destinations)
        for row in rows:  # 1
            self._queues[row.server_name] = DestinationQueue(
                row.server_name, row.delivered, self._services
            )
        progress = await db.read(outgoing_events.get_progress)
        pauses = {row.server_name: self._pause_left(row) for row in rows}
        lowest = min([progress, *(row.delivered for row in rows)])
        for room in await db.read(outgoing_events.list_outgoing_rooms, lowest):
            for server in await self._services.catch_up.list_servers(room.room_id):
                queue = self._queue_of(server, delivered=progress)  # 2
                if queue.delivered < room.last_position:
                    queue.fall_behind()  # 3
        for server, position in (await self._services.catch_up.list_sent_away(lowest)).items():
            queue = self._queue_of(server, delivered=progress)
            if queue.delivered < position:
                queue.fall_behind()
        for server in await db.read(outgoing_edus.list_waiting_servers):
            self._queue_of(server, delivered=self._stream.current).has_stored_edus = True
        await self._store_new()
        for queue in self._queues.values():
            self._wake(queue, pauses.get(queue.server, 0.0))
        self._background.loop("federation queues", self._tidy, every_seconds=_TIDY_SECONDS)
        stored = StoredEDUs(db, self._services.clock)
        self._background.loop("stored EDUs", stored.tidy, every_seconds=TIDY_SECONDS)

    def _pause_left(self, row: DestinationRow) -> float:
        if row.next_try_ts is None:
            return 0.0
        return max(0.0, (row.next_try_ts - self._services.clock.now_ms()) / 1000)

    # Events.

    def note_committed(self, committed: Sequence[Committed]) -> None:
        """Listen to the notifier, which still has the rooms in memory."""
        joins = [one for one in committed if one.event.event.membership == "join"]
        own = [
            (
                self._list_targets(one.room_id, one.event.event) - self._list_later(one, joins),
                one.event,
            )
            for one in committed
            if server_name_of(one.event.sender) == self._server_name
        ]
        for servers, found in own:
            self._add_pdu(servers, found.event_nid, found.event)

    async def relay(
        self, origin: ServerName, room_id: RoomID, event: Event, event_nid: int
    ) -> None:
        """Pass on an event that another server has asked this one to take in.

        Returns when it is certain to be sent.
        """
        room = await self._live_rooms.find(room_id)
        if room is None or room.list_servers() <= {self._server_name, origin}:
            return
        room_nid = room.room_nid
        servers = self._list_targets(room_id, event)  # now: the room may leave memory

        async def store(position: int) -> int:
            row = OutgoingEvent(position, room_nid, event_nid, origin)
            await self._services.database.run(outgoing_events.insert_outgoing, [row])
            return position

        position = await self._stream.write(store)
        self._add_pdu((servers | self._list_targets(room_id, event)) - {origin}, position, event)

    def _list_targets(self, room_id: RoomID, event: Event) -> set[ServerName]:
        """Return whom an event concerns: the other servers of a room in memory, and whose user it
        is about.
        """
        room = self._live_rooms.find_loaded(room_id)
        servers = set() if room is None else room.list_servers()
        return (servers | target_servers(event.pdu)) - {self._server_name}

    def _add_pdu(self, servers: Collection[ServerName], position: int, event: Event) -> None:
        for server in servers:
            # Something with an earlier position may still be on its way into the database.
            delivered = min(position - 1, self._stream.current)
            queue = self._queue_of(server, delivered=delivered)
            queue.add_pdu(position, event.pdu_bytes)
            self._wake(queue)

    def _list_later(self, before: Committed, joins: Sequence[Committed]) -> set[ServerName]:
        """Return the servers that came into a room after an event, though in the same commit."""
        room = self._live_rooms.find_loaded(before.room_id)
        position = before.event.event_nid
        came = {
            ServerName(server_name_of(one.event.event.state_key or "") or "")
            for one in joins
            if one.room_id == before.room_id and one.event.event_nid > position
        }
        return {s for s in came if room is not None and in_room_since(room, s) > position}

    # EDUs.

    def send_edu(self, servers: Collection[ServerName], key: Hashable, edu: EDU) -> None:
        """Tell servers something that only its newest state matters of; lost with the process."""
        for server in servers:
            if server != self._server_name:
                queue = self._queue_of(server, delivered=self._stream.current)
                queue.add_edu(key, edu)
                self._wake(queue)

    def note_stored_edus(self, servers: Collection[ServerName]) -> None:
        """Say that EDUs for these servers have been committed, by `store_edus`."""
        for server in servers:
            queue = self._queue_of(server, delivered=self._stream.current)
            queue.has_stored_edus = True
            self._wake(queue)

    # Destinations.

    def note_reached(self, server: ServerName) -> None:
        """A request has come from the server: it is there again."""
        queue = self._queues.get(server)
        if queue is not None:
            queue.note_reached()

    def list_queues(self) -> list[DestinationQueue]:
        return list(self._queues.values())

    async def retry(self, server: ServerName) -> bool:
        """Try a server again now; return whether there is anything to tell it."""
        queue = self._queues.get(server)
        if queue is None or not queue.has_work:
            return False
        queue.retry_now()
        return True

    def _queue_of(self, server: ServerName, *, delivered: int) -> DestinationQueue:
        queue = self._queues.get(server)
        if queue is None:
            queue = self._queues[server] = DestinationQueue(server, delivered, self._services)
            self._new.add(server)
            if not self._is_storing_new:
                self._background.run("new destinations", self._store_new())
        return queue

    async def _store_new(self) -> None:
        self._is_storing_new = True
        try:
            while self._new:
                servers = list(self._new)
                lowest = min(self._queues[server].delivered for server in servers)
                await self._services.database.run(destinations.insert_destinations, servers, lowest)
                self._new.difference_update(servers)
        finally:
            self._is_storing_new = False

    def _wake(self, queue: DestinationQueue, pause: float = 0.0) -> None:
        if queue.has_work and not queue.is_running:
            queue.is_running = True
            self._background.run(f"federation to {queue.server}", queue.run(pause))

    async def _tidy(self) -> None:
        """Note how far everybody is, and delete what everybody has been told.

        What is under way to a server has not been told yet.
        """
        if self._new:  # the database could not be reached, or they are on their way into it
            await self._store_new()
        for server, queue in list(self._queues.items()):
            if not queue.has_work and not queue.is_running:
                del self._queues[server]  # its row stays
        db = self._services.database
        current = self._stream.current
        up_to = min([current, *(queue.delivered for queue in self._queues.values())])
        await db.run(outgoing_events.update_progress, current)
        while await db.run(outgoing_events.delete_outgoing, up_to, _DELETED_AT_ONCE):
            pass
        if up_to < current:
            # Who has missed more of a room is sent its last event alone, however much there was.
            await db.run(outgoing_events.delete_all_but_newest, MAX_MISSED + 1)


def store_edus(txn: Txn, rows: Sequence[NewEDU], now_ms: int) -> None:
    """Store EDUs with what they tell of, in one transaction; then call `note_stored_edus`."""
    outgoing_edus.insert_edus(txn, rows, now_ms)
