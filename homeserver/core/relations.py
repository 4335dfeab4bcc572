"""How an event relates to an earlier one, as its content says.

spec: client-server-api/#forming-relationships-between-events, v1.19
Invariant: what does not match the schema of `m.relates_to` is no relation.
"""

from dataclasses import dataclass

from homeserver.core.errors import IdentifierInvalid
from homeserver.core.events import Event
from homeserver.core.identifiers import EventID, parse_event_id
from homeserver.core.json_types import JsonObject

THREAD = "m.thread"
REPLACE = "m.replace"
REFERENCE = "m.reference"
ANNOTATION = "m.annotation"
AGGREGATED = frozenset({THREAD, REPLACE, REFERENCE})
"""The relations of which parents tell a summary."""
_MAX_REL_TYPE_BYTES = 255
_ENCRYPTED = "m.room.encrypted"


@dataclass(frozen=True, slots=True)
class Relation:
    """What the child says; nothing is said of whether the parent exists."""

    rel_type: str
    parent_id: EventID
    key: str | None
    """Of an m.annotation."""


def find_relation(content: JsonObject) -> Relation | None:
    """Return the relation, which is never a reply: `m.in_reply_to` has no relation type."""
    relates_to = content.get("m.relates_to")
    if not isinstance(relates_to, dict):
        return None
    rel_type, parent_id = relates_to.get("rel_type"), relates_to.get("event_id")
    if not isinstance(rel_type, str) or not isinstance(parent_id, str):
        return None
    if "\0" in rel_type or not 1 <= len(rel_type.encode()) <= _MAX_REL_TYPE_BYTES:
        return None
    try:
        parent = parse_event_id(parent_id)
    except IdentifierInvalid:
        return None
    key = relates_to.get("key")
    is_annotation = rel_type == ANNOTATION
    return Relation(rel_type, parent, key if is_annotation and isinstance(key, str) else None)


def can_replace(child: Event) -> bool:
    """Tell whether the child, by itself, has what a valid replacement needs.

    spec: client-server-api/#validity-of-replacement-events, v1.19
    """
    return child.state_key is None and (
        child.type == _ENCRYPTED or isinstance(child.content.get("m.new_content"), dict)
    )
