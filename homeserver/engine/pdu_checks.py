"""The checks of an event that need nothing but the event: format, signatures, hash.

spec: server-server-api/#checks-performed-on-receipt-of-a-pdu, steps 1 to 3, v1.19. Invariant: no
event of another server gets any further without them, whichever way it came.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import Protocol

from twisted.internet.defer import Deferred

from homeserver.core.errors import EventMalformed, IdentifierInvalid, SignatureInvalid
from homeserver.core.events import Event, check_content_hash, parse_event, redact_event
from homeserver.core.identifiers import EventID, ServerName, parse_server_name
from homeserver.core.json_types import JsonObject
from homeserver.engine.live_room import LiveRoom
from homeserver.storage.events import is_event_id

logger = logging.getLogger(__name__)

CHECKED_AT_ONCE = 250
"""Events whose signatures are verified together."""

Checked = Event | EventMalformed | SignatureInvalid


class EventSignatures(Protocol):
    """The keys of all servers; see `services/server_keys.py`."""

    async def verify_events(self, events: Sequence[Event]) -> list[SignatureInvalid | None]:
        """Return for each event None if everyone of `required_signers` has signed it."""

    def expect(self, servers: Collection[ServerName]) -> None:
        """Begin to learn the keys of servers whose events are about to be verified."""


class PDUChecks:
    def __init__(self, signatures: EventSignatures) -> None:
        self._signatures = signatures

    async def check(self, room: LiveRoom, pdu: JsonObject) -> Event:
        """Return the event of a PDU.

        1. It has the format of the room version, and is of this room; else it is dropped.
        2. Its signatures are right; else it is dropped.
        3. Its content hash is right; else only what is left by a redaction is kept.

        Raises EventMalformed, SignatureInvalid.
        """
        (checked,) = await self.check_each(room, [pdu])
        if isinstance(checked, Exception):
            raise checked
        return checked

    async def check_all(
        self, room: LiveRoom, pdus: Sequence[JsonObject], limit: int
    ) -> dict[EventID, Event]:
        """Return the good ones among the first `limit`; the others are dropped."""
        good: dict[EventID, Event] = {}
        for checking in self.check_in_parts(room, pdus[:limit]):
            good |= await checking
        return good

    def check_in_parts(
        self, room: LiveRoom, pdus: Sequence[JsonObject]
    ) -> Iterator[Deferred[dict[EventID, Event]]]:
        """Yield the good ones, a part at a time; the others are dropped.

        A part is parsed when the one before it is asked for: while threads verify that.
        """
        self._signatures.expect(_servers_of(pdus))
        starts = range(0, len(pdus), CHECKED_AT_ONCE)
        parts = (self._begin(room, pdus[start : start + CHECKED_AT_ONCE]) for start in starts)
        ahead = next(parts, None)
        try:
            while ahead is not None:
                begun, ahead = ahead, next(parts, None)
                yield begun
        finally:
            if ahead is not None:  # nobody wants it any more
                ahead.addErrback(lambda _: {})
                ahead.cancel()

    def _begin(self, room: LiveRoom, pdus: Sequence[JsonObject]) -> Deferred[dict[EventID, Event]]:
        return Deferred.fromCoroutine(self._keep_good(room, pdus))

    async def _keep_good(self, room: LiveRoom, pdus: Sequence[JsonObject]) -> dict[EventID, Event]:
        good: dict[EventID, Event] = {}
        for checked in await self.check_each(room, pdus):
            if isinstance(checked, Event):
                good[checked.event_id] = checked
            else:
                logger.info("Event dropped reason=%s", checked)
        return good

    async def check_each(self, room: LiveRoom, pdus: Sequence[JsonObject]) -> list[Checked]:
        """Return what `check` gives for each, all signatures being verified at the same time."""
        found: list[Checked] = [_parse(room, pdu) for pdu in pdus]
        parsed = [checked for checked in found if isinstance(checked, Event)]
        verdicts = iter(await self._signatures.verify_events(parsed))
        return [
            next(verdicts) or _whole_or_redacted(checked) if isinstance(checked, Event) else checked
            for checked in found
        ]


def _parse(room: LiveRoom, pdu: JsonObject) -> Event | EventMalformed:
    try:
        return parse_of_room(room, pdu)
    except EventMalformed as error:
        return error


def _servers_of(pdus: Sequence[JsonObject]) -> set[ServerName]:
    senders = [pdu.get("sender") for pdu in pdus]
    servers = set()
    for name in {sender.partition(":")[2] for sender in senders if isinstance(sender, str)}:
        with suppress(IdentifierInvalid):
            servers.add(parse_server_name(name))
    return servers


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
    for event_id in cited:
        if not is_event_id(room.version, event_id):
            raise EventMalformed("what the event cites is no event id of its room version")
    return event
