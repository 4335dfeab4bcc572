"""A committed event with its ready-made client JSON.

spec: client-server-api/#room-event-format, v1.19. The JSON is built once, without `room_id` (sync
leaves it out; other endpoints splice it in) and with `unsigned` last, so that what only one device
may see (its transaction id) can be spliced in too.
NOTSPEC: `unsigned.age` is left out: it is optional, and it would make the bytes differ each time.
"""

from homeserver.core.canonical_json import encode_json
from homeserver.core.events import Event, parse_event, redact_event, restore_event
from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import RoomVersion
from homeserver.storage.events import StoredEvent, decode_event_id


class TimelineEvent:
    """Immutable but for a redaction that arrives later."""

    __slots__ = (
        "_redaction",
        "event",
        "event_nid",
        "has_unsigned",
        "is_redacted",
        "json",
        "replaced",
        "room_state",
        "sender_device",
        "state_after",
        "state_before",
        "txn_id",
    )

    def __init__(
        self,
        event: Event,
        event_nid: int,
        *,
        state_before: int | None,
        state_after: int | None,
        replaced: Event | None = None,
        redaction: Event | None = None,
        room_state: int | None = None,
        sender_device: str | None = None,
        txn_id: str | None = None,
    ) -> None:
        self.event = event
        """As it was signed, also after a redaction."""
        self.event_nid = event_nid
        self.state_before = state_before
        self.state_after = state_after
        self.replaced = replaced
        """The state event that held the slot before; redacted if it has been."""
        self.room_state = room_state
        """State of the room with the event in it, where that is not `state_after`."""
        self.sender_device = sender_device
        self.txn_id = txn_id
        self._redaction = redaction
        self.is_redacted = redaction is not None
        self.json, self.has_unsigned = _client_json(event, replaced, redaction)

    @property
    def position(self) -> tuple[int, int]:
        """Place in the room's topological order."""
        return (self.event.depth, self.event_nid)

    @property
    def shown(self) -> Event:
        """The event as people may see it."""
        return redact_event(self.event) if self.is_redacted else self.event

    @property
    def size(self) -> int:
        """Bytes of memory, roughly."""
        replaced = 0 if self.replaced is None else 600 + 3 * len(self.replaced.pdu_bytes)
        return 600 + 4 * len(self.event.pdu_bytes) + replaced

    def redact(self, redaction: Event) -> None:
        if not self.is_redacted:
            self.is_redacted = True
            self._redaction = redaction
            self.json, self.has_unsigned = _client_json(self.event, self.replaced, redaction)

    def redact_replaced(self) -> None:
        """Leave out of `prev_content` what the replaced event has lost by a redaction."""
        if self.replaced is not None:
            self.replaced = redact_event(self.replaced)
            self.json, self.has_unsigned = _client_json(self.event, self.replaced, self._redaction)

    def json_for(
        self, user_id: str, device_id: str | None, relations: bytes | None = None
    ) -> bytes:
        """Return the JSON for this device: with the transaction id if it sent the event.

        relations  the JSON of `m.relations`, made for this device
        """
        added = []
        if (
            self.txn_id is not None
            and self.event.sender == user_id
            and self.sender_device == device_id
        ):
            added.append(b'"transaction_id":' + encode_json(self.txn_id))
        if relations is not None:
            added.append(b'"m.relations":' + relations)
        if not added:
            return self.json
        start = self.json[:-2] + b"," if self.has_unsigned else self.json[:-1] + b',"unsigned":{'
        return start + b",".join(added) + b"}}"


def with_room_id(json: bytes, room_id: str) -> bytes:
    return b'{"room_id":' + encode_json(room_id) + b"," + json[1:]


def _client_json(
    event: Event, replaced: Event | None, redaction: Event | None
) -> tuple[bytes, bool]:
    unsigned: JsonObject = {}
    if redaction is not None:
        event = redact_event(event)
        because = client_fields(redaction)
        because["room_id"] = redaction.room_id
        unsigned["redacted_because"] = because
    if replaced is not None:
        unsigned["replaces_state"] = replaced.event_id
        unsigned["prev_content"] = replaced.content
        unsigned["prev_sender"] = replaced.sender
    fields = client_fields(event)
    if unsigned:
        fields["unsigned"] = unsigned
    return encode_json(fields), bool(unsigned)


def client_fields(event: Event) -> JsonObject:
    fields: JsonObject = {
        "content": event.content,
        "event_id": event.event_id,
        "origin_server_ts": event.origin_server_ts,
        "sender": event.sender,
        "type": event.type,
    }
    if event.state_key is not None:
        fields["state_key"] = event.state_key
    if event.redacts is not None:
        # Clients written for room versions before 11 look for it at the top.
        fields["redacts"] = event.redacts
        fields["content"] = {**event.content, "redacts": event.redacts}
    return fields


def stripped_fields(event: Event) -> JsonObject:
    """Return the stripped state event, see client-server-api/#stripped-state."""
    return {
        "content": event.content,
        "sender": event.sender,
        "state_key": event.state_key,
        "type": event.type,
    }


def load_timeline_event(version: RoomVersion, stored: StoredEvent) -> TimelineEvent:
    def parsed(pdu: bytes | None) -> Event | None:
        return None if pdu is None else parse_event(version, pdu)

    replaced = parsed(stored.replaced_pdu)
    if replaced is not None and stored.is_replaced_redacted:
        replaced = redact_event(replaced)
    return TimelineEvent(
        restore_event(version, decode_event_id(version, stored.event_id), stored.pdu),
        stored.event_nid,
        state_before=stored.state_before,
        state_after=stored.state_after,
        replaced=replaced,
        redaction=parsed(stored.redaction_pdu),
        room_state=stored.room_state,
    )
