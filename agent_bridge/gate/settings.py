"""The gate's configuration file: TOML text in, checked `Settings` out.

Invariant: a file with an unknown key, a missing one or a bad value does not load, and everything
wrong with it is said at once. Paths are relative to the file.
"""

import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agent_bridge.gate.sandbox_profiles import PROFILES
from homeserver.core.identifiers import RoomID, UserID, parse_room_id, parse_user_id

T = TypeVar("T")

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


class SettingsInvalid(Exception):
    """Everything wrong with the file, one fact a line."""


@dataclass(frozen=True)
class Settings:
    file: Path
    homeserver: str
    """Base URL of the client-server API."""
    user: str
    """The gate's own account: localpart or user id."""
    register: bool
    """Make the account when there is none. Default false: log in."""
    password_file: Path | None
    """Default: `password` in the state directory."""
    host: str
    """How drafts name this machine. Default: its host name."""
    state_directory: Path
    workspace: Path
    """The one directory tree actions may work in."""
    policy: Path
    senders: tuple[UserID, ...]
    """The accounts whose requests are read."""
    requests_room: RoomID | None
    """None: made by `gate init`."""
    approvals_room: RoomID | None
    ttl_ms: int
    """How long a request waits that does not say."""
    max_ttl_ms: int
    automatic_profile: str
    """The confinement tried first; what is T0 in it runs by itself."""
    profile: str
    """The confinement of everything else."""
    program_profiles: Mapping[bytes, str]
    """Real paths of programs that get another one."""
    wall_ms: int
    output_bytes: int
    running: int
    """How many actions run at once."""
    automatic_per_hour: int


def load_settings(file: Path) -> Settings:
    """Raises SettingsInvalid."""
    try:
        root = _Table(tomllib.loads(file.read_text()), "", problems := [])
    except FileNotFoundError:
        raise SettingsInvalid(f"{file} does not exist; copy config/gate.example.toml") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsInvalid(f"{file} cannot be read: {error}") from None
    folder = file.resolve().parent
    requests, approvals = root.table("requests"), root.table("approvals")
    sandbox, limits = root.table("sandbox"), root.table("limits")
    password_file = root.find("password_file", str)
    settings = Settings(
        file=file.resolve(),
        homeserver=root.take("homeserver", str, ""),
        user=root.take("user", str, ""),
        register=root.take("register", bool, False),
        password_file=None if password_file is None else folder / password_file,
        host=root.take("host", str, socket.gethostname()),
        state_directory=folder / root.take("state_directory", str, ""),
        workspace=folder / root.take("workspace", str, ""),
        policy=folder / root.take("policy", str, ""),
        senders=requests.users("senders"),
        requests_room=requests.room("room"),
        approvals_room=approvals.room("room"),
        ttl_ms=requests.seconds("ttl_seconds", 900),
        max_ttl_ms=requests.seconds("max_ttl_seconds", 86_400),
        automatic_profile=sandbox.profile("automatic", "read"),
        profile=sandbox.profile("approved", "build"),
        program_profiles=sandbox.program_profiles("programs"),
        wall_ms=limits.seconds("wall_seconds", 600),
        output_bytes=limits.count("output_bytes", 262_144),
        running=limits.count("running", 4),
        automatic_per_hour=limits.count("automatic_per_hour", 240),
    )
    for table in (requests, approvals, sandbox, limits, root):
        table.close()
    for name, value in (("homeserver", settings.homeserver), ("user", settings.user)):
        if not value:
            problems.append(f"{name} is missing")
    paths = ("state_directory", "workspace", "policy")
    problems += [f"{name} is missing" for name in paths if getattr(settings, name) == folder]
    if not _HOST.fullmatch(settings.host):
        problems.append(f"host {settings.host!r} is not a host name")
    if problems:
        raise SettingsInvalid("\n".join(f"{file}: {problem}" for problem in problems))
    return settings


class _Table:
    """A TOML table that collects what is wrong with it."""

    def __init__(self, values: dict[str, object], where: str, problems: list[str]) -> None:
        self._left = dict(values)
        self._where = where
        self._problems = problems

    def _say(self, name: str, what: str) -> None:
        self._problems.append(f"{self._where}{name} {what}")

    def find(self, name: str, kind: type[T]) -> T | None:
        value = self._left.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self._say(name, f"is not of type {kind.__name__}")
            return None
        return value

    def take(self, name: str, kind: type[T], default: T) -> T:
        value = self.find(name, kind)
        return default if value is None else value

    def table(self, name: str) -> "_Table":
        return _Table(self.take(name, dict, {}), f"{self._where}{name}.", self._problems)

    def count(self, name: str, default: int) -> int:
        value = self.take(name, int, default)
        if value < 1:
            self._say(name, "is less than 1")
        return value

    def seconds(self, name: str, default: int) -> int:
        """Return milliseconds."""
        return self.count(name, default) * 1000

    def users(self, name: str) -> tuple[UserID, ...]:
        values: list[object] = self.take(name, list, [])
        users = []
        for value in values:
            try:
                users.append(parse_user_id(str(value)))
            except ValueError:
                self._say(name, f"holds {value!r}, which is not a user id")
        return tuple(users)

    def room(self, name: str) -> RoomID | None:
        value = self.find(name, str)
        try:
            return None if value is None else parse_room_id(value)
        except ValueError:
            self._say(name, f"is {value!r}, which is not a room id")
            return None

    def profile(self, name: str, default: str) -> str:
        value = self.take(name, str, default)
        if value not in PROFILES:
            self._say(name, f"is {value!r}, not one of {', '.join(sorted(PROFILES))}")
        return value

    def program_profiles(self, name: str) -> Mapping[bytes, str]:
        table = self.table(name)
        programs = list(table._left)  # noqa: SLF001  our own class
        return {program.encode(): table.profile(program, "") for program in programs}

    def close(self) -> None:
        for name in sorted(self._left):
            self._say(name, "is not a known key")
