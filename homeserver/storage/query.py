"""The few verbs in which storage functions talk to PostgreSQL.

A storage function is a plain function `f(txn, …)`; it never opens or commits a transaction.
SQL is a literal and values are always bound.
"""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import islice
from typing import Any, LiteralString, TypeVar

_ROWS_A_STATEMENT = 1_000
T = TypeVar("T")
Values = Sequence[object] | Mapping[str, object]
R = TypeVar("R")


class Txn:
    """A running transaction (or an autocommit read). Wraps one psycopg2 cursor."""

    __slots__ = ("_keeps_back", "_kept_back", "cursor")

    def __init__(self, cursor: Any, *, keeps_back: bool = False) -> None:
        """`keeps_back`: statements without a result go out in one message with the next one.

        That is a round trip for all of them; PostgreSQL stops at the first that fails. Who wants
        it calls `send_rest` in the end.
        """
        self.cursor = cursor
        self._keeps_back = keeps_back
        self._kept_back: list[bytes] = []

    def run(self, sql: str | bytes, values: Values = ()) -> None:
        if self._kept_back:
            sql = self.cursor.mogrify(sql, values) if values else sql
            self._kept_back.append(sql if isinstance(sql, bytes) else sql.encode())
            self.send_rest()
        elif values:
            self.cursor.execute(sql, values)
        else:
            self.cursor.execute(sql)

    def run_later(self, sql: bytes) -> None:
        """Run what gives no result, now or with a later statement."""
        if self._keeps_back:
            self._kept_back.append(sql)
        else:
            self.cursor.execute(sql)

    def send_rest(self) -> None:
        """Send what was kept back."""
        if self._kept_back:
            statements, self._kept_back = self._kept_back, []
            self.cursor.execute(b";".join(statements))


def commit_lightly(txn: Txn) -> None:
    """Let the commit not wait for the disk: a crash of PostgreSQL may undo it, whole."""
    txn.run_later(b"SET LOCAL synchronous_commit TO off")


def execute(txn: Txn, sql: LiteralString, values: Values = ()) -> int:
    """Return how many rows were touched."""
    txn.run(sql, values)
    return int(txn.cursor.rowcount)


def fetch_value(txn: Txn, kind: type[T], sql: LiteralString, values: Values = ()) -> T:
    """Return the single value of the single row; it must exist."""
    txn.run(sql, values)
    row = txn.cursor.fetchone()
    assert row is not None, "the query must give a row"
    return _typed(kind, row[0])


def find_value(txn: Txn, kind: type[T], sql: LiteralString, values: Values = ()) -> T | None:
    txn.run(sql, values)
    row = txn.cursor.fetchone()
    return None if row is None or row[0] is None else _typed(kind, row[0])


def find_row(txn: Txn, make: type[R], sql: LiteralString, values: Values = ()) -> R | None:
    """Return `make(*columns)` of the first row, or None."""
    txn.run(sql, values)
    row = txn.cursor.fetchone()
    return None if row is None else make(*_plain(row))


def list_rows(txn: Txn, make: type[R], sql: LiteralString, values: Values = ()) -> list[R]:
    txn.run(sql, values)
    return [make(*_plain(row)) for row in txn.cursor]


def list_values(txn: Txn, kind: type[T], sql: LiteralString, values: Values = ()) -> list[T]:
    txn.run(sql, values)
    return [_typed(kind, row[0]) for row in txn.cursor]


def list_tuples(txn: Txn, sql: LiteralString, values: Values = ()) -> list[tuple[Any, ...]]:
    txn.run(sql, values)
    return [tuple(_plain(row)) for row in txn.cursor]


def insert_many(txn: Txn, sql: LiteralString, rows: Iterable[Sequence[object]]) -> None:
    """`INSERT … VALUES %s …` with all rows in few statements."""
    remaining = iter(rows)
    before, after = (part.encode() for part in sql.split("%s"))
    while some := list(islice(remaining, _ROWS_A_STATEMENT)):
        row_of_values = "(" + ",".join(["%s"] * len(some[0])) + ")"
        values = b",".join([txn.cursor.mogrify(row_of_values, row) for row in some])
        txn.run_later(before + values + after)


def copy_rows(txn: Txn, sql: LiteralString, lines: Sequence[bytes]) -> None:
    """`COPY … FROM STDIN` with a line a row: half the work of `insert_many`, for many rows.

    The columns of a line are parted by tabs; see `copied_number`, `copied_json`.
    """
    txn.send_rest()
    txn.cursor.copy_expert(sql, BytesIO(b"\n".join(lines)))


def copied_number(value: int | None) -> str:
    return "\\N" if value is None else str(value)


def copied_json(value: bytes) -> bytes:
    """Return JSON for a `bytea` column; a backslash is read twice, by COPY and for the type.

    Half as long as hexadecimal. Other characters with a meaning there do not occur raw in JSON.
    """
    return value.replace(b"\\", b"\\\\\\\\") if b"\\" in value else value


def insert_columns(
    txn: Txn, sql: LiteralString, rows: Iterable[Sequence[int | str | None]]
) -> None:
    """`INSERT … SELECT … FROM unnest(%s::bigint[], …)`: each column is bound as an array.

    Many rows are half the work of `insert_many`.
    """
    columns = [array_of(column) for column in zip(*rows, strict=True)]
    if columns:
        txn.run_later(txn.cursor.mogrify(sql, columns))


def array_of(values: Iterable[int | str | None]) -> str:
    """Return an array as the text that PostgreSQL reads it from."""
    return "{" + ",".join([_item(value) for value in values]) + "}"


def _item(value: int | str | None) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return "NULL" if value is None else str(value)


def _typed(kind: type[T], value: object) -> T:
    if kind is bytes and isinstance(value, memoryview):
        value = bytes(value)
    assert isinstance(value, kind), f"expected {kind.__name__}, the database gave {value!r}"
    return value


def _plain(row: Sequence[Any]) -> list[Any]:
    return [bytes(v) if type(v) is memoryview else v for v in row]
