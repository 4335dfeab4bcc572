"""The few verbs in which storage functions talk to PostgreSQL.

A storage function is a plain function `f(txn, …)`; it never opens or commits a transaction.
SQL is a literal and values are always bound.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, LiteralString, TypeVar

from psycopg2.extras import execute_values

T = TypeVar("T")
Values = Sequence[object] | Mapping[str, object]
R = TypeVar("R")


class Txn:
    """A running transaction (or an autocommit read). Wraps one psycopg2 cursor."""

    __slots__ = ("cursor",)

    def __init__(self, cursor: Any) -> None:
        self.cursor = cursor


def execute(txn: Txn, sql: LiteralString, values: Values = ()) -> int:
    """Return how many rows were touched."""
    txn.cursor.execute(sql, values)
    return int(txn.cursor.rowcount)


def fetch_value(txn: Txn, kind: type[T], sql: LiteralString, values: Values = ()) -> T:
    """Return the single value of the single row; it must exist."""
    txn.cursor.execute(sql, values)
    row = txn.cursor.fetchone()
    assert row is not None, "the query must give a row"
    return _typed(kind, row[0])


def find_value(txn: Txn, kind: type[T], sql: LiteralString, values: Values = ()) -> T | None:
    txn.cursor.execute(sql, values)
    row = txn.cursor.fetchone()
    return None if row is None or row[0] is None else _typed(kind, row[0])


def find_row(txn: Txn, make: type[R], sql: LiteralString, values: Values = ()) -> R | None:
    """Return `make(*columns)` of the first row, or None."""
    txn.cursor.execute(sql, values)
    row = txn.cursor.fetchone()
    return None if row is None else make(*_plain(row))


def list_rows(txn: Txn, make: type[R], sql: LiteralString, values: Values = ()) -> list[R]:
    txn.cursor.execute(sql, values)
    return [make(*_plain(row)) for row in txn.cursor]


def list_values(txn: Txn, kind: type[T], sql: LiteralString, values: Values = ()) -> list[T]:
    txn.cursor.execute(sql, values)
    return [_typed(kind, row[0]) for row in txn.cursor]


def list_tuples(txn: Txn, sql: LiteralString, values: Values = ()) -> list[tuple[Any, ...]]:
    txn.cursor.execute(sql, values)
    return [tuple(_plain(row)) for row in txn.cursor]


def insert_many(txn: Txn, sql: LiteralString, rows: Iterable[Sequence[object]]) -> None:
    """`INSERT … VALUES %s …` with all rows in few statements."""
    rows = list(rows)
    if rows:
        execute_values(txn.cursor, sql, rows, page_size=1000)


def _typed(kind: type[T], value: object) -> T:
    if kind is bytes and isinstance(value, memoryview):
        value = bytes(value)
    assert isinstance(value, kind), f"expected {kind.__name__}, the database gave {value!r}"
    return value


def _plain(row: Sequence[Any]) -> list[Any]:
    return [bytes(v) if type(v) is memoryview else v for v in row]
