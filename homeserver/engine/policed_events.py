"""Events of local users in rooms with a policy server: made, signed by it, given their place.

spec: server-server-api/#policy-servers, v1.19. While the policy server is asked, the room goes on:
the event keeps the parents it was signed with, and takes its place as those of other servers do,
beside what came meanwhile. Invariant: what is committed is what was signed.
"""

import logging

from homeserver.core.errors import EventRejected, MissingEvent
from homeserver.core.identifiers import RoomID
from homeserver.engine.auth_chains import TooFarToWalk
from homeserver.engine.event_placing import EventPlacing
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.policy_checks import PolicyChecks
from homeserver.engine.remote_server import RemoteFailure
from homeserver.engine.room_change import EventTemplate, RoomChanges
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.errors import NotFound, ServiceUnavailable

logger = logging.getLogger(__name__)

_MAX_MADE = 5
"""Times that an event is made, and signed, for a room that moves meanwhile."""
_RETRY_AFTER_MS = 2_000


class PolicedEvents:
    def __init__(
        self,
        live_rooms: LiveRooms,
        changes: RoomChanges,
        policy: PolicyChecks,
        placing: EventPlacing,
    ) -> None:
        self._live_rooms = live_rooms
        self._changes = changes
        self._policy = policy
        self._placing = placing

    async def send(self, room_id: RoomID, template: EventTemplate) -> TimelineEvent:
        """Have an event signed and commit it.

        Raises EventRejected, EventMalformed, NotLoaded; PolicyRefused, and another MatrixError when
        the policy server gives no answer or the room no rest.
        """
        for _ in range(_MAX_MADE):
            room = await self._live_rooms.find(room_id)
            if room is None:
                raise NotFound("Unknown room")
            made = self._changes.make(room, template)
            if isinstance(made, TimelineEvent):
                return made
            try:
                with self._placing.awaiting_own(made.event_id):
                    event = await self._policy.sign(room, made)
                    return await self._placing.place_own(room_id, event, template)
            except EventRejected as error:
                logger.info("Event to be made again room=%s: %s", room_id, error)
            except (MissingEvent, RemoteFailure, TooFarToWalk) as error:
                message = "The room's history cannot be walked now"
                raise ServiceUnavailable(message, retry_after_ms=_RETRY_AFTER_MS) from error
        raise ServiceUnavailable("The room moves too fast", retry_after_ms=_RETRY_AFTER_MS)
