"""The checks of an event that need nothing but the event: format, signatures, hash.

spec: server-server-api/#checks-performed-on-receipt-of-a-pdu, steps 1 to 3, v1.19. Invariant: no
event of another server gets any further without them, whichever way it came.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from homeserver.core.errors import EventMalformed, SignatureInvalid
from homeserver.core.events import Event, check_content_hash, parse_event, redact_event
from homeserver.core.identifiers import EventID
from homeserver.core.json_types import JsonObject
from homeserver.engine.live_rooms import LiveRoom
from homeserver.storage.events import encode_event_id

logger = logging.getLogger(__name__)

VerifySignatures = Callable[[Event], Deferred[None]]
"""Fails with SignatureInvalid unless everyone of `required_signers` has signed the event."""

_AT_ONCE = 100
"""Events whose signatures are verified together."""


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
        return _whole_or_redacted(event)  # 3

    async def check_all(
        self, room: LiveRoom, pdus: Sequence[JsonObject], limit: int
    ) -> dict[EventID, Event]:
        """Return the good ones among the first `limit`; the others are dropped."""
        good: dict[EventID, Event] = {}
        checked = pdus[:limit]
        ahead = self._begin(room, checked[:_AT_ONCE])
        for start in range(_AT_ONCE, len(checked) + _AT_ONCE, _AT_ONCE):
            begun = ahead
            # Parsed while threads verify those before.
            ahead = self._begin(room, checked[start : start + _AT_ONCE])
            for found in await begun.finish():
                if isinstance(found, Event):
                    good[found.event_id] = found
                else:
                    logger.info("Event dropped reason=%s", found)
        return good

    async def check_each(
        self, room: LiveRoom, pdus: Sequence[JsonObject]
    ) -> list[Event | EventMalformed | SignatureInvalid]:
        """Return what `check` gives for each, all signatures being verified at the same time."""
        return await self._begin(room, pdus).finish()

    def _begin(self, room: LiveRoom, pdus: Sequence[JsonObject]) -> "_Begun":
        found: list[Event | EventMalformed | SignatureInvalid] = []
        for pdu in pdus:
            try:
                found.append(parse_of_room(room, pdu))
            except EventMalformed as error:
                found.append(error)
        events = {place: event for place, event in enumerate(found) if isinstance(event, Event)}
        verdicts = DeferredList(
            [self._verify_signatures(event) for event in events.values()], consumeErrors=True
        )
        return _Begun(found, events, verdicts)


@dataclass(frozen=True, slots=True)
class _Begun:
    """Events whose signatures are being verified."""

    found: list[Event | EventMalformed | SignatureInvalid]
    events: Mapping[int, Event]
    verdicts: Deferred[list[tuple[bool, None]]]

    async def finish(self) -> list[Event | EventMalformed | SignatureInvalid]:
        verdicts = await self.verdicts
        for (place, event), (_, verdict) in zip(self.events.items(), verdicts, strict=True):
            if not isinstance(verdict, Failure):
                self.found[place] = _whole_or_redacted(event)
            elif isinstance(verdict.value, SignatureInvalid):
                self.found[place] = verdict.value
            else:
                verdict.raiseException()
        return self.found


def _whole_or_redacted(event: Event) -> Event:
    return event if check_content_hash(event) else redact_event(event)


def parse_of_room(room: LiveRoom, pdu: JsonObject) -> Event:
    """Raises EventMalformed, also for an event of another room."""
    event = parse_event(room.version, pdu)
    if event.room_id != room.room_id:
        raise EventMalformed("the event belongs to another room")
    cited = (*event.prev_events, *event.auth_events)
    if event.event_id in cited:
        raise EventMalformed("the event cites itself")
    try:
        for event_id in cited:
            encode_event_id(room.version, event_id)
    except ValueError as error:
        raise EventMalformed("what the event cites is no event id of its room version") from error
    return event
