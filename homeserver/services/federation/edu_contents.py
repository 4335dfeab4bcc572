"""Reading what other servers send, member by member. Everything in it is hostile.

Invariant: what a function here returns has the form it says; what has not raises BadJSON.
"""

from collections.abc import Iterator

from homeserver.core.canonical_json import MAX_INTEGER
from homeserver.core.identifiers import (
    MAX_IDENTIFIER_BYTES,
    DeviceID,
    ServerName,
    UserID,
    parse_user_id,
    server_name_of,
)
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.errors import BadJSON, Forbidden


def get_text(content: JsonObject, name: str, *, most: int = MAX_IDENTIFIER_BYTES) -> str:
    """Return a text that is not empty and may be stored; `most` characters."""
    value = content.get(name)
    if not isinstance(value, str) or not value or len(value) > most or "\0" in value:
        raise BadJSON(f"{name} must be a text of at most {most} characters")
    return value


def get_number(content: JsonObject, name: str) -> int:
    value = content.get(name)
    if not is_number(value):
        raise BadJSON(f"{name} must be a number")
    assert isinstance(value, int)
    return value


def is_number(value: JsonValue) -> bool:
    """Tell whether it is an integer that canonical JSON can hold, and not negative."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INTEGER


def get_user_of(origin: ServerName, content: JsonObject, name: str = "user_id") -> UserID:
    """Return the user something is about. Raises BadJSON, and as `check_user_of`."""
    return check_user_of(origin, get_text(content, name))


def check_user_of(origin: ServerName, text: str) -> UserID:
    """Raises IdentifierInvalid; Forbidden for a user of another server than `origin`."""
    user_id = parse_user_id(text)
    if server_name_of(user_id) != origin:
        raise Forbidden("A server speaks for its own users only")
    return user_id


def get_device_id(content: JsonObject) -> DeviceID:
    return DeviceID(get_text(content, "device_id"))


def get_display_name(content: JsonObject, name: str) -> str | None:
    """Return a name, or None when there is none that can be shown."""
    value = content.get(name)
    if not isinstance(value, str):
        return None
    return value.replace("\0", "")[:MAX_IDENTIFIER_BYTES] or None


def list_members(value: JsonValue, most: int) -> Iterator[tuple[str, JsonObject]]:
    """Yield the members of an object that are objects, at most so many."""
    for name, member in list(value.items())[:most] if isinstance(value, dict) else ():
        if isinstance(member, dict):
            yield name, member
