"""Application services: who they are and what they care for.

spec: application-service-api/#registration, v1.19. Invariant: a token names at most one service,
and a user in an exclusive namespace belongs to that service alone.
"""

import hmac
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from homeserver.config import ConfigInvalid
from homeserver.core.identifiers import ServerName, UserID, parse_local_username
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


class Appservice:
    def __init__(self, registration: Registration, server_name: ServerName) -> None:
        self.registration = registration
        self.id = registration.id
        username = parse_local_username(registration.sender_localpart)
        self.sender_user_id = UserID(f"@{username}:{server_name}")
        self._server_name = server_name

    def is_interested_in_user(self, user_id: UserID) -> bool:
        """Tell whether the user is the service's own or in one of its namespaces."""
        return user_id == self.sender_user_id or (
            user_id.endswith(f":{self._server_name}")
            and any(space.matches(user_id) for space in self.registration.namespaces.users)
        )

    def owns_user(self, user_id: UserID) -> bool:
        """Tell whether nobody else may have the user."""
        return user_id == self.sender_user_id or any(
            space.exclusive and space.matches(user_id)
            for space in self.registration.namespaces.users
        )

    def is_interested_in_room(self, room_id: str, users: Iterable[UserID]) -> bool:
        """`users`: whom an event concerns, and who is in its room."""
        if any(space.matches(room_id) for space in self.registration.namespaces.rooms):
            return True
        spaces = self.registration.namespaces.users
        if not spaces:
            return self.sender_user_id in users
        return any(
            user_id == self.sender_user_id or any(space.matches(user_id) for space in spaces)
            for user_id in users
        )


class Appservices:
    def __init__(self, services: Sequence[Appservice]) -> None:
        self._services = list(services)

    def __iter__(self) -> "Iterable[Appservice]":  # type: ignore[override]  # for statements alone
        return iter(self._services)

    def find_by_token(self, token: str) -> Appservice | None:
        found = None
        for service in self._services:
            if hmac.compare_digest(service.registration.as_token.encode(), token.encode()):
                found = service
        return found

    def find(self, appservice_id: str) -> Appservice | None:
        return next((s for s in self._services if s.id == appservice_id), None)

    def is_exclusive(self, user_id: UserID) -> bool:
        return any(service.owns_user(user_id) for service in self._services)


def load_appservices(files: Sequence[Path], server_name: ServerName) -> Appservices:
    """Raises ConfigInvalid, which says what to do."""
    services: list[Appservice] = []
    for file in files:
        try:
            value = yaml.safe_load(file.read_text("utf-8"))
            if stat.S_IMODE(file.stat().st_mode) & 0o007:
                raise ConfigInvalid(f"{file} holds tokens and anybody can read it: chmod o= {file}")
            service = Appservice(decode(Registration, value), server_name)
        except OSError as error:
            raise ConfigInvalid(
                f"appservices.registration_files: {file}: {error.strerror}"
            ) from error
        except yaml.YAMLError as error:
            raise ConfigInvalid(f"{file} is not YAML: {error}") from error
        except (DecodingFailed, ValueError) as error:
            raise ConfigInvalid(f"{file} is not a registration: {error}") from error
        for other in services:
            if other.id == service.id:
                raise ConfigInvalid(f"{file}: id {service.id} is taken by another registration")
            if other.registration.as_token == service.registration.as_token:
                raise ConfigInvalid(f"{file}: its as_token is that of {other.id}: make a new one")
        services.append(service)
    return Appservices(services)
