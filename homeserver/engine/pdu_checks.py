"""The checks of an event that need nothing but the event: format, signatures, hash.

spec: server-server-api/#checks-performed-on-receipt-of-a-pdu, steps 1 to 3, v1.19. Invariant: no
event of another server gets any further without them, whichever way it came.
"""

import logging
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred

from homeserver.core.errors import EventMalformed, SignatureInvalid
from homeserver.core.events import Event, check_content_hash, parse_event, redact_event
from homeserver.core.identifiers import EventID
from homeserver.core.json_types import JsonObject
from homeserver.engine.live_rooms import LiveRoom

logger = logging.getLogger(__name__)

VerifySignatures = Callable[[Event], Deferred[None]]
"""Fails with SignatureInvalid unless everyone of `required_signers` has signed the event."""


class PDUChecks:
    def __init__(self, verify_signatures: VerifySignatures) -> None:
        self._verify_signatures = verify_signatures

    async def check(self, room: LiveRoom, pdu: JsonObject) -> Event:
        """Return the event of a PDU.

        1. It has the format of the room version, and is of this room; else it is dropped.
        2. Its signatures are right; else it is dropped.
        3. Its content hash is right; else only what is left by a redaction is kept.

        Raises EventMalformed, SignatureInvalid.
        """
        event = parse_of_room(room, pdu)  # 1
        await self._verify_signatures(event)  # 2
        if check_content_hash(event):  # 3
            return event
        return redact_event(event)

    async def check_all(
        self, room: LiveRoom, pdus: Sequence[JsonObject], limit: int
    ) -> dict[EventID, Event]:
        """Return the good ones among the first `limit`; the others are dropped."""
        good: dict[EventID, Event] = {}
        for pdu in pdus[:limit]:
            try:
                event = await self.check(room, pdu)
            except (EventMalformed, SignatureInvalid) as error:
                logger.info("Event dropped reason=%s", error)
                continue
            good[event.event_id] = event
        return good


def parse_of_room(room: LiveRoom, pdu: JsonObject) -> Event:
    """Raises EventMalformed, also for an event of another room."""
    event = parse_event(room.version, pdu)
    if event.room_id != room.room_id:
        raise EventMalformed("the event belongs to another room")
    return event
