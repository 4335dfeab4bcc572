"""The registration file: how an appservice and a homeserver know each other.

spec: application-service-api/#registration, v1.19
Invariant: a `Registration` that exists is valid; tokens never appear in its repr.
"""

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import yaml

from appservices.kit.errors import RegistrationInvalid
from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject, JsonValue

TOKEN_BYTES = 32
_LOCALPART = re.compile(r"[a-z0-9._=/+-]+")
_SECRET_FILE_MODE = 0o600
_READABLE_BY_EVERYONE = 0o004


@dataclass(frozen=True)
class Namespace:
    exclusive: bool
    regex: str


@dataclass(frozen=True)
class Namespaces:
    users: tuple[Namespace, ...] = ()
    aliases: tuple[Namespace, ...] = ()
    rooms: tuple[Namespace, ...] = ()


@dataclass(frozen=True)
class Registration:
    """`url` None means the appservice wants no traffic."""

    id: str
    url: str | None
    as_token: str = field(repr=False)
    hs_token: str = field(repr=False)
    sender_localpart: str
    namespaces: Namespaces = Namespaces()
    rate_limited: bool = False
    protocols: tuple[str, ...] = ()
    receive_ephemeral: bool = False

    def __post_init__(self) -> None:
        if problems := _list_problems(self):
            raise RegistrationInvalid(problems)

    def owns_user(self, user_id: UserID) -> bool:
        return any(re.fullmatch(space.regex, user_id) for space in self.namespaces.users)


def make_registration(
    *,
    appservice_id: str,
    url: str,
    sender_localpart: str,
    namespaces: Namespaces,
) -> Registration:
    """Make a registration with fresh random tokens."""
    return Registration(
        id=appservice_id,
        url=url,
        as_token=secrets.token_urlsafe(TOKEN_BYTES),
        hs_token=secrets.token_urlsafe(TOKEN_BYTES),
        sender_localpart=sender_localpart,
        namespaces=namespaces,
    )


def dump_registration(registration: Registration) -> str:
    """Return the YAML both sides read."""

    def dump_spaces(spaces: tuple[Namespace, ...]) -> list[dict[str, object]]:
        return [{"exclusive": space.exclusive, "regex": space.regex} for space in spaces]

    return yaml.safe_dump(
        {
            "id": registration.id,
            "url": registration.url,
            "as_token": registration.as_token,
            "hs_token": registration.hs_token,
            "sender_localpart": registration.sender_localpart,
            "namespaces": {
                "users": dump_spaces(registration.namespaces.users),
                "aliases": dump_spaces(registration.namespaces.aliases),
                "rooms": dump_spaces(registration.namespaces.rooms),
            },
            "rate_limited": registration.rate_limited,
            "protocols": list(registration.protocols),
            "receive_ephemeral": registration.receive_ephemeral,
        },
        sort_keys=False,
    )


def parse_registration(text: str) -> Registration:
    """Ignore unknown keys; raise RegistrationInvalid naming every problem."""
    try:
        loaded = cast("JsonValue", yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise RegistrationInvalid([f"not YAML: {error}"]) from error
    if not isinstance(loaded, dict):
        raise RegistrationInvalid(["a registration is a mapping of keys to values"])
    reader = _Reader(loaded)
    fields = {
        "id": reader.read_text("id"),
        "as_token": reader.read_text("as_token"),
        "hs_token": reader.read_text("hs_token"),
        "sender_localpart": reader.read_text("sender_localpart"),
    }
    url = None if "url" in loaded and loaded["url"] is None else reader.read_text("url")
    namespaces = reader.read_namespaces()
    rate_limited = reader.read_flag("rate_limited", loaded)
    receive_ephemeral = reader.read_flag("receive_ephemeral", loaded)
    protocols = reader.read_protocols()
    if reader.problems:
        raise RegistrationInvalid(reader.problems)
    return Registration(
        **fields,
        url=url,
        namespaces=namespaces,
        rate_limited=rate_limited,
        protocols=protocols,
        receive_ephemeral=receive_ephemeral,
    )


def load_registration(path: Path) -> Registration:
    """Read a registration file, refusing one whose tokens every local user could read."""
    if path.stat().st_mode & _READABLE_BY_EVERYONE:
        raise RegistrationInvalid([f"{path} is readable by everyone: chmod 600 {path}"])
    return parse_registration(path.read_text(encoding="utf-8"))


def write_registration(registration: Registration, path: Path) -> None:
    """Write a new file for its owner only; raise FileExistsError rather than replace tokens."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _SECRET_FILE_MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(dump_registration(registration))


class _Reader:
    """Reads typed values and collects what is wrong instead of stopping at the first."""

    def __init__(self, source: JsonObject) -> None:
        self._source = source
        self.problems: list[str] = []

    def read_text(self, key: str) -> str:
        value = self._source.get(key)
        if isinstance(value, str):
            return value
        self.problems.append(f"{key} must be a string")
        return ""

    def read_flag(self, key: str, source: Mapping[str, JsonValue]) -> bool:
        value = source.get(key, False)
        if isinstance(value, bool):
            return value
        self.problems.append(f"{key} must be true or false")
        return False

    def read_protocols(self) -> tuple[str, ...]:
        value = self._source.get("protocols")
        if value is None:
            return ()
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            return tuple(str(name) for name in value)
        self.problems.append("protocols must be a list of strings")
        return ()

    def read_namespaces(self) -> Namespaces:
        value = self._source.get("namespaces")
        if not isinstance(value, dict):
            self.problems.append("namespaces must be a mapping")
            return Namespaces()
        return Namespaces(*(self._read_spaces(value, key) for key in ("users", "aliases", "rooms")))

    def _read_spaces(self, namespaces: JsonObject, key: str) -> tuple[Namespace, ...]:
        value = namespaces.get(key) or []
        if not isinstance(value, list):
            self.problems.append(f"namespaces.{key} must be a list")
            return ()
        spaces = []
        for item in value:
            regex = item.get("regex") if isinstance(item, dict) else None
            if not isinstance(item, dict) or not isinstance(regex, str):
                self.problems.append(f"namespaces.{key}: each entry needs exclusive and regex")
                continue
            spaces.append(Namespace(self.read_flag("exclusive", item), regex))
        return tuple(spaces)


def _list_problems(registration: Registration) -> list[str]:
    problems = [
        f"{key} must not be empty"
        for key in ("id", "as_token", "hs_token")
        if not getattr(registration, key)
    ]
    if registration.as_token and registration.as_token == registration.hs_token:
        problems.append("as_token and hs_token must differ")
    if not _LOCALPART.fullmatch(registration.sender_localpart):
        problems.append("sender_localpart must be a lower-case user name without @ and server")
    if registration.url is not None:
        parts = urlsplit(registration.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            problems.append("url must be null or an http(s) URL")
    spaces = registration.namespaces
    for key, listed in (
        ("users", spaces.users),
        ("aliases", spaces.aliases),
        ("rooms", spaces.rooms),
    ):
        for space in listed:
            try:
                re.compile(space.regex)
            except re.error as error:
                problems.append(f"namespaces.{key}: bad regex {space.regex!r}: {error}")
    return problems
