"""One server process on a database at a time, by advisory locks that end with their connections.

Two processes would give out the same numbers and undo each other's rooms. A killed process leaves
nothing behind: PostgreSQL drops the locks with the connections.

1. The owner's connection holds the first lock alone.
2. Each connection of the owner's pool holds the second lock, shared, and got it while the first was
   its own. Who takes the first lock waits for the second one to be free.

So a process that lost its first connection only may take it again while its others live; nobody can
have come between. Otherwise it looks whether the database is still as it left it.
"""

import logging
import threading
from collections.abc import Callable

import psycopg2
import psycopg2.errors
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class

from homeserver.storage.database import DatabaseTaken, run_transaction
from homeserver.storage.query import Txn, execute, fetch_value

logger = logging.getLogger(__name__)

_OWNER_LOCK = 0x636F_756E_7465_7273  # "counters"
_POOL_LOCK = _OWNER_LOCK + 1
_CONNECT_TIMEOUT_SECONDS = 5


class DatabaseOwnership:
    """May be used from any thread."""

    def __init__(self, url: str) -> None:
        """Raises DatabaseTaken."""
        self._url = url
        self._lock = threading.Lock()
        self._check_unchanged: Callable[[Txn], None] | None = None
        self._connection = self._take(waits_for_pool=True)

    def check_unchanged_by(self, check: Callable[[Txn], None]) -> None:
        """Call `check` when the lock was lost and taken again; it raises DatabaseTaken."""
        self._check_unchanged = check

    def admit(self, connection: Connection) -> None:
        """Let a new connection of the pool in. Raises DatabaseTaken, psycopg2.Error."""
        with connection.cursor() as cursor:
            execute(Txn(cursor), "SELECT pg_advisory_lock_shared(%s)", (_POOL_LOCK,))
        self.keep()

    def keep(self) -> None:
        """Make sure of the lock, and take it again if it was lost.

        Raises DatabaseTaken; psycopg2.Error while the database does not answer.
        """
        with self._lock:
            try:
                with self._connection.cursor() as cursor:
                    execute(Txn(cursor), "SELECT 1")
            except psycopg2.Error:
                self._connection.close()
                self._connection = self._take(waits_for_pool=False)
                logger.warning("Took the lock of the database again after its connection was lost")

    def _take(self, *, waits_for_pool: bool) -> Connection:
        connection: Connection = psycopg2.connect(
            self._url, connect_timeout=_CONNECT_TIMEOUT_SECONDS
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                # PostgreSQL may need a moment to notice that a killed process has gone.
                execute(Txn(cursor), "SET lock_timeout = '3s'")
                execute(Txn(cursor), "SELECT pg_advisory_lock(%s)", (_OWNER_LOCK,))  # 1
                if waits_for_pool:  # 2
                    execute(Txn(cursor), "SELECT pg_advisory_lock(%s)", (_POOL_LOCK,))
                    fetch_value(Txn(cursor), bool, "SELECT pg_advisory_unlock(%s)", (_POOL_LOCK,))
            if self._check_unchanged is not None:
                run_transaction(connection, self._check_unchanged)
        except psycopg2.errors.LockNotAvailable as error:
            connection.close()
            raise DatabaseTaken(
                "Another server process uses this database: stop it first, or give this one a "
                "database of its own (database.url, or server.data_directory)."
            ) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def release(self) -> None:
        self._connection.close()
