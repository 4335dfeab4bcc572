"""The embedded PostgreSQL starts again on what a killed one has left behind."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from homeserver.storage.embedded import EmbeddedPostgres

LOCKS = ("postmaster.pid", ".s.PGSQL.5432.lock")


@pytest.fixture
def data() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="countersign-tests-") as folder:
        yield Path(folder) / "postgres"


def postmaster_of(data: Path) -> int:
    return int((data / "postmaster.pid").read_text().split("\n")[0])


def answers(url: str) -> bool:
    connection = psycopg2.connect(url)
    connection.close()
    return True


def test_lock_files_with_the_number_of_another_process_do_not_stop_the_start(data: Path) -> None:
    first = EmbeddedPostgres(data)
    first.start()
    killed = {name: (data / name).read_bytes() for name in LOCKS}
    number = str(postmaster_of(data)).encode()
    first.stop()
    for name, content in killed.items():
        own = content.replace(number, str(os.getpid()).encode(), 1)
        (data / name).write_bytes(own)

    again = EmbeddedPostgres(data)
    url = again.start()

    assert answers(url)
    again.stop()


def test_a_lock_file_that_was_cut_short_does_not_stop_the_start(data: Path) -> None:
    first = EmbeddedPostgres(data)
    first.start()
    first.stop()
    (data / "postmaster.pid").write_text("12345\n")

    again = EmbeddedPostgres(data)
    url = again.start()

    assert answers(url)
    again.stop()


def test_a_postgresql_that_outlived_its_server_is_found_again(data: Path) -> None:
    first = EmbeddedPostgres(data)
    first.start()
    number = postmaster_of(data)

    again = EmbeddedPostgres(data)
    url = again.start()

    assert postmaster_of(data) == number
    assert answers(url)
    again.stop()
