"""Auth events selection: which state a new event must cite.

spec: server-server-api/#auth-events-selection, v1.19. Invariant: check_event_auth reads no state
but what is listed here, plus m.room.create.
"""

from homeserver.core.json_types import JsonObject
from homeserver.core.room_versions import RoomVersion

__all__ = ["auth_types_of"]

_CREATE = ("m.room.create", "")
_POWER_LEVELS = ("m.room.power_levels", "")
_JOIN_RULES = ("m.room.join_rules", "")


def auth_types_of(
    version: RoomVersion, event_type: str, sender: str, state_key: str | None, content: JsonObject
) -> list[tuple[str, str]]:
    """List (type, state_key) without duplicates; version 12 leaves out m.room.create."""
    if event_type == "m.room.create":
        return []
    sender_member = ("m.room.member", sender)
    if version.room_id_is_create_hash:
        wanted = [_POWER_LEVELS, sender_member]
    else:
        wanted = [_CREATE, _POWER_LEVELS, sender_member]
    if event_type == "m.room.member" and state_key is not None:
        wanted += _types_of_membership(version, state_key, content)
        return list(dict.fromkeys(wanted))
    return wanted


def _types_of_membership(
    version: RoomVersion, target: str, content: JsonObject
) -> list[tuple[str, str]]:
    membership = content.get("membership")
    wanted = [("m.room.member", target)]
    if membership in ("join", "invite", "knock"):
        wanted.append(_JOIN_RULES)
    if membership == "invite":
        token = _third_party_token(content)
        if token is not None:
            wanted.append(("m.room.third_party_invite", token))
    if membership == "join" and version.restricted_join:
        authorizer = content.get("join_authorised_via_users_server")
        if isinstance(authorizer, str):
            wanted.append(("m.room.member", authorizer))
    return wanted


def _third_party_token(content: JsonObject) -> str | None:
    invite = content.get("third_party_invite")
    signed = invite.get("signed") if isinstance(invite, dict) else None
    token = signed.get("token") if isinstance(signed, dict) else None
    return token if isinstance(token, str) else None
