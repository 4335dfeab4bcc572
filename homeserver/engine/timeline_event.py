"""A committed event with its ready-made client JSON.

spec: client-server-api/#room-event-format, v1.19. The JSON is built once, when it is first asked
for, without `room_id` (sync leaves it out; other endpoints splice it in) and with `unsigned` last,
so that what is for one user or device (membership, transaction id) can be spliced in too. A stored
event is not parsed for it, only decoded: that is most of what a page of history costs.
NOTSPEC: `unsigned.age` is left out: it is optional, and it would make the bytes differ each time.
"""

from typing import Any, cast

from homeserver.core.canonical_json import (
    decode_json,
    decode_lenient_json,
    encode_json,
    without_slack,
)
from homeserver.core.events import Event, parse_event, redact_event
from homeserver.core.identifiers import EventID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import RoomVersion
from homeserver.storage.events import AFTER_GAP, HISTORICAL, StoredEvent, decode_event_id

_BYTES_AN_EVENT = 1_300
"""What the objects of a parsed event take beside their texts, measured."""


class _Stored:
    """The bytes of an event, decoded; they were checked before they were stored."""

    __slots__ = ("depth", "pdu", "sender", "state_key", "stored", "type", "version")

    def __init__(self, version: RoomVersion, stored: StoredEvent) -> None:
        decode = decode_json if version.strict_canonical_json else decode_lenient_json
        pdu = cast("dict[str, Any]", decode(stored.pdu))
        self.version = version
        self.stored = stored
        self.pdu: JsonObject = pdu
        self.depth = stored.depth
        self.type: str = pdu["type"]
        self.sender: UserID = pdu["sender"]
        self.state_key: str | None = pdu.get("state_key")

    @property
    def event_id(self) -> EventID:
        return decode_event_id(self.version, self.stored.event_id)

    @property
    def content(self) -> JsonObject:
        return cast("JsonObject", self.pdu["content"])

    def parse(self) -> Event:
        return Event(self.version, self.pdu, self.stored.pdu, self.event_id)

    def client_fields(self) -> JsonObject:
        """As the function of that name; not for redactions, which may name their target twice."""
        fields: JsonObject = {
            "content": self.pdu["content"],
            "event_id": self.event_id,
            "origin_server_ts": self.pdu["origin_server_ts"],
            "sender": self.sender,
            "type": self.type,
        }
        if self.state_key is not None:
            fields["state_key"] = self.state_key
        return fields


class TimelineEvent:
    """Immutable but for a redaction that arrives later."""

    __slots__ = (
        "_event",
        "_has_unsigned",
        "_json",
        "_redaction",
        "event_nid",
        "follows_gap",
        "is_historical",
        "is_redacted",
        "position",
        "redacted_by",
        "replaced",
        "replaces",
        "room_state",
        "sender",
        "sender_device",
        "state_after",
        "state_before",
        "state_key",
        "txn_id",
        "type",
    )

    def __init__(
        self,
        event: Event | _Stored,
        event_nid: int,
        *,
        state_before: int | None,
        state_after: int | None,
        replaced: Event | None = None,
        replaces: int | None = None,
        redaction: Event | None = None,
        redacted_by: int | None = None,
        room_state: int | None = None,
        is_historical: bool = False,
        follows_gap: bool = False,
        sender_device: str | None = None,
        txn_id: str | None = None,
    ) -> None:
        self._event = event
        self.type = event.type
        self.sender = event.sender
        self.state_key = event.state_key
        self.event_nid = event_nid
        self.position = (event.depth, event_nid)
        """Place in the room's topological order."""
        self.state_before = state_before
        self.state_after = state_after
        self.replaced = replaced
        """The state event that held the slot before; redacted if it has been."""
        self.replaces = replaces
        """Its number."""
        self.room_state = room_state
        """State of the room with the event in it; None: it is in line, see `NewEvent`."""
        self.is_historical = is_historical
        self.follows_gap = follows_gap
        """What came before it was not all known when it came."""
        self.sender_device = sender_device
        self.txn_id = txn_id
        self._redaction = redaction
        self.redacted_by = redacted_by
        """Number of the redaction, if it is known."""
        self.is_redacted = redaction is not None
        self._json: bytes | None = None
        self._has_unsigned = False

    @property
    def event(self) -> Event:
        """As it was signed, also after a redaction; parsed when it is first asked for."""
        if isinstance(self._event, _Stored):
            self._event = self._event.parse()
        return self._event

    @property
    def event_id(self) -> EventID:
        return self._event.event_id

    @property
    def depth(self) -> int:
        return self.position[0]

    @property
    def content(self) -> JsonObject:
        """As it was signed."""
        return self._event.content

    @property
    def membership(self) -> str | None:
        """The membership in the content, whatever the type of the event; None if not a string."""
        membership = self.content.get("membership")
        return membership if isinstance(membership, str) else None

    @property
    def json(self) -> bytes:
        """What every reader is shown."""
        return self._json or self._render()

    @property
    def shown(self) -> Event:
        """The event as people may see it."""
        return redact_event(self.event) if self.is_redacted else self.event

    @property
    def size(self) -> int:
        """Bytes of memory, roughly."""
        size = _BYTES_AN_EVENT + 4 * len(self.event.pdu_bytes)
        if self.replaced is not None:
            size += _BYTES_AN_EVENT + 3 * len(self.replaced.pdu_bytes)
        return size

    @property
    def redaction_id(self) -> EventID | None:
        return None if self._redaction is None else self._redaction.event_id

    @property
    def is_in_line(self) -> bool:
        """Tell whether the room's state was the event's, before it as after it."""
        return self.room_state is None and not self.is_historical and self.state_before is not None

    def redact(self, redaction: Event, redacted_by: int | None = None) -> None:
        if not self.is_redacted:
            self.is_redacted = True
            self._redaction = redaction
            self.redacted_by = redacted_by
            self._json = None

    def redact_attached(self, event_id: EventID) -> None:
        """Leave out of `unsigned` what an event quoted there has lost by a redaction."""
        if self.replaced is not None and self.replaced.event_id == event_id:
            self.replaced = redact_event(self.replaced)
            self._json = None
        if self._redaction is not None and self._redaction.event_id == event_id:
            self._redaction = redact_event(self._redaction)
            self._json = None

    def _render(self) -> bytes:
        event = self._event
        has_more = self.replaced is not None or self._redaction is not None
        if isinstance(event, _Stored) and not has_more and event.type != "m.room.redaction":
            json = without_slack(encode_json(event.client_fields()))
        else:
            json, self._has_unsigned = _client_json(self.event, self.replaced, self._redaction)
        self._json = json
        return json

    def json_with(
        self, added: bytes, *, hides_replaced: bool = False, hides_redaction: bool = False
    ) -> bytes:
        """Return the JSON for one reader.

        added            members of `unsigned`, without braces; may be empty
        hides_replaced   leave out what the replaced event said, but not which one it was
        hides_redaction  leave out the redaction, but not what it did
        """
        json, has_unsigned = self.json, self._has_unsigned
        if (hides_replaced and self.replaced is not None) or (
            hides_redaction and self._redaction is not None
        ):
            json, has_unsigned = _client_json(
                self.shown,
                self.replaced,
                None if hides_redaction else self._redaction,
                hides_replaced=hides_replaced,
            )
        if not added:
            return json
        if has_unsigned:
            return b"%b,%b}}" % (json[:-2], added)
        return b'%b,"unsigned":{%b}}' % (json[:-1], added)


def with_room_id(json: bytes, room_id: str) -> bytes:
    return b'{"room_id":' + encode_json(room_id) + b"," + json[1:]


def _client_json(
    event: Event,
    replaced: Event | None,
    redaction: Event | None,
    *,
    hides_replaced: bool = False,
) -> tuple[bytes, bool]:
    unsigned: JsonObject = {}
    if redaction is not None:
        event = redact_event(event)
        because = client_fields(redaction)
        because["room_id"] = redaction.room_id
        unsigned["redacted_because"] = because
    if replaced is not None:
        unsigned["replaces_state"] = replaced.event_id
    if replaced is not None and not hides_replaced:
        unsigned["prev_content"] = replaced.content
        unsigned["prev_sender"] = replaced.sender
    fields = client_fields(event)
    if unsigned:
        fields["unsigned"] = unsigned
    return without_slack(encode_json(fields)), bool(unsigned)


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
    redaction = parsed(stored.redaction_pdu)
    if redaction is not None and stored.is_redaction_redacted:
        redaction = redact_event(redaction)
    return TimelineEvent(
        _Stored(version, stored),
        stored.event_nid,
        state_before=stored.state_before,
        state_after=stored.state_after,
        replaced=replaced,
        replaces=stored.replaces,
        redaction=redaction,
        redacted_by=stored.redacted_by,
        room_state=stored.room_state,
        is_historical=bool(stored.flags & HISTORICAL),
        follows_gap=bool(stored.flags & AFTER_GAP),
    )
