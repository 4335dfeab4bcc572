"""The redaction algorithm: what is left of an event.

spec: rooms/v11/#redactions and the earlier versions, v1.19. Invariant: redacting twice gives what
redacting once gives, and never changes the event id.
"""

from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import RoomVersion

__all__ = ["redact_pdu"]


def redact_pdu(version: RoomVersion, pdu: JsonObject) -> JsonObject:
    """Return a redacted copy; values are shared with `pdu`, so treat both as immutable."""
    keys = version.redaction_keys
    result = {key: value for key, value in pdu.items() if key in keys}
    content = pdu.get("content")
    event_type = pdu.get("type")
    if isinstance(content, dict) and isinstance(event_type, str):
        result["content"] = _redact_content(version, event_type, content)
    else:
        result["content"] = {}
    return result


def _redact_content(version: RoomVersion, event_type: str, content: JsonObject) -> JsonObject:
    kept = version.redaction_content_keys.get(event_type, frozenset())
    if kept is None:
        return content
    if not kept:
        return {}
    result = {key: value for key, value in content.items() if key in kept}
    if "third_party_invite" in result:
        # Version 11 protects the signed part only; what is not an object has no such part.
        invite = result.pop("third_party_invite")
        if isinstance(invite, dict):
            result["third_party_invite"] = {
                key: value for key, value in invite.items() if key == "signed"
            }
    return result
