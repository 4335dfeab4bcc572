"""The verbs of storage functions: what is kept back, and what is written many rows at a time."""

from collections.abc import Iterator

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class

from homeserver.errors import ConstraintViolated
from homeserver.storage.database import run_transaction
from homeserver.storage.query import (
    Txn,
    copied_json,
    copied_number,
    copy_rows,
    execute,
    fetch_value,
    insert_columns,
    insert_many,
    list_tuples,
    list_values,
)


@pytest.fixture
def connection(postgres_url: str) -> Iterator[Connection]:
    connection = psycopg2.connect(postgres_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE kept (n bigint PRIMARY KEY, t text, b bytea, a bigint[])")
    yield connection
    connection.close()


def stored(connection: Connection) -> list[int]:
    with connection.cursor() as cursor:
        return list_values(Txn(cursor), int, "SELECT n FROM kept ORDER BY n")


def insert(txn: Txn, *numbers: int) -> None:
    insert_many(txn, "INSERT INTO kept (n) VALUES %s", [(number,) for number in numbers])


def test_what_is_kept_back_is_there_for_the_next_statement_and_at_the_end(
    connection: Connection,
) -> None:
    def work(txn: Txn) -> int:
        insert(txn, 1, 2)
        found = fetch_value(txn, int, "SELECT count(*) FROM kept")
        insert(txn, 3)
        execute(txn, "UPDATE kept SET n = n + %s WHERE n = 3", (7,))
        insert(txn, 4)
        return found

    assert run_transaction(connection, work) == 2
    assert stored(connection) == [1, 2, 4, 10]


def test_a_fault_in_what_was_kept_back_undoes_all_of_it(connection: Connection) -> None:
    def work(txn: Txn) -> None:
        insert(txn, 1)
        insert(txn, 2)
        insert(txn, 2)
        insert(txn, 3)

    with pytest.raises(ConstraintViolated):
        run_transaction(connection, work)

    assert stored(connection) == []
    run_transaction(connection, lambda txn: insert(txn, 5))
    assert stored(connection) == [5]


def test_nothing_of_a_function_that_fails_is_stored(connection: Connection) -> None:
    def work(txn: Txn) -> None:
        insert(txn, 1)
        fetch_value(txn, int, "SELECT count(*) FROM kept")
        insert(txn, 2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_transaction(connection, work)

    assert stored(connection) == []


JSON_TEXTS = [
    "",
    "{}",
    r'{"a":"\\","b":"\n\t\"\\x41\\101","c":"\u0000\u001f"}',
    '{"ä€𝄞":"\u007f\u2028"}',
    r'"\x41"',
    r"\.",
]


def test_copied_rows_come_back_as_they_were(connection: Connection) -> None:
    def work(txn: Txn) -> None:
        insert(txn, 1)
        lines = [
            b"%d\t%s" % (number, copied_json(text.encode()))
            for number, text in enumerate(JSON_TEXTS, 2)
        ]
        copy_rows(txn, "COPY kept (n, b) FROM STDIN", lines)
        numbers = [f"{copied_number(-(2**62))}\t{copied_number(None)}".encode()]
        copy_rows(txn, "COPY kept (n, t) FROM STDIN", numbers)

    run_transaction(connection, work)

    with connection.cursor() as cursor:
        rows = list_tuples(Txn(cursor), "SELECT n, t, b FROM kept ORDER BY n")
    assert rows == [
        (-(2**62), None, None),
        (1, None, None),
        *((number, None, text.encode()) for number, text in enumerate(JSON_TEXTS, 2)),
    ]


@pytest.mark.parametrize("text", ["", "NULL", "a,b", '"', "\\", '\\"{}', "\n\t", "ä€𝄞", "%s %"])
def test_texts_bound_as_a_column_come_back_as_they_were(connection: Connection, text: str) -> None:
    def work(txn: Txn) -> None:
        insert_columns(
            txn,
            "INSERT INTO kept (n, t) SELECT * FROM unnest(%s::bigint[], %s::text[])",
            [(1, text), (2, None)],
        )
        insert_columns(txn, "INSERT INTO kept (n) SELECT * FROM unnest(%s::bigint[])", [])

    run_transaction(connection, work)

    with connection.cursor() as cursor:
        assert list_tuples(Txn(cursor), "SELECT n, t FROM kept ORDER BY n") == [
            (1, text),
            (2, None),
        ]
