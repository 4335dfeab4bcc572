"""Policy servers: which one a room uses, which events it must have signed, and whether it has.

spec: server-server-api/#policy-servers, client-server-api/#mroompolicy, v1.19. Invariant: a
signature counts only by the key that the room names, over what a redaction leaves of the event;
nothing else that a policy server says finds its way into an event.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass

from homeserver.core.errors import EventMalformed, SignatureInvalid
from homeserver.core.events import (
    MAX_PDU_BYTES,
    Event,
    check_event_signature,
    parse_event,
    redact_event,
)
from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.signing import decode_base64, encode_base64

__all__ = [
    "POLICY",
    "POLICY_KEY_ID",
    "PolicyServer",
    "add_policy_signature",
    "find_policy_server",
    "find_policy_signature",
    "is_exempt",
    "is_signed_by",
]

POLICY = "m.room.policy"
POLICY_KEY_ID = "ed25519:policy_server"


@dataclass(frozen=True, slots=True)
class PolicyServer:
    name: ServerName
    public_key: str
    """Base64; what is no key at all is never signed with."""


def find_policy_server(
    content: Mapping[str, object], servers: Container[str]
) -> PolicyServer | None:
    """Return the policy server that a room uses.

    content  of the room's current m.room.policy
    servers  those with a joined user
    """
    via, keys = content.get("via"), content.get("public_keys")
    key = keys.get("ed25519") if isinstance(keys, dict) else None
    if not isinstance(via, str) or not isinstance(key, str) or via not in servers:
        return None
    return PolicyServer(ServerName(via), _standard(key))


def is_exempt(event_type: str, state_key: str | None) -> bool:
    """Tell whether an event is for no policy server to judge: it may be what turns one off."""
    return event_type == POLICY and state_key == ""


def is_signed_by(event: Event, server: PolicyServer) -> bool:
    try:
        check_event_signature(event, server.name, POLICY_KEY_ID, server.public_key)
    except SignatureInvalid:
        return False
    return True


def find_policy_signature(event: Event, server: PolicyServer, answer: JsonObject) -> str | None:
    """Return the signature in a policy server's answer, if it is one of this event."""
    by_server = answer.get(server.name)
    signature = by_server.get(POLICY_KEY_ID) if isinstance(by_server, dict) else None
    if not isinstance(signature, str):
        return None
    try:
        signature = encode_base64(decode_base64(_standard(signature)))
        # Alone: with the others the event may have no room for one more.
        bare = _with_signatures(redact_event(event), {server.name: {POLICY_KEY_ID: signature}})
    except (ValueError, EventMalformed):
        return None
    return signature if is_signed_by(bare, server) else None


def add_policy_signature(
    event: Event, server: PolicyServer, signature: str, *, max_bytes: int = MAX_PDU_BYTES
) -> Event:
    """Return the event with one more signature; all others are kept.

    Raises EventMalformed when there is no room for it.
    """
    signatures = event.pdu["signatures"]
    assert isinstance(signatures, dict)
    by_server = signatures.get(server.name, {})
    assert isinstance(by_server, dict)
    signed = _with_signatures(
        event, {**signatures, server.name: {**by_server, POLICY_KEY_ID: signature}}
    )
    if len(signed.pdu_bytes) > max_bytes:
        raise EventMalformed(f"the event has more than {max_bytes} bytes with its signatures")
    return signed


def _with_signatures(event: Event, signatures: Mapping[str, JsonValue]) -> Event:
    return parse_event(event.room_version, {**event.pdu, "signatures": dict(signatures)})


def _standard(base64: str) -> str:
    """Both alphabets are in use: the specification's own example is in the URL-safe one."""
    return base64.replace("-", "+").replace("_", "/")
