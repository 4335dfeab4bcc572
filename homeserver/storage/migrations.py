"""Forward-only, numbered migrations in plain SQL.

Each `NNNN_name.sql` runs in one transaction and is immutable once merged: its checksum is stored
when it is applied and compared at every start. The header `-- compatible-from: NNNN` names the
oldest code that may still run on the result.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import psycopg2

from homeserver.storage.database import run_transaction
from homeserver.storage.query import Txn, execute, find_value, list_rows

_NAME = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")


class MigrationRefused(Exception):
    """The database does not fit this code; the message says what to do."""


@dataclass(frozen=True)
class Migration:
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True)
class Applied:
    number: int
    name: str
    checksum: str


def list_migrations() -> list[Migration]:
    folder = resources.files("homeserver.storage") / "migrations"
    found = []
    for file in folder.iterdir():
        matched = _NAME.match(file.name)
        if matched:
            found.append(Migration(int(matched[1]), file.name[:-4], file.read_text("utf-8")))
    return sorted(found, key=lambda migration: migration.number)


def migrate(url: str, server_name: str) -> list[str]:
    """Bring the database at `url` up to date and return the names applied now.

    Raises MigrationRefused when the database is newer than this code, was changed by hand, or
    belongs to a server of another name.
    """
    connection = psycopg2.connect(url, connect_timeout=10)
    try:
        connection.autocommit = True
        run_transaction(connection, _create_ledger)
        applied = run_transaction(connection, _list_applied)
        known = list_migrations()
        _check(applied, known)
        names = []
        for migration in known[len(applied) :]:
            run_transaction(connection, lambda txn, m=migration: _apply(txn, m))  # type: ignore[misc]  # binds the loop variable
            names.append(migration.name)
        run_transaction(connection, lambda txn: _check_identity(txn, server_name))
        return names
    finally:
        connection.close()


def _create_ledger(txn: Txn) -> None:
    execute(
        txn,
        """
        CREATE TABLE IF NOT EXISTS applied_migrations (
            number integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
            applied_at timestamptz NOT NULL DEFAULT now())""",
    )


def _list_applied(txn: Txn) -> list[Applied]:
    return list_rows(
        txn, Applied, "SELECT number, name, checksum FROM applied_migrations ORDER BY number"
    )


def _check(applied: Sequence[Applied], known: Sequence[Migration]) -> None:
    for position, row in enumerate(applied):
        if position >= len(known):
            raise MigrationRefused(
                f"The database has migration {row.name}, which this version does not know: "
                "start a newer version, or restore the backup made before the upgrade."
            )
        if known[position].checksum != row.checksum:
            raise MigrationRefused(
                f"Migration {row.name} was applied with other content than this version has."
            )


def _apply(txn: Txn, migration: Migration) -> None:
    txn.cursor.execute(migration.sql)
    execute(
        txn,
        "INSERT INTO applied_migrations (number, name, checksum) VALUES (%s, %s, %s)",
        (migration.number, migration.name, migration.checksum),
    )


def _check_identity(txn: Txn, server_name: str) -> None:
    known = find_value(txn, str, "SELECT server_name FROM server_identity")
    if known is None:
        execute(txn, "INSERT INTO server_identity (server_name) VALUES (%s)", (server_name,))
    elif known != server_name:
        raise MigrationRefused(
            f"This database belongs to the server {known}, but the configuration says "
            f"{server_name}: a server's name cannot change. Correct server.name or use another "
            "database."
        )
