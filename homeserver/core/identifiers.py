"""Identifiers: user ids, room ids, event ids, aliases, server names.

spec: appendices/#identifier-grammar, v1.19. Invariant: a value of these types came out of a parse
function here (or was computed as a hash), so it has its sigil, no NUL, no lone surrogate, a valid
domain where it has a domain, and at most 255 bytes.
"""

import re
from functools import lru_cache
from typing import NewType

from homeserver.core.errors import IdentifierInvalid

__all__ = [
    "MAX_IDENTIFIER_BYTES",
    "DeviceID",
    "EventID",
    "IdentifierInvalid",
    "RoomAlias",
    "RoomID",
    "ServerName",
    "UserID",
    "localpart_of",
    "parse_event_id",
    "parse_local_username",
    "parse_room_alias",
    "parse_room_id",
    "parse_server_name",
    "parse_user_id",
    "server_name_of",
]

UserID = NewType("UserID", str)
RoomID = NewType("RoomID", str)
EventID = NewType("EventID", str)
RoomAlias = NewType("RoomAlias", str)
ServerName = NewType("ServerName", str)
DeviceID = NewType("DeviceID", str)

MAX_IDENTIFIER_BYTES = 255

_SERVER_NAME = re.compile(r"(?:[0-9A-Za-z.-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_LOCAL_USERNAME = re.compile(r"[a-z0-9._=/+-]+")


@lru_cache(maxsize=16_384)
def parse_server_name(text: str) -> ServerName:
    """Raise IdentifierInvalid unless this is a server name; the case of letters is kept."""
    if _SERVER_NAME.fullmatch(text) is None:
        raise IdentifierInvalid(f"not a server name: {text[:300]!r}")
    return ServerName(text)


@lru_cache(maxsize=16_384)
def parse_user_id(text: str) -> UserID:
    """Accept any historically valid user id (other servers may still send them)."""
    _check_shape(text, "@", "user id")
    if ":" not in text:
        raise IdentifierInvalid("a user id needs a domain")
    parse_server_name(text[text.index(":") + 1 :])
    return UserID(text)


def parse_local_username(localpart: str) -> str:
    """Accept only what the current grammar allows for new accounts."""
    if _LOCAL_USERNAME.fullmatch(localpart) is None:
        raise IdentifierInvalid("user names consist of a-z, 0-9 and ._=-/+")
    if len(localpart) > MAX_IDENTIFIER_BYTES - len("@:d"):
        raise IdentifierInvalid("the user name is too long")
    return localpart


@lru_cache(maxsize=16_384)
def parse_room_id(text: str) -> RoomID:
    """Accept room ids with a domain (versions 1 to 11) and without (12 and later)."""
    _check_shape(text, "!", "room id")
    if ":" in text:
        parse_server_name(text[text.index(":") + 1 :])
    return RoomID(text)


@lru_cache(maxsize=16_384)
def parse_event_id(text: str) -> EventID:
    """Accept an event id of any room version; it is opaque from version 3 on."""
    _check_shape(text, "$", "event id")
    return EventID(text)


def parse_room_alias(text: str) -> RoomAlias:
    _check_shape(text, "#", "room alias")
    if ":" not in text:
        raise IdentifierInvalid("a room alias needs a domain")
    parse_server_name(text[text.index(":") + 1 :])
    return RoomAlias(text)


def server_name_of(identifier: str) -> ServerName | None:
    """Return the part after the first colon; None when there is none (hash-based ids)."""
    _, colon, domain = identifier.partition(":")
    return ServerName(domain) if colon else None


def localpart_of(user_id: UserID) -> str:
    return user_id[1 : user_id.index(":")]


def _check_shape(text: str, sigil: str, what: str) -> None:
    if len(text) < len("$x") or text[0] != sigil:
        raise IdentifierInvalid(f"a {what} starts with {sigil}")
    if "\0" in text:
        raise IdentifierInvalid(f"a {what} contains no NUL")
    if text.isascii():
        size = len(text)
    else:
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise IdentifierInvalid(f"a {what} contains no lone surrogate") from error
    if size > MAX_IDENTIFIER_BYTES:
        raise IdentifierInvalid(f"a {what} has at most {MAX_IDENTIFIER_BYTES} bytes")
