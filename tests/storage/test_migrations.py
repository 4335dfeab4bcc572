"""Migrations: forward, once, whole, and refused where they do not fit."""

from collections.abc import Iterator

import psycopg2
import pytest

from homeserver.storage import migrations
from homeserver.storage.migrations import Migration, MigrationRefused, list_migrations, migrate
from tests import conftest
from tests.storage.regenerate_schema import SCHEMA, dump_schema


@pytest.fixture
def empty_database(postgres_url: str) -> Iterator[str]:
    with conftest.empty_database(postgres_url, "migration_test") as url:
        yield url


def query(url: str, sql: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def test_all_migrations_are_applied_in_order_and_only_once(empty_database: str) -> None:
    names = [migration.name for migration in list_migrations()]

    assert migrate(empty_database, "a.test") == [f"Applied migration {name}." for name in names]
    assert migrate(empty_database, "a.test") == [
        f"The database is up to date at {names[-1]}: nothing was done."
    ]
    stored = query(empty_database, "SELECT name FROM applied_migrations ORDER BY number")
    assert [name for (name,) in stored] == names


def test_migrations_are_numbered_without_gaps() -> None:
    found = list_migrations()

    assert found
    assert [migration.number for migration in found] == list(range(1, len(found) + 1))


def test_each_migration_says_which_older_code_may_still_run() -> None:
    for migration in list_migrations():
        assert migration.sql.startswith("-- compatible-from: "), migration.name


def test_a_migration_that_fails_leaves_nothing_and_the_ones_before_it(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Migration(1, "0001_good", "CREATE TABLE good (a integer)")
    identity = Migration(
        2, "0002_identity", "CREATE TABLE server_identity (server_name text NOT NULL)"
    )
    broken = Migration(3, "0003_broken", "CREATE TABLE broken (a integer); SELECT 1/0")
    monkeypatch.setattr(migrations, "list_migrations", lambda: [good, identity, broken])

    with pytest.raises(psycopg2.errors.DivisionByZero):
        migrate(empty_database, "a.test")

    tables = "SELECT relname FROM pg_class WHERE relname IN ('good', 'broken')"
    assert query(empty_database, tables) == [("good",)]
    assert query(empty_database, "SELECT count(*) FROM applied_migrations") == [(2,)]


def test_a_migration_that_was_changed_after_it_was_applied_is_refused(empty_database: str) -> None:
    migrate(empty_database, "a.test")
    query(empty_database, "UPDATE applied_migrations SET checksum = 'x' WHERE number = 2")

    with pytest.raises(MigrationRefused, match="applied with other content"):
        migrate(empty_database, "a.test")


@pytest.mark.parametrize("compatible_from", ["NULL", "9998"])
def test_attack_15_a_database_that_only_newer_versions_understand_is_refused(
    empty_database: str, compatible_from: str
) -> None:
    migrate(empty_database, "a.test")
    query(
        empty_database,
        "INSERT INTO applied_migrations (number, name, checksum, compatible_from)"
        f" VALUES (9998, 'early', 'x', 1), (9999, 'later', 'x', {compatible_from})",
    )

    with pytest.raises(MigrationRefused, match="migration later, which this version does not know"):
        migrate(empty_database, "a.test")


def test_a_newer_database_that_says_it_suits_this_version_is_used(empty_database: str) -> None:
    migrate(empty_database, "a.test")
    newest = list_migrations()[-1].number
    query(
        empty_database,
        "INSERT INTO applied_migrations (number, name, checksum, compatible_from)"
        f" VALUES (9999, 'later', 'x', {newest})",
    )

    assert migrate(empty_database, "a.test") == [
        "The database has later, of a newer version that this one can run with."
    ]


def test_what_a_migration_is_compatible_with_is_stored(empty_database: str) -> None:
    migrate(empty_database, "a.test")

    stored = query(empty_database, "SELECT compatible_from FROM applied_migrations ORDER BY number")

    assert [number for (number,) in stored] == [m.compatible_from for m in list_migrations()]


def test_a_database_without_a_record_of_compatibility_gets_one(empty_database: str) -> None:
    migrate(empty_database, "a.test")
    query(empty_database, "ALTER TABLE applied_migrations DROP COLUMN compatible_from")

    assert "nothing was done" in migrate(empty_database, "a.test")[0]


def test_a_database_keeps_its_server_name(empty_database: str) -> None:
    migrate(empty_database, "a.test")

    with pytest.raises(MigrationRefused, match="belongs to the server a"):
        migrate(empty_database, "b.test")


def test_the_schema_file_is_what_the_migrations_make(postgres_url: str) -> None:
    assert SCHEMA.read_text("utf-8") == dump_schema(postgres_url), (
        "out of date: python -m tests.storage.regenerate_schema"
    )
