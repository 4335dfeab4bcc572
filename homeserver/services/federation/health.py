"""How it stands with other servers, for administrators: who is behind, why, and since when.

Invariant: looking costs a few queries, however many servers there are and however much waits for
them: events are counted up to a bound.
"""

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from homeserver.core.identifiers import RoomID, ServerName
from homeserver.engine.live_rooms import LiveRooms
from homeserver.errors import NotFound
from homeserver.metrics import FEDERATION_BEHIND, FEDERATION_FAILING, FEDERATION_QUEUED
from homeserver.services.federation.catch_up import CatchUp
from homeserver.services.federation.destination import DestinationQueue
from homeserver.services.federation.sender import FederationSender
from homeserver.storage import destinations, outgoing_edus, outgoing_events
from homeserver.storage.database import Database
from homeserver.storage.destinations import DestinationRow
from homeserver.storage.outgoing_edus import DeadLetter

MAX_COUNTED = 100_000
"""Events that are looked at to count what waits; more are `is_at_least`."""
MEASURE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Lag:
    """What a server has not been told yet."""

    events: int = 0
    is_at_least: bool = False
    oldest_position: int | None = None
    oldest_ts: int | None = None
    """When the oldest of them was written."""


@dataclass(frozen=True, slots=True)
class DestinationHealth:
    row: DestinationRow
    lag: Lag
    is_sending: bool
    """Something is under way to it, or waits for the next try."""
    light_edus: int
    """Typing, receipts and the like, in memory."""
    stored_edus: int
    """Messages to devices, changes of devices and keys."""
    dead_letters: int

    @property
    def is_failing(self) -> bool:
        return self.row.failing_since_ts is not None


@dataclass(frozen=True, slots=True)
class RoomHealth:
    servers: int
    """Other servers in the room."""
    behind: Sequence[DestinationHealth]
    """Those that lack events of this room; `lag` is about the room alone."""


class FederationHealth:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        catch_up: CatchUp,
        sender: FederationSender,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._catch_up = catch_up
        self._sender = sender

    async def list_destinations(self) -> list[DestinationHealth]:
        """Return all; those that fail first, the longest of them first, then by what waits."""
        found = await self._describe(await self._db.read(destinations.list_destinations))
        return sorted(found, key=_urgency)

    async def get_destination(self, server: ServerName) -> DestinationHealth:
        """Raises NotFound for a server that never had to be told anything."""
        rows = await self._db.read(destinations.list_destinations)
        found = await self._describe([row for row in rows if row.server_name == server])
        if not found:
            raise NotFound("There was never anything to tell this server")
        return found[0]

    async def list_dead_letters(self, server: ServerName) -> list[DeadLetter]:
        return await self._db.read(outgoing_edus.list_dead_letters, server)

    async def retry(self, server: ServerName) -> bool:
        """Try now; return whether anything waits. Raises NotFound as `get_destination`."""
        await self.get_destination(server)
        return await self._sender.retry(server)

    async def get_room(self, room_id: RoomID) -> RoomHealth:
        """Raises NotFound."""
        if await self._live_rooms.find(room_id) is None:
            raise NotFound("Unknown room")
        servers = await self._catch_up.list_servers(room_id)
        rows = await self._db.read(destinations.list_destinations)
        found = await self._describe([row for row in rows if row.server_name in servers], room_id)
        behind = [one for one in found if one.lag.events]
        return RoomHealth(len(servers), sorted(behind, key=_urgency))

    async def measure(self) -> None:
        """Set the gauges."""
        queues = self._sender.list_queues()
        stored = await self._db.read(outgoing_edus.count_edus)
        light = sum(len(queue.waiting_positions) + queue.waiting_edus for queue in queues)
        FEDERATION_FAILING.set(await self._db.read(destinations.count_failing))
        FEDERATION_BEHIND.set(sum(queue.is_behind for queue in queues))
        FEDERATION_QUEUED.set(light + sum(stored.values()))

    async def _describe(
        self, rows: Sequence[DestinationRow], room_id: RoomID | None = None
    ) -> list[DestinationHealth]:
        """`room_id`: count the events of this room alone."""
        queues = {queue.server: queue for queue in self._sender.list_queues()}
        concerned = [queues[row.server_name] for row in rows if row.server_name in queues]
        lags = await self._find_lags([queue for queue in concerned if queue.has_work], room_id)
        stored = await self._db.read(outgoing_edus.count_edus)
        letters = await self._db.read(outgoing_edus.count_dead_letters)
        found = []
        for row in rows:
            queue = queues.get(row.server_name)
            found.append(
                DestinationHealth(
                    row,
                    lags.get(row.server_name, Lag()),
                    is_sending=queue is not None and queue.is_running,
                    light_edus=0 if queue is None else queue.waiting_edus,
                    stored_edus=stored.get(row.server_name, 0),
                    dead_letters=letters.get(row.server_name, 0),
                )
            )
        return found

    async def _find_lags(
        self, queues: Sequence[DestinationQueue], room_id: RoomID | None
    ) -> Mapping[ServerName, Lag]:
        """Count what waits for each of these.

        1. All positions after the lowest cursor, by room.   2. For who is behind, those of its
        rooms after its own cursor count; for the others, what memory has.   3. The time of the
        oldest of each.
        """
        cursors = [queue.delivered for queue in queues]
        if not cursors:
            return {}
        rows = await self._db.read(outgoing_events.list_positions, min(cursors), MAX_COUNTED)  # 1
        is_cut_off = len(rows) == MAX_COUNTED
        by_room: dict[RoomID, list[int]] = {}
        for row in rows:
            if room_id is None or row.room_id == room_id:
                by_room.setdefault(row.room_id, []).append(row.position)
        rooms = [
            (await self._catch_up.list_servers(room), positions)
            for room, positions in by_room.items()
        ]
        shown = {position for positions in by_room.values() for position in positions}
        lags = {}
        for queue in queues:  # 2
            if queue.is_behind:
                lags[queue.server] = _missed(queue, rooms, is_at_least=is_cut_off)
                continue
            waiting = [p for p in queue.waiting_positions if room_id is None or p in shown]
            lags[queue.server] = Lag(len(waiting), False, waiting[0] if waiting else None)
        oldest = {lag.oldest_position for lag in lags.values()} - {None}
        times = await self._db.read(outgoing_events.list_times, [p for p in oldest if p])  # 3
        return {
            server: replace(lag, oldest_ts=times.get(lag.oldest_position or 0))
            for server, lag in lags.items()
        }


def _missed(
    queue: DestinationQueue,
    rooms: Sequence[tuple[Collection[ServerName], Sequence[int]]],
    *,
    is_at_least: bool,
) -> Lag:
    count = 0
    oldest = None
    for servers, positions in rooms:
        first = bisect_right(positions, queue.delivered)
        if queue.server in servers and first < len(positions):
            count += len(positions) - first
            oldest = min(positions[first], oldest or positions[first])
    return Lag(count, is_at_least, oldest)


def _urgency(one: DestinationHealth) -> tuple[bool, int, int, str]:
    since = one.row.failing_since_ts or 0
    return (not one.is_failing, since, -one.lag.events, one.row.server_name)
