"""What a room looks like from outside: its entry in a directory, its summary in a space.

spec: client-server-api/#published-room-directory, #spaces, v1.19. Invariant: what another server
says of a room is passed on only as far as each field has its type; anything else it says is not.
"""

from collections.abc import Mapping

from homeserver.core.history_visibility import HistoryVisibility
from homeserver.core.identifiers import (
    IdentifierInvalid,
    RoomID,
    ServerName,
    parse_room_id,
    parse_server_name,
)
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.engine.live_room import LiveRoom

SPACE = "m.space"
MAX_VIA = 10
"""Servers named with a room that are looked at."""
_CHILD = "m.space.child"
_MEGOLM = "m.megolm.v1.aes-sha2"
_MAX_CHILDREN_BYTES = 1_048_576
"""Of what a space says of its rooms; the rooms after that are left out."""
_MAX_ALLOWED = 50
_MAX_ORDER_LETTERS = 50
_MAX_TEXT_LETTERS = 65_535
_REQUIRED: Mapping[str, type] = {
    "num_joined_members": int,
    "world_readable": bool,
    "guest_can_join": bool,
}
_TEXTS = ("name", "topic", "canonical_alias", "avatar_url", "join_rule", "room_type")
_SUMMARY_TEXTS = (*_TEXTS, "encryption", "room_version")


def published_entry(room: LiveRoom) -> JsonObject:
    """Return the room as a directory shows it."""
    create = room.find_content("m.room.create")
    guest_access = room.find_content("m.room.guest_access").get("guest_access")
    entry: JsonObject = {
        "room_id": room.room_id,
        "num_joined_members": len(room.joined),
        "world_readable": room.history_visibility is HistoryVisibility.WORLD_READABLE,
        "guest_can_join": guest_access == "can_join",
        "join_rule": join_rule_of(room),
    }
    texts = {
        "name": _text(room.find_content("m.room.name"), "name"),
        "topic": _topic(room.find_content("m.room.topic")),
        "avatar_url": _text(room.find_content("m.room.avatar"), "url"),
        "canonical_alias": _text(room.find_content("m.room.canonical_alias"), "alias"),
        "room_type": _text(create, "type"),
    }
    return entry | {name: text for name, text in texts.items() if _is_shown(name, text)}


def summary_of(room: LiveRoom) -> JsonObject:
    """Return the room as a space, or somebody who may join it, is shown it."""
    summary = published_entry(room)
    summary["room_version"] = room.version.id
    if room.find_content("m.room.encryption").get("algorithm") == _MEGOLM:
        summary["encryption"] = _MEGOLM
    allowed = allowed_rooms(room)
    if allowed:
        summary["allowed_room_ids"] = list(allowed)
    return summary


def join_rule_of(room: LiveRoom) -> str:
    """Return the join rule as far as the room's version knows it; "invite" otherwise."""
    rule = room.find_content("m.room.join_rules").get("join_rule")
    version = room.version
    known = {
        "public": True,
        "knock": version.knock,
        "restricted": version.restricted_join,
        "knock_restricted": version.knock_restricted,
        "private": True,
    }
    return rule if isinstance(rule, str) and known.get(rule, False) else "invite"


def allowed_rooms(room: LiveRoom) -> list[RoomID]:
    """Return the rooms whose members may join a restricted room."""
    if join_rule_of(room) not in ("restricted", "knock_restricted"):
        return []
    allow = room.find_content("m.room.join_rules").get("allow")
    found = []
    for entry in allow[:_MAX_ALLOWED] if isinstance(allow, list) else []:
        if isinstance(entry, dict) and entry.get("type") == "m.room_membership":
            room_id = find_room_id(entry.get("room_id"))
            if room_id is not None:
                found.append(room_id)
    return found


def children_of(room: LiveRoom, *, suggested_only: bool) -> list[JsonObject]:
    """Return what a space says of its rooms, in their order, as stripped state."""
    if room.find_content("m.room.create").get("type") != SPACE:
        return []
    found = []
    for (event_type, state_key), child in room.state_events.items():
        if event_type == _CHILD and not child.is_redacted:
            event = child.event
            stripped: JsonObject = {
                "type": _CHILD,
                "state_key": state_key,
                "sender": event.sender,
                "content": event.content,
                "origin_server_ts": event.origin_server_ts,
            }
            if _is_child(stripped, suggested_only=suggested_only):
                found.append((len(event.pdu_bytes), stripped))
    found.sort(key=lambda entry: _place(entry[1]))
    kept = []
    size = 0
    for child_size, stripped in found:
        size += child_size
        if size > _MAX_CHILDREN_BYTES:
            break
        kept.append(stripped)
    return kept


def clean_children(value: JsonValue, *, suggested_only: bool) -> list[JsonObject]:
    """Return the children another server names that are some, in their order."""
    found = []
    for entry in value if isinstance(value, list) else []:
        if isinstance(entry, dict) and _is_child(entry, suggested_only=suggested_only):
            named = ("type", "state_key", "sender", "content", "origin_server_ts")
            found.append({name: entry[name] for name in named})
    found.sort(key=_place)
    return found


def clean_summary(value: JsonValue) -> JsonObject | None:
    """Return what another server says of a room, as far as it has the form; None: it has not."""
    entry = _clean(value, _SUMMARY_TEXTS)
    if entry is None or not isinstance(value, dict):
        return None
    if entry.get("encryption") not in (None, _MEGOLM):
        del entry["encryption"]
    allowed = value.get("allowed_room_ids")
    if isinstance(allowed, list):
        entry["allowed_room_ids"] = [
            room_id for room_id in allowed[:_MAX_ALLOWED] if find_room_id(room_id) is not None
        ]
    return entry


def clean_published_entry(value: JsonValue) -> JsonObject | None:
    return _clean(value, _TEXTS)


def list_via(child: JsonObject) -> list[ServerName]:
    """Return the servers that a child of a space may be asked about."""
    content = child["content"]
    via = content.get("via") if isinstance(content, dict) else None
    found = []
    for name in via[:MAX_VIA] if isinstance(via, list) else []:
        try:
            found.append(parse_server_name(name if isinstance(name, str) else ""))
        except IdentifierInvalid:
            continue
    return found


def find_room_id(value: JsonValue) -> RoomID | None:
    """Return the value if it is a room id."""
    try:
        return parse_room_id(value) if isinstance(value, str) else None
    except IdentifierInvalid:
        return None


def _clean(value: JsonValue, texts: tuple[str, ...]) -> JsonObject | None:
    if not isinstance(value, dict):
        return None
    room_id = find_room_id(value.get("room_id"))
    if room_id is None:
        return None
    entry: JsonObject = {"room_id": room_id}
    for name, kind in _REQUIRED.items():
        if type(value.get(name)) is not kind:
            return None
        entry[name] = value[name]
    for name in texts:
        text = value.get(name)
        if isinstance(text, str) and len(text) <= _MAX_TEXT_LETTERS and _is_shown(name, text):
            entry[name] = text
    return entry


def _is_shown(name: str, text: str | None) -> bool:
    return bool(text) and (name != "canonical_alias" or str(text).startswith("#"))


def _is_child(event: JsonObject, *, suggested_only: bool) -> bool:
    content = event.get("content")
    if not isinstance(content, dict):
        return False
    via = content.get("via")
    return (
        event.get("type") == _CHILD
        and find_room_id(event.get("state_key")) is not None
        and isinstance(event.get("sender"), str)
        and type(event.get("origin_server_ts")) is int
        and isinstance(via, list)
        and bool(via)
        and all(isinstance(server, str) for server in via)
        and (not suggested_only or content.get("suggested") is True)
    )


def _place(child: JsonObject) -> tuple[bool, str, int, str]:
    """Return a key to sort by, see spec: client-server-api/#ordering-of-children-within-a-space."""
    content, sent, room_id = child["content"], child["origin_server_ts"], child["state_key"]
    assert isinstance(content, dict)
    assert isinstance(sent, int)
    order = content.get("order")
    if (
        not isinstance(order, str)
        or not 0 < len(order) <= _MAX_ORDER_LETTERS
        or not all(" " <= letter <= "~" for letter in order)
    ):
        return True, "", sent, str(room_id)
    return False, order, sent, str(room_id)


def _topic(content: Mapping[str, object]) -> str | None:
    """Return the topic as plain text; without a `topic` there is none, whatever else is said."""
    topic = _text(content, "topic")
    block = content.get("m.topic")
    texts = block.get("m.text") if isinstance(block, dict) else None
    for text in texts if isinstance(texts, list) and topic is not None else []:
        if isinstance(text, dict) and text.get("mimetype", "text/plain") == "text/plain":
            return _text(text, "body") or topic
    return topic


def _text(content: Mapping[str, object], key: str) -> str | None:
    value = content.get(key)
    return value if isinstance(value, str) and value else None
