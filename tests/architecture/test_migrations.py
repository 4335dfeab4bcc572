"""Migrations are numbered without gaps and say what older code may still run."""

import re

from homeserver.storage.migrations import list_migrations
from tests.architecture.sources import ROOT

FOLDER = ROOT / "homeserver" / "storage" / "migrations"
COMPATIBLE_FROM = re.compile(r"^-- compatible-from: (\d{4})$", re.MULTILINE)


def test_every_file_is_a_migration() -> None:
    files = {file.stem for file in FOLDER.iterdir() if file.suffix != ".pyc"}

    assert files == {migration.name for migration in list_migrations()}


def test_numbers_begin_at_one_and_have_no_gaps() -> None:
    numbers = [migration.number for migration in list_migrations()]

    assert numbers == list(range(1, len(numbers) + 1))


def test_each_migration_names_the_oldest_code_that_may_run_after_it() -> None:
    wrong = []
    for migration in list_migrations():
        header = COMPATIBLE_FROM.search(migration.sql.split("\n\n")[0])
        if header is None or not 1 <= int(header[1]) <= migration.number:
            wrong.append(migration.name)

    assert not wrong, "\n".join(wrong)


def test_migrations_leave_transactions_to_the_runner() -> None:
    wrong = [
        migration.name
        for migration in list_migrations()
        if re.search(r"^\s*(BEGIN|COMMIT|ROLLBACK)\b", migration.sql, re.MULTILINE)
    ]

    assert not wrong, "\n".join(wrong)
