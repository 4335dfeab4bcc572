"""Events: parsing, making, hashing and signing PDUs.

spec: server-server-api/#pdus, #signing-events and rooms/ (event format), v1.19. Invariant: an
Event has the format and keeps the limits of its room version; its bytes are canonical, its id
follows from them (version 3 and later). Whether hash and signatures are right is asked separately.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from homeserver.core.canonical_json import (
    MAX_INTEGER,
    decode_json,
    decode_lenient_json,
    decode_strict_json,
    encode_canonical_json,
    encode_checked_json,
    encode_lenient_json,
    without_slack,
)
from homeserver.core.errors import (
    EventMalformed,
    IdentifierInvalid,
    JsonInvalid,
    SignatureInvalid,
)
from homeserver.core.identifiers import (
    EventID,
    RoomID,
    ServerName,
    UserID,
    parse_event_id,
    parse_room_id,
    parse_user_id,
    server_name_of,
)
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.redaction import redact_pdu
from homeserver.core.room_versions import EventIDFormat, RoomVersion
from homeserver.core.signing import (
    SigningKey,
    decode_base64,
    encode_base64,
    encode_base64_urlsafe,
    verify_signature,
)

__all__ = [
    "MAX_AUTH_EVENTS",
    "MAX_OWN_PDU_BYTES",
    "MAX_PDU_BYTES",
    "MAX_PREV_EVENTS",
    "Event",
    "EventMalformed",
    "check_content_hash",
    "check_event_signature",
    "compute_content_hash",
    "compute_event_id",
    "make_event",
    "parse_event",
    "redact_event",
    "reference_hash",
    "required_signers",
    "restore_event",
    "room_id_of_create",
]

MAX_PDU_BYTES = 65_536
MAX_OWN_PDU_BYTES = MAX_PDU_BYTES - len('"unsigned":{},')
"""Of events made here. NOTSPEC: Synapse counts an empty `unsigned` to events that have none."""
MAX_KEY_BYTES = 255
MAX_PREV_EVENTS = 20
MAX_AUTH_EVENTS = 10
_MAX_INT64 = 2**63 - 1
_NOT_HASHED = frozenset({"hashes", "signatures", "unsigned"})


class Event:
    """One event of one room version. Immutable by convention, its JSON included.

    `pdu` and `pdu_bytes` are as signed: without `unsigned`, and without `event_id` from version 3.
    `cached_power_levels` is a memo of `power_levels.power_levels_of`, for no other use.
    """

    __slots__ = (
        "auth_events",
        "cached_power_levels",
        "content",
        "depth",
        "event_id",
        "origin_server_ts",
        "pdu",
        "pdu_bytes",
        "prev_events",
        "redacts",
        "room_id",
        "room_version",
        "sender",
        "state_key",
        "type",
    )

    def __init__(
        self,
        version: RoomVersion,
        pdu: JsonObject,
        pdu_bytes: bytes,
        event_id: EventID | None = None,
    ) -> None:
        """Check format and limits; `pdu_bytes` is the canonical PDU, `event_id` its id if known."""
        self.room_version = version
        self.pdu = pdu
        self.type = _text(pdu, "type")
        self.sender: UserID = _user_id(pdu, "sender")
        self.state_key = _text(pdu, "state_key") if "state_key" in pdu else None
        self.content = _object(pdu, "content")
        self.depth = _integer(pdu, "depth", 0, version.max_depth)
        limit = MAX_INTEGER if version.strict_canonical_json else _MAX_INT64
        self.origin_server_ts = _integer(pdu, "origin_server_ts", -limit, limit)
        self.prev_events = _event_ids(version, pdu, "prev_events", MAX_PREV_EVENTS)
        self.auth_events = _event_ids(version, pdu, "auth_events", MAX_AUTH_EVENTS)
        _check_hashes_and_signatures(pdu)
        if len(pdu_bytes) > MAX_PDU_BYTES:
            raise EventMalformed(f"the event has more than {MAX_PDU_BYTES} bytes")
        self.pdu_bytes = without_slack(pdu_bytes)
        if event_id is None:
            event_id = _event_id_of_hash(version, pdu, _signed_bytes(version, pdu))
        self.event_id = event_id
        self.room_id: RoomID = _room_id(version, pdu, self.type, self.state_key, self.event_id)
        self.redacts = _redacts(version, pdu, self.type, self.content)
        self.cached_power_levels: object = None

    @property
    def is_state(self) -> bool:
        return self.state_key is not None

    @property
    def membership(self) -> str | None:
        """The membership in the content, whatever the type of the event; None if not a string."""
        membership = self.content.get("membership")
        return membership if isinstance(membership, str) else None

    def __repr__(self) -> str:
        return f"<Event {self.event_id} {self.type} {self.state_key!r} by {self.sender}>"


def parse_event(version: RoomVersion, pdu: JsonObject | bytes) -> Event:
    """Check format and limits of a PDU; neither its hash nor its signatures.

    Raises EventMalformed.
    """
    if isinstance(pdu, bytes):
        pdu = _decode_object(
            decode_strict_json if version.strict_canonical_json else decode_lenient_json, pdu
        )
    signed = {key: pdu[key] for key in pdu if key != "unsigned"}
    return Event(version, signed, _encode(version, signed))


def restore_event(version: RoomVersion, event_id: EventID, pdu_bytes: bytes) -> Event:
    """Return an event from the `pdu_bytes` it once had; cheaper than parsing as nothing is hashed.

    Only for bytes we stored ourselves. Raises EventMalformed if they are no event.
    """
    decode = decode_json if version.strict_canonical_json else decode_lenient_json
    pdu = _decode_object(decode, pdu_bytes)
    return Event(version, pdu, pdu_bytes, event_id)


def make_event(
    version: RoomVersion,
    *,
    room_id: RoomID | None,
    type: str,  # noqa: A002  # the wire name
    sender: UserID,
    state_key: str | None,
    content: JsonObject,
    depth: int,
    origin_server_ts: int,
    prev_events: Sequence[EventID],
    auth_events: Sequence[EventID],
    redacts: EventID | None = None,
    server_name: str,
    signing_key: SigningKey,
    reference_hashes: Mapping[EventID, str | None] | None = None,
    max_bytes: int = MAX_OWN_PDU_BYTES,
) -> Event:
    """Hash, sign and check a new event.

    room_id           None only for m.room.create from version 12 on
    redacts           goes to where the room version keeps it; content is copied if need be
    reference_hashes  versions 1 and 2 only: `reference_hash` of each prev and auth event, or None
                      where who named the event did not say it
    Raises EventMalformed if the event breaks a limit.
    """
    pdu: JsonObject = {
        "type": type,
        "sender": sender,
        "content": content,
        "depth": depth,
        "origin_server_ts": origin_server_ts,
        "prev_events": _references(version, prev_events, reference_hashes),
        "auth_events": _references(version, auth_events, reference_hashes),
    }
    if room_id is not None:
        pdu["room_id"] = room_id
    if state_key is not None:
        pdu["state_key"] = state_key
    if redacts is not None:
        if version.redacts_in_content:
            pdu["content"] = content | {"redacts": redacts}
        else:
            pdu["redacts"] = redacts
    if version.event_id_format is EventIDFormat.DOMAIN:
        # Unique without randomness: the graph position and content name the event.
        opaque = encode_base64_urlsafe(hashlib.sha256(_encode(version, pdu)).digest())
        pdu["event_id"] = f"${opaque}:{server_name}"

    pdu["hashes"] = {"sha256": compute_content_hash(version, pdu)}
    signed_bytes = _signed_bytes(version, pdu)
    pdu["signatures"] = {server_name: {signing_key.key_id: signing_key.sign(signed_bytes)}}
    event_id = _event_id_of_hash(version, pdu, signed_bytes)
    pdu_bytes = _encode_part(version, pdu)
    if len(pdu_bytes) > max_bytes:
        raise EventMalformed(f"the event has more than {max_bytes} bytes")
    return Event(version, pdu, pdu_bytes, event_id)


def redact_event(event: Event) -> Event:
    """Return the redacted copy; it has the same id and carries the same signatures."""
    version = event.room_version
    pdu = redact_pdu(version, event.pdu)
    return Event(version, pdu, _encode_part(version, pdu), event.event_id)


def compute_content_hash(version: RoomVersion, pdu: JsonObject) -> str:
    """Return the SHA-256 of all but `hashes`, `signatures` and `unsigned`, in unpadded base64."""
    return encode_base64(hashlib.sha256(_encode(version, _hashed_part(pdu))).digest())


def check_content_hash(event: Event) -> bool:
    """Tell whether the content is what was signed; if not, only the redacted event is."""
    hashes = event.pdu["hashes"]
    claimed = hashes.get("sha256") if isinstance(hashes, dict) else None
    hashed = _encode_part(event.room_version, _hashed_part(event.pdu))
    digest = hashlib.sha256(hashed).digest()
    if claimed == encode_base64(digest):
        return True
    try:  # it may be written in another way
        return isinstance(claimed, str) and decode_base64(claimed) == digest
    except ValueError:
        return False


def _hashed_part(pdu: JsonObject) -> JsonObject:
    return {key: pdu[key] for key in pdu if key not in _NOT_HASHED}


def check_event_signature(event: Event, server_name: str, key_id: str, verify_key: str) -> None:
    """Raise SignatureInvalid unless the server signed the event with this key (base64)."""
    signatures = cast("dict[str, dict[str, str]]", event.pdu["signatures"])
    signature = signatures.get(server_name, {}).get(key_id)
    if signature is None:
        raise SignatureInvalid(f"no signature of {server_name} with {key_id}")
    verify_signature(_signed_bytes(event.room_version, event.pdu), signature, verify_key)


def required_signers(event: Event) -> frozenset[ServerName]:
    """Return the servers whose valid signature an event from elsewhere must carry.

    An invite by third-party id may come from any server, as what it carries is signed. That holds
    only if the event stays whole: one with a wrong hash is redacted to an invite of its sender.
    """
    signers = {server_name_of(event.sender)}
    if event.type == "m.room.member":
        is_third_party = event.membership == "invite" and "third_party_invite" in event.content
        if is_third_party and check_content_hash(event):
            signers.clear()
        authorizer = event.content.get("join_authorised_via_users_server")
        if event.room_version.restricted_join and isinstance(authorizer, str):
            signers.add(server_name_of(authorizer))
    if event.room_version.event_id_format is EventIDFormat.DOMAIN:
        signers.add(server_name_of(event.event_id))
    return frozenset([name for name in signers if name is not None])


def compute_event_id(version: RoomVersion, pdu: JsonObject) -> EventID:
    """Raises EventMalformed if the PDU has no id (versions 1 and 2) or no canonical form."""
    signed_bytes = _encode(version, _signed_part(version, pdu))
    return _event_id_of_hash(version, pdu, signed_bytes)


def reference_hash(event: Event) -> str:
    """Return the hash by which versions 1 and 2 refer to an event, in unpadded base64."""
    digest = hashlib.sha256(_signed_bytes(event.room_version, event.pdu)).digest()
    return encode_base64(digest)


def room_id_of_create(version: RoomVersion, create_pdu: JsonObject) -> RoomID:
    """Return the id of the room an m.room.create begins: its hash, or what it says (before 12)."""
    if version.room_id_is_create_hash:
        return RoomID("!" + compute_event_id(version, create_pdu)[1:])
    return _parse_room_id(_text(create_pdu, "room_id"))


def _event_id_of_hash(version: RoomVersion, pdu: JsonObject, signed_bytes: bytes) -> EventID:
    if version.event_id_format is EventIDFormat.DOMAIN:
        event_id = _event_id(_text(pdu, "event_id"))
        if ":" not in event_id:
            raise EventMalformed("an event id of this room version needs a domain")
        return event_id
    # The reference hash leaves out `signatures` and `unsigned`, as the signature does.
    digest = hashlib.sha256(signed_bytes).digest()
    if version.event_id_format is EventIDFormat.BASE64:
        return EventID("$" + encode_base64(digest))
    return EventID("$" + encode_base64_urlsafe(digest))


def _signed_bytes(version: RoomVersion, pdu: JsonObject) -> bytes:
    """Return what is signed and hashed of a PDU that was encoded before."""
    return _encode_part(version, _signed_part(version, pdu))


def _signed_part(version: RoomVersion, pdu: JsonObject) -> JsonObject:
    redacted = redact_pdu(version, pdu)
    redacted.pop("signatures", None)
    return redacted


def _decode_object(decode: Callable[[bytes], JsonValue], data: bytes) -> JsonObject:
    try:
        value = decode(data)
    except JsonInvalid as error:
        raise EventMalformed(f"not the JSON of an event: {error}") from error
    if not isinstance(value, dict):
        raise EventMalformed("an event is a JSON object")
    return value


def _encode(version: RoomVersion, pdu: JsonObject) -> bytes:
    try:
        if version.strict_canonical_json:
            return encode_canonical_json(pdu)
        return encode_lenient_json(pdu)
    except JsonInvalid as error:
        raise EventMalformed(f"the event has no canonical form: {error}") from error


def _encode_part(version: RoomVersion, pdu: JsonObject) -> bytes:
    """Encode what consists of parts that `_encode` has let through."""
    return encode_checked_json(pdu) if version.strict_canonical_json else _encode(version, pdu)


def _references(
    version: RoomVersion,
    event_ids: Iterable[EventID],
    hashes: Mapping[EventID, str | None] | None,
) -> list[JsonValue]:
    if version.event_id_format is not EventIDFormat.DOMAIN:
        return list(event_ids)
    references: list[JsonValue] = []
    try:
        for event_id in event_ids:
            digest = (hashes or {})[event_id]
            references.append([event_id, {} if digest is None else {"sha256": digest}])
    except KeyError as error:
        raise EventMalformed(f"the reference hash of {error} is needed") from error
    return references


def _text(pdu: JsonObject, key: str) -> str:
    value = pdu.get(key)
    if not isinstance(value, str):
        raise EventMalformed(f"{key} is not a string")
    # NOTSPEC: no NUL, which PostgreSQL cannot store as text.
    if "\0" in value:
        raise EventMalformed(f"{key} contains NUL")
    # Lone surrogates are refused where the event is encoded.
    if len(value if value.isascii() else value.encode(errors="surrogatepass")) > MAX_KEY_BYTES:
        raise EventMalformed(f"{key} has more than {MAX_KEY_BYTES} bytes")
    return value


def _user_id(pdu: JsonObject, key: str) -> UserID:
    try:
        return parse_user_id(_text(pdu, key))
    except IdentifierInvalid as error:
        raise EventMalformed(f"{key}: {error}") from error


def _event_id(text: JsonValue) -> EventID:
    if not isinstance(text, str):
        raise EventMalformed("an event id is a string")
    try:
        return parse_event_id(text)
    except IdentifierInvalid as error:
        raise EventMalformed(str(error)) from error


def _parse_room_id(text: str) -> RoomID:
    try:
        return parse_room_id(text)
    except IdentifierInvalid as error:
        raise EventMalformed(str(error)) from error


def _room_id(
    version: RoomVersion,
    pdu: JsonObject,
    event_type: str,
    state_key: str | None,
    event_id: EventID,
) -> RoomID:
    if version.room_id_is_create_hash and event_type == "m.room.create" and state_key == "":
        # A room_id in the PDU is refused by the auth rules.
        return RoomID("!" + event_id[1:])
    room_id = _parse_room_id(_text(pdu, "room_id"))
    if (":" in room_id) is version.room_id_is_create_hash:
        raise EventMalformed("the room id is not of this room version")
    return room_id


def _object(pdu: JsonObject, key: str) -> JsonObject:
    value = pdu.get(key)
    if not isinstance(value, dict):
        raise EventMalformed(f"{key} is not an object")
    return value


def _integer(pdu: JsonObject, key: str, minimum: int, maximum: int) -> int:
    value = pdu.get(key)
    if type(value) is not int:
        raise EventMalformed(f"{key} is not an integer")
    if not minimum <= value <= maximum:
        raise EventMalformed(f"{key} is out of range")
    return value


def _event_ids(
    version: RoomVersion, pdu: JsonObject, key: str, maximum: int
) -> tuple[EventID, ...]:
    value = pdu.get(key)
    if not isinstance(value, list):
        raise EventMalformed(f"{key} is not an array")
    if len(value) > maximum:
        raise EventMalformed(f"{key} has more than {maximum} entries")
    if version.event_id_format is EventIDFormat.DOMAIN:
        return tuple(_event_id(_referenced(pair)) for pair in value)
    return tuple([_event_id(item) for item in value])


def _referenced(pair: JsonValue) -> JsonValue:
    if (
        isinstance(pair, list)
        and len(pair) == len(("event id", "hashes"))
        and isinstance(pair[1], dict)
    ):
        return pair[0]
    raise EventMalformed("an event is referred to by its id and hashes")


def _check_hashes_and_signatures(pdu: JsonObject) -> None:
    if not isinstance(_object(pdu, "hashes").get("sha256"), str):
        raise EventMalformed("hashes has no sha256")
    for by_server in _object(pdu, "signatures").values():
        if not isinstance(by_server, dict):
            raise EventMalformed("signatures are objects by server")
        for signature in by_server.values():
            if not isinstance(signature, str):
                raise EventMalformed("a signature is a string")


def _redacts(
    version: RoomVersion, pdu: JsonObject, event_type: str, content: JsonObject
) -> EventID | None:
    if event_type != "m.room.redaction":
        return None
    redacts = (content if version.redacts_in_content else pdu).get("redacts")
    try:
        return parse_event_id(redacts) if isinstance(redacts, str) else None
    except IdentifierInvalid:
        return None
