"""The configuration: one frozen dataclass a section, loaded once from YAML.

`config/homeserver.example.yaml` is generated from here (`python -m homeserver make-config`).
Unknown keys and bad values are reported all together, with the nearest valid name; unsafe
combinations are refused, not warned about. Relative paths are relative to the file.
"""

import dataclasses
import inspect
import ipaddress
import re
import textwrap
import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from homeserver.core.identifiers import ServerName
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.transport.decoding import DecodingFailed, decode


class ConfigInvalid(Exception):
    """The message is for that person: every problem, one a line."""


@dataclass(frozen=True)
class ServerSection:
    name: ServerName
    """Name of this server in user ids and room aliases, such as example.org. It never changes."""
    data_directory: str = "data"
    """Where the embedded database, keys and media live."""
    signing_key_file: str = "data/signing.key"
    """Ed25519 key that signs events; made at the first start, readable by the server alone."""
    public_base_url: str | None = None
    """What clients use to reach this server, such as https://matrix.example.org; null: as asked."""
    default_room_version: str = "11"
    """Room version of new rooms."""


@dataclass(frozen=True)
class ListenSection:
    address: str = "127.0.0.1"
    """Address to listen on; keep loopback when a TLS proxy stands in front."""
    port: int = 8008
    """TCP port of the client-server API."""
    metrics_port: int | None = None
    """Port on 127.0.0.1 that serves Prometheus metrics at /metrics; null: none."""
    trust_forwarded_headers: bool = False
    """Believe X-Forwarded-For and X-Forwarded-Proto: only behind a proxy that sets them."""
    access_token_in_query: bool = True
    """Accept ?access_token=…, which ends up in the logs of proxies; old clients need it."""
    max_body_bytes: int = 10_485_760
    """Larger request bodies are refused (media uploads have a limit of their own)."""
    idle_timeout_seconds: int = 120
    """Connections without traffic are closed after this."""


@dataclass(frozen=True)
class FederationSection:
    enabled: bool = True
    """Talk with other servers."""
    tls_port: int | None = None
    """TCP port for other servers, with TLS (8448 is what they try first); null: a proxy in front
    of listen.port serves them."""
    tls_address: str = "0.0.0.0"  # noqa: S104 - it is there for the whole network
    """Address that tls_port listens on."""
    tls_certificate_file: str | None = None
    """Certificate chain (PEM) for tls_port; read again when the file changes."""
    tls_key_file: str | None = None
    """Private key (PEM) of the certificate."""
    delegated_name: ServerName | None = None
    """Where other servers find this one, such as matrix.example.org:443, if server.name does not
    say it; served as .well-known/matrix/server. null: nothing is served there."""
    ca_file: str | None = None
    """Certificates (PEM) of further authorities that other servers' certificates may be signed by;
    null: those of the system alone."""
    allowed_servers: list[str] | None = None
    """The only servers to talk with; null: all."""
    denied_servers: list[str] = field(default_factory=list)
    """Servers never to talk with; * and ? are wildcards."""
    trusted_key_servers: list[ServerName] = field(default_factory=list)
    """Servers that are asked for the keys of servers that do not answer themselves."""
    old_keys_file: str | None = None
    """Keys this server signed with in the past, one a line: KEY_ID PUBLIC_KEY EXPIRED_MS."""
    timeout_seconds: int = 60
    """How long another server may take for an answer."""


@dataclass(frozen=True)
class PublicRoomsSection:
    over_federation: bool = True
    """Show the directory of published rooms to other servers."""


@dataclass(frozen=True)
class OutboundSection:
    allowed_networks: list[str] = field(default_factory=list)
    """Private networks, such as 10.1.0.0/16, that the server may call on behalf of others."""


@dataclass(frozen=True)
class DatabaseSection:
    url: str | None = None
    """postgresql://… of a PostgreSQL 15 or newer; null: the embedded one in data_directory."""
    threads: int = 6
    """Connections to the database."""
    wait_seconds: int = 60
    """How long to wait at the start for a database that does not answer yet."""


@dataclass(frozen=True)
class RegistrationSection:
    enabled: bool = False
    """Let anybody make an account."""
    tokens_file: str | None = None
    """File with registration tokens, one a line: only who knows one makes an account; null: all."""
    shared_secret_file: str | None = None
    """File with the secret that registers accounts by /_synapse/admin/v1/register; null: off."""


@dataclass(frozen=True)
class RateLimitSection:
    enabled: bool = True
    """Count rate-limited operations for each user or address."""
    per_second: float = 10.0
    """Sustained rate of one operation by one user."""
    burst: int = 50
    """How many may come at once."""
    login_per_minute: float = 20.0
    """Failed and successful logins for one account or address."""


@dataclass(frozen=True)
class PasswordSection:
    time_cost: int = 3
    """argon2id passes."""
    memory_kib: int = 65_536
    """argon2id memory."""
    parallelism: int = 2
    """argon2id lanes."""


@dataclass(frozen=True)
class PresenceSection:
    enabled: bool = True
    """Tell users who share a room who is online. Off: everybody seems to be offline."""


@dataclass(frozen=True)
class AppserviceSection:
    registration_files: list[str] = field(default_factory=list)
    """Registration files (YAML) of application services."""


@dataclass(frozen=True)
class MediaSection:
    max_upload_bytes: int = 52_428_800
    """Larger files are refused."""
    max_remote_bytes: int = 52_428_800
    """Larger files of other servers are not fetched."""
    remote_cache_bytes: int = 10_737_418_240
    """Disk space for files of other servers; those used least recently are deleted first."""
    max_user_bytes: int | None = 10_737_418_240
    """What one user may upload in all; null: as much as the disk holds."""
    max_pending_uploads: int = 10
    """Media ids that a user may have made without having uploaded to them."""
    unauthenticated_legacy: bool = False
    """Give files that come while this is on to whoever knows their URL, logged in or not, as old
    clients and servers need; files that come while it is off are never given out that way."""


@dataclass(frozen=True)
class DelayedEventsSection:
    max_delay_ms: int = 0
    """How long at most the sending of an event may be delayed, in milliseconds (MSC4140); 0: none
    is taken, though those taken before are still sent."""
    max_scheduled: int = 100
    """How many a user may have scheduled at once."""
    max_scheduled_bytes: int = 1_048_576
    """How large the contents of one user's scheduled events may be together."""


@dataclass(frozen=True)
class LimitsSection:
    live_rooms_bytes: int = 268_435_456
    """Memory for rooms in use; the least recently used go first."""
    sync_max_timeout_seconds: int = 120
    """Longer long polls are shortened to this."""
    max_to_device_messages: int = 100
    """To-device messages in one sync response."""
    inbound_federation_bytes: int = 134_217_728
    """Of transactions of other servers, all together, that are being worked through. Whoever would
    go beyond it, or hold more than is left, is told to send again."""


@dataclass(frozen=True)
class LoggingSection:
    level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    file: str | None = None
    """Log file; null: standard error."""


@dataclass(frozen=True)
class Config:
    server: ServerSection
    listen: ListenSection = ListenSection()
    federation: FederationSection = FederationSection()
    public_rooms: PublicRoomsSection = PublicRoomsSection()
    outbound: OutboundSection = OutboundSection()
    database: DatabaseSection = DatabaseSection()
    registration: RegistrationSection = RegistrationSection()
    rate_limits: RateLimitSection = RateLimitSection()
    passwords: PasswordSection = PasswordSection()
    presence: PresenceSection = PresenceSection()
    appservices: AppserviceSection = AppserviceSection()
    media: MediaSection = MediaSection()
    delayed_events: DelayedEventsSection = DelayedEventsSection()
    limits: LimitsSection = LimitsSection()
    logging: LoggingSection = LoggingSection()
    directory: Path = field(default=Path(), metadata={"decoded": False})
    """The folder of the file, for relative paths; not a setting."""

    def path(self, relative: str) -> Path:
        return (self.directory / relative).absolute()


def load_config(file: Path) -> Config:
    """Raises ConfigInvalid."""
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise ConfigInvalid(
            f"{file}: {error.strerror}. Make one: python -m homeserver make-config > {file}"
        ) from error
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigInvalid(f"{file} is not YAML: {error}") from error
    try:
        config = decode(Config, value or {}, refuse_unknown=True)
    except DecodingFailed as error:
        lines = "\n".join(f"  {p.path or 'the file'} {p.message}" for p in error.problems)
        raise ConfigInvalid(f"{file} cannot be used:\n{lines}") from error
    _refuse_unsafe(file, config)
    return dataclasses.replace(config, directory=file.absolute().parent)


def _refuse_unsafe(file: Path, config: Config) -> None:
    problems = []
    if config.logging.level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        problems.append("logging.level must be DEBUG, INFO, WARNING or ERROR")
    if config.server.default_room_version not in ROOM_VERSIONS:
        offered = ", ".join(ROOM_VERSIONS)
        problems.append(f"server.default_room_version must be one of {offered}")
    for network in config.outbound.allowed_networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            problems.append(f"outbound.allowed_networks: {error}; write it as 10.1.0.0/16")
    federation = config.federation
    if federation.tls_port is not None and (
        federation.tls_certificate_file is None or federation.tls_key_file is None
    ):
        problems.append(
            "federation.tls_port needs federation.tls_certificate_file and federation.tls_key_file"
        )
    if config.media.remote_cache_bytes < config.media.max_remote_bytes:
        problems.append("media.remote_cache_bytes must be at least media.max_remote_bytes")
    delayed = config.delayed_events
    if min(delayed.max_delay_ms, delayed.max_scheduled, delayed.max_scheduled_bytes) < 0:
        problems.append("delayed_events: no limit can be negative")
    if config.limits.inbound_federation_bytes < config.listen.max_body_bytes:
        problems.append("limits.inbound_federation_bytes must be at least listen.max_body_bytes")
    if config.database.threads < 1:
        problems.append("database.threads must be at least 1")
    if config.listen.trust_forwarded_headers and config.listen.address not in (
        "127.0.0.1",
        "::1",
        "localhost",
    ):
        problems.append(
            "listen.trust_forwarded_headers needs a loopback listen.address: anybody could forge "
            "the headers otherwise"
        )
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise ConfigInvalid(f"{file} cannot be used:\n{lines}")


def example_config() -> str:
    """Return the commented example; every value but the server's name is the default."""
    lines = [
        "# Generated: python -m homeserver make-config. Every value but server.name is the default."
    ]
    hints = typing.get_type_hints(Config)
    for section in dataclasses.fields(Config):
        if section.name == "directory":
            continue
        lines += ["", f"{section.name}:"]
        kind = hints[section.name]
        documentation = _field_docs(kind)
        for setting in dataclasses.fields(kind):
            lines += [
                f"  # {line}" for line in textwrap.wrap(documentation[setting.name], width=96)
            ]
            if setting.default is not dataclasses.MISSING:
                value = setting.default
            elif setting.default_factory is not dataclasses.MISSING:
                value = setting.default_factory()
            else:
                value = "example.org"
            lines.append("  " + yaml.safe_dump({setting.name: value}, width=1000).strip())
    return "\n".join(lines) + "\n"


def _field_docs(kind: type) -> dict[str, str]:
    source = inspect.getsource(kind)
    return {
        name: " ".join(text.split())
        for name, text in re.findall(
            r'^    (\w+): [^\n]*\n    """(.*?)"""', source, re.DOTALL | re.MULTILINE
        )
    }
