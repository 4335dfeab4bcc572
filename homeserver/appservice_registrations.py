"""Registration files of application services.

spec: application-service-api/#registration, v1.19.
"""

import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from homeserver.config import ConfigInvalid
from homeserver.core.identifiers import IdentifierInvalid, parse_local_username
from homeserver.transport.decoding import DecodingFailed, decode

_MAX_PATTERN_LENGTH = 1_000


@dataclass(frozen=True)
class Namespace:
    regex: str
    exclusive: bool = False

    def __post_init__(self) -> None:
        if len(self.regex) > _MAX_PATTERN_LENGTH:
            raise ValueError(f"regex is longer than {_MAX_PATTERN_LENGTH} characters")
        try:
            re.compile(self.regex)
        except re.error as error:
            raise ValueError(f"regex {self.regex!r}: {error}") from error

    def matches(self, text: str) -> bool:
        return re.fullmatch(self.regex, text) is not None


@dataclass(frozen=True)
class Namespaces:
    users: list[Namespace] = field(default_factory=list)
    aliases: list[Namespace] = field(default_factory=list)
    rooms: list[Namespace] = field(default_factory=list)


@dataclass(frozen=True)
class Registration:
    """The registration file."""

    id: str
    as_token: str = field(repr=False)
    hs_token: str = field(repr=False)
    sender_localpart: str
    url: str | None = None
    namespaces: Namespaces = field(default_factory=Namespaces)
    rate_limited: bool = True
    protocols: list[str] = field(default_factory=list)
    receive_ephemeral: bool = False

    def __post_init__(self) -> None:
        try:
            parse_local_username(self.sender_localpart)
        except IdentifierInvalid as error:
            raise ValueError(f"sender_localpart: {error}") from error


def load_registrations(files: Sequence[Path]) -> list[Registration]:
    """Raises ConfigInvalid, which says what to do."""
    found: list[Registration] = []
    for file in files:
        try:
            value = yaml.safe_load(file.read_text("utf-8"))
            if stat.S_IMODE(file.stat().st_mode) & 0o007:
                raise ConfigInvalid(f"{file} holds tokens and anybody can read it: chmod o= {file}")
            registration = decode(Registration, value)
        except OSError as error:
            raise ConfigInvalid(
                f"appservices.registration_files: {file}: {error.strerror}"
            ) from error
        except yaml.YAMLError as error:
            raise ConfigInvalid(f"{file} is not YAML: {error}") from error
        except DecodingFailed as error:
            raise ConfigInvalid(f"{file} is not a registration: {error}") from error
        for other in found:
            if other.id == registration.id:
                raise ConfigInvalid(f"{file}: id {other.id} is taken by another registration")
            if other.as_token == registration.as_token:
                raise ConfigInvalid(f"{file}: its as_token is that of {other.id}: make a new one")
        found.append(registration)
    return found
