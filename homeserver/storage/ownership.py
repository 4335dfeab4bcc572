"""One server process on a database at a time, by an advisory lock that ends with its connection.

Two of them would give out the same numbers and undo each other's rooms. A killed process leaves
nothing behind: PostgreSQL drops the lock with the connection.
"""

import psycopg2
import psycopg2.errors
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class

from homeserver.storage.query import Txn, execute

_LOCK = 0x636F_756E_7465_7273  # "counters"


class DatabaseTaken(Exception):
    """The message says what to do."""


class DatabaseOwnership:
    def __init__(self, url: str) -> None:
        """Raises DatabaseTaken."""
        self._connection: Connection = psycopg2.connect(url, connect_timeout=10)
        self._connection.autocommit = True
        try:
            with self._connection.cursor() as cursor:
                # PostgreSQL may need a moment to notice that a killed process has gone.
                execute(Txn(cursor), "SET lock_timeout = '3s'")
                execute(Txn(cursor), "SELECT pg_advisory_lock(%s)", (_LOCK,))
        except psycopg2.errors.LockNotAvailable as error:
            self._connection.close()
            raise DatabaseTaken(
                "Another server process uses this database: stop it first, or give this one a "
                "database of its own (database.url, or server.data_directory)."
            ) from error

    def release(self) -> None:
        self._connection.close()
