"""History that other servers have and this one lacks, put in its place.

spec: server-server-api/#backfilling-and-retrieving-missing-events, v1.19. Invariant: history is
shown where it belongs and to whom it may be, and moves nothing: not the current state, not the
extremities, not what a sync tells.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.errors import MissingEvent
from homeserver.core.identifiers import EventID, RoomID
from homeserver.core.json_types import JsonObject
from homeserver.engine.auth_chains import TooFarToWalk
from homeserver.engine.event_placing import EventPlacing, Outcome
from homeserver.engine.missing_events import parents_first
from homeserver.engine.pdu_checks import PDUChecks
from homeserver.engine.policy_checks import Opinion, PolicyChecks
from homeserver.engine.remote_server import CountedServer, RemoteFailure, RemoteServer
from homeserver.engine.room_writer import RoomWriter
from homeserver.storage import served_events
from homeserver.storage.database import Database
from homeserver.storage.events import decode_event_id

logger = logging.getLogger(__name__)

MAX_EVENTS = 100
_MAX_REQUESTS = 20
"""What the source may be asked for besides the history itself."""
MAX_EDGE = 20
"""So many gaps are asked about at once."""
_MAX_GAPS = 100
DEEPEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Gap:
    """Before this event history is missing."""

    event_id: EventID
    depth: int


class Backfill:
    def __init__(
        self,
        database: Database,
        checks: PDUChecks,
        policy: PolicyChecks,
        placing: EventPlacing,
        writer: RoomWriter,
    ) -> None:
        self._db = database
        self._checks = checks
        self._policy = policy
        self._placing = placing
        self._writer = writer

    async def list_gaps(self, room_id: RoomID, over: int = -1, up_to: int = DEEPEST) -> list[Gap]:
        """Return events of depths in (over, up_to] of which a parent is unknown, deepest first."""
        room = await self._writer.find_room(room_id)
        rows = await self._db.read(
            served_events.list_after_gaps, room.room_nid, over, up_to, _MAX_GAPS
        )
        return [Gap(decode_event_id(room.version, row.event_id), row.depth) for row in rows]

    async def extend(
        self,
        room_id: RoomID,
        source: RemoteServer,
        edge: Sequence[EventID],
        *,
        limit: int = MAX_EVENTS,
    ) -> int:
        """Fetch what came before some events; return how many are new. Raises RemoteFailure."""
        if not edge:
            return 0
        pdus = await source.backfill(room_id, edge[:MAX_EDGE], limit)
        return await self.take_in(room_id, source, pdus)

    async def take_in(
        self, room_id: RoomID, source: RemoteServer, pdus: Sequence[JsonObject]
    ) -> int:
        """Store what another server has told of a room's history; return how many are new.

        1. Signatures and hashes are checked.
        2. A policy server of the room is asked about each; what it says nothing of is left out.
        3. Oldest first: of those whose parents are unknown, the source says what the state was.
        4. Nothing else depends on those that cannot be decided: they are left out.
        """
        room = await self._writer.find_room(room_id)
        events = await self._checks.check_all(room, pdus, MAX_EVENTS)  # 1
        counted = CountedServer(source, _MAX_REQUESTS)
        count = 0
        for judged in await self._policy.judge(room, parents_first(events)):  # 2
            if judged.opinion is Opinion.UNKNOWN:
                continue
            event, is_unwanted = judged.event, judged.opinion is Opinion.REFUSED
            try:
                outcome = await self._placing.place(  # 3
                    room_id, counted, event, is_history=True, is_unwanted=is_unwanted
                )
            except (MissingEvent, RemoteFailure, TooFarToWalk) as error:  # 4
                logger.info("History not decided event=%s: %s", event.event_id, error)
            else:
                count += outcome is not Outcome.KNOWN
        return count
