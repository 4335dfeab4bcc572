"""Forward-only, numbered migrations in plain SQL.

Each `NNNN_name.sql` runs in one transaction and is immutable once merged: its checksum is stored
when it is applied and compared at every start. The header `-- compatible-from: NNNN` names the
oldest code that may still run on the result, by its newest migration; it is stored as well, so
that older code can tell whether it may run on a newer database.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources

import psycopg2

from homeserver.storage.database import run_transaction
from homeserver.storage.query import Txn, execute, find_value, list_rows

_NAME = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")
_COMPATIBLE_FROM = re.compile(r"^-- compatible-from: (\d{4})$", re.MULTILINE)


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

    @property
    def compatible_from(self) -> int:
        """The oldest code that may run on the result; without a header, only this."""
        header = _COMPATIBLE_FROM.search(self.sql)
        return self.number if header is None else int(header[1])


@dataclass(frozen=True)
class Applied:
    number: int
    name: str
    checksum: str
    compatible_from: int | None
    """None: it was applied by code that did not store it."""


def list_migrations() -> list[Migration]:
    folder = resources.files("homeserver.storage") / "migrations"
    found = []
    for file in folder.iterdir():
        matched = _NAME.match(file.name)
        if matched:
            found.append(Migration(int(matched[1]), file.name[:-4], file.read_text("utf-8")))
    return sorted(found, key=lambda migration: migration.number)


def migrate(url: str, server_name: str) -> list[str]:
    """Bring the database at `url` up to date and return what was done, in lines for people.

    Raises MigrationRefused when the database is newer than this code, was changed by hand, or
    belongs to a server of another name.
    """
    connection = psycopg2.connect(url, connect_timeout=10)
    try:
        connection.autocommit = True
        run_transaction(connection, _create_ledger)
        applied = run_transaction(connection, _list_applied)
        known = list_migrations()
        newer = _check(applied, known)
        done = {row.number for row in applied}
        lines = []
        for migration in known:
            if migration.number not in done:
                run_transaction(connection, partial(_apply, migration=migration))
                lines.append(f"Applied migration {migration.name}.")
        run_transaction(connection, lambda txn: _check_identity(txn, server_name))
        if newer:
            lines.append(
                f"The database has {newer}, of a newer version that this one can run with."
            )
        elif not lines:
            lines.append(f"The database is up to date at {known[-1].name}: nothing was done.")
        return lines
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
    execute(txn, "ALTER TABLE applied_migrations ADD COLUMN IF NOT EXISTS compatible_from integer")


def _list_applied(txn: Txn) -> list[Applied]:
    return list_rows(
        txn,
        Applied,
        "SELECT number, name, checksum, compatible_from FROM applied_migrations ORDER BY number",
    )


def _check(applied: Sequence[Applied], known: Sequence[Migration]) -> str | None:
    """Return the newest migration of a newer version, when this one can run with it."""
    by_number = {migration.number: migration for migration in known}
    newest = known[-1].number
    newer = None
    for row in applied:
        migration = by_number.get(row.number)
        if migration is not None:
            if migration.checksum != row.checksum:
                raise MigrationRefused(
                    f"Migration {row.name} was applied with other content than this version has."
                )
        elif row.compatible_from is None or row.compatible_from > newest:
            raise MigrationRefused(
                f"The database has migration {row.name}, which this version does not know and "
                "cannot run with: start a newer version, or restore the backup made before the "
                "upgrade."
            )
        else:
            newer = row.name
    return newer


def _apply(txn: Txn, migration: Migration) -> None:
    txn.run(migration.sql)
    execute(
        txn,
        """
        INSERT INTO applied_migrations (number, name, checksum, compatible_from)
        VALUES (%s, %s, %s, %s)""",
        (migration.number, migration.name, migration.checksum, migration.compatible_from),
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
