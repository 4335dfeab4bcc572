"""Commands: run · migrate · routes · make-config · federation.

`python -m homeserver run --config homeserver.yaml`
"""

import argparse
import gc
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import psycopg2

from homeserver.appservice_registrations import load_registrations
from homeserver.commands.federation import add_federation_commands, run_federation_command
from homeserver.config import Config, ConfigInvalid, example_config, load_config
from homeserver.core.signing import SigningKey
from homeserver.engine.server_keys import SigningKeyUnusable, load_signing_key
from homeserver.logs import start_logging
from homeserver.randomness import Randomness
from homeserver.storage.database import DatabaseTaken
from homeserver.storage.embedded import EmbeddedPostgres, PostgresUnusable
from homeserver.storage.migrations import MigrationRefused, migrate
from homeserver.storage.ownership import DatabaseOwnership
from homeserver.transport.open_files import raise_open_files

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

_EXIT_CONFIG = 2
_EXIT_START = 3
_WAIT_STEP_SECONDS = 1.0


class StartRefused(Exception):
    """The message is one line that says what to do."""


_REFUSALS = (StartRefused, SigningKeyUnusable, MigrationRefused, PostgresUnusable, DatabaseTaken)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m homeserver", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, summary in (
        ("run", "run the server"),
        ("migrate", "bring the database up to date and stop"),
        ("routes", "print every operation: id, method, path, authentication, file:line"),
    ):
        command = commands.add_parser(name, help=summary)
        command.add_argument("--config", type=Path, default=Path("homeserver.yaml"))
    commands.add_parser("make-config", help="print a commented configuration")
    add_federation_commands(commands)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "make-config":
            sys.stdout.write(example_config())
            return 0
        config = load_config(chosen.config)
        if chosen.command == "run":
            return _run(config)
        if chosen.command == "federation":
            return run_federation_command(chosen, config, _signing_key(config))
        if chosen.command == "routes":
            return _print_routes(config)
        return _migrate(config)
    except ConfigInvalid as error:
        print(error, file=sys.stderr)
        return _EXIT_CONFIG
    except _REFUSALS as error:
        print(error, file=sys.stderr)
        return _EXIT_START


def _run(config: Config) -> int:
    start_logging(config.logging.level, config.logging.file)
    raise_open_files()
    _check_data_directory(config)
    listening = _bind(config.listen.address, config.listen.port, "listen.port")
    tls_port = config.federation.tls_port
    listening_tls = None
    if tls_port is not None:
        listening_tls = _bind(config.federation.tls_address, tls_port, "federation.tls_port")
    signing_key = load_signing_key(config.path(config.server.signing_key_file), Randomness())
    registrations = load_registrations(
        [config.path(file) for file in config.appservices.registration_files]
    )
    postgres = _embedded(config)
    try:
        with ThreadPoolExecutor(1) as beside:
            starting = beside.submit(_database_url, config, postgres)
            # While PostgreSQL starts. The reactor is installed by the first import of it.
            from homeserver.process import OwnDatabase, run_server  # noqa: PLC0415
        url = starting.result()
        try:
            ownership = _owned(url, config.database.wait_seconds)
        except DatabaseTaken:
            postgres = None  # it serves the other process
            raise
        for line in _migrated(config, url):
            logger.info("%s", line)
        own = OwnDatabase(url, ownership, postgres)
        try:
            return run_server(config, own, signing_key, registrations, listening, listening_tls)
        finally:
            ownership.release()
    finally:
        if postgres is not None:
            postgres.stop()


def _migrate(config: Config) -> int:
    postgres = _embedded(config)
    try:
        url = _database_url(config, postgres)
        try:
            ownership = _owned(url, config.database.wait_seconds)
        except DatabaseTaken:
            postgres = None  # it serves the other process
            raise
        try:
            for line in _migrated(config, url):
                print(line)
        finally:
            ownership.release()
    finally:
        if postgres is not None:
            postgres.stop()
    return 0


def _signing_key(config: Config) -> SigningKey:
    """Return the key of a server that has one. Raises StartRefused, SigningKeyUnusable."""
    file = config.path(config.server.signing_key_file)
    if not file.exists():
        raise StartRefused(f"There is no {file}: this server has never been started.")
    return load_signing_key(file, Randomness())


def _print_routes(config: Config) -> int:
    from homeserver.process import list_routes  # noqa: PLC0415 - see _run

    for line in list_routes(config):
        print(line)
    return 0


def _embedded(config: Config) -> EmbeddedPostgres | None:
    if config.database.url is not None:
        return None
    return EmbeddedPostgres(config.path(config.server.data_directory) / "postgres")


def _database_url(config: Config, postgres: EmbeddedPostgres | None) -> str:
    if postgres is not None:
        return postgres.start()
    assert config.database.url is not None
    return config.database.url


def _migrated(config: Config, url: str) -> list[str]:
    return _answered(migrate, url, config.server.name)


def _owned(url: str, wait_seconds: float) -> DatabaseOwnership:
    """Wait until the database answers. Raises DatabaseTaken, StartRefused."""
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return _answered(DatabaseOwnership, url)
        except StartRefused as refused:
            left = deadline - time.monotonic()
            if left <= 0 or not isinstance(refused.__cause__, psycopg2.OperationalError):
                raise
            cause = " ".join(str(refused.__cause__).split())
            logger.warning("Waiting for the database seconds_left=%d cause=%s", left, cause)
            time.sleep(min(_WAIT_STEP_SECONDS, left))


def _answered(ask: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Ask the database something. Raises StartRefused when it does not answer."""
    try:
        return ask(*args, **kwargs)
    except psycopg2.OperationalError as error:
        cause = " ".join(str(error).split())
        raise StartRefused(
            f"The database does not answer: {cause}. Check database.url and that PostgreSQL is "
            "running."
        ) from error
    except psycopg2.ProgrammingError as error:
        if error.pgcode is not None:
            raise
        raise StartRefused(f"database.url: {' '.join(str(error).split())}.") from error


def _check_data_directory(config: Config) -> None:
    folder = config.path(config.server.data_directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise StartRefused(
            f"Cannot write to {folder} ({error.strerror}): give this user the folder, or set "
            "server.data_directory to another one."
        ) from error


def _bind(address: str, port: int, setting: str) -> socket.socket:
    """Take the port before anything else is started, so that a taken one is said at once."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((address, port))
    except OSError as error:
        listening.close()
        raise StartRefused(
            f"Cannot listen on {address}:{port} ({error.strerror}): stop what uses the "
            f"port, or set {setting} to another one."
        ) from error
    listening.listen(1024)
    listening.setblocking(False)
    return listening


if __name__ == "__main__":
    gc.set_threshold(50_000, 20, 50)
    sys.exit(main())
