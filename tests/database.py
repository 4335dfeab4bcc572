"""The database of tests: a real PostgreSQL, run inline, everything rolled back after each test."""

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class
from twisted.internet.defer import Deferred, fail, succeed

from homeserver.errors import ConstraintViolated, DatabaseUnavailable
from homeserver.storage.query import Txn

P = ParamSpec("P")
T = TypeVar("T")


class InlineDatabase:
    """Runs each transaction at once, as a savepoint of one outer transaction.

    `fail_at` makes the n-th SQL statement from now raise, to test all-or-nothing.
    `lose_next_answer` makes the next transaction that writes an event commit and then look as if
    the connection had been lost; with `fail_at_after_loss` the next statement fails too.
    `fail_on` makes each statement raise that has this text in it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.statements: list[str] = []
        self.fail_at: int | None = None
        self.fail_on: str | None = None
        self.lose_next_answer = False
        self.fail_at_after_loss = False

    def run(
        self, function: Callable[Concatenate[Txn, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        try:
            with self._connection.cursor() as cursor:
                cursor.execute("SAVEPOINT one")
                try:
                    # Each statement goes out by itself: a fault can be at any of them.
                    result = function(Txn(_Counted(cursor, self)), *args, **kwargs)
                    cursor.execute("RELEASE one")
                except BaseException:
                    cursor.execute("ROLLBACK TO one")
                    raise
        except psycopg2.IntegrityError as error:
            return fail(ConstraintViolated(error.diag.constraint_name or "unknown"))
        except psycopg2.OperationalError as error:
            return fail(DatabaseUnavailable(str(error)))
        except Exception as error:  # noqa: BLE001 - carried to whoever awaits it
            return fail(error)
        if self.lose_next_answer and function.__name__ == "_write_txn":
            self.lose_next_answer = False
            self.fail_at = 1 if self.fail_at_after_loss else None
            return fail(DatabaseUnavailable("the connection was lost after the commit"))
        return succeed(result)

    read = run

    def close(self) -> None:
        self._connection.rollback()


def hold(
    database: InlineDatabase, name: str, monkeypatch: pytest.MonkeyPatch, *, is_done: bool
) -> Callable[[], None]:
    """Let transactions of this name wait; return what lets them go on.

    is_done  it is their answers that wait
    """
    run = database.run
    held: list[Callable[[], object]] = []

    def run_later(function: Any, *args: Any, **kwargs: Any) -> Deferred[Any]:
        if function.__name__ != name:
            return run(function, *args, **kwargs)
        answer: Deferred[Any] = Deferred()
        if is_done:
            done = run(function, *args, **kwargs)
            held.append(lambda: done.chainDeferred(answer))
        else:
            held.append(lambda: run(function, *args, **kwargs).chainDeferred(answer))
        return answer

    def let_go() -> None:
        monkeypatch.undo()
        assert held, "nothing waits"
        for one in held:
            one()

    monkeypatch.setattr(database, "run", run_later)
    return let_go


class _Counted:
    def __init__(self, cursor: object, database: InlineDatabase) -> None:
        self._cursor = cursor
        self._database = database

    def execute(self, sql: object, values: object = None) -> None:
        self._count(sql)
        self._cursor.execute(sql, values)  # type: ignore[attr-defined]  # a psycopg2 cursor

    def copy_expert(self, sql: str, rows: object) -> None:
        self._count(sql)
        self._cursor.copy_expert(sql, rows)  # type: ignore[attr-defined]  # a psycopg2 cursor

    def _count(self, sql: object) -> None:
        database = self._database
        text = sql.decode() if isinstance(sql, bytes) else str(sql)
        database.statements.append(text)
        if database.fail_on is not None and database.fail_on in text:
            raise psycopg2.OperationalError("injected failure")
        if database.fail_at is not None:
            database.fail_at -= 1
            if database.fail_at <= 0:
                database.fail_at = None
                raise psycopg2.OperationalError("injected failure")

    def __getattr__(self, name: str) -> object:
        return getattr(self._cursor, name)

    def __iter__(self) -> object:
        return iter(self._cursor)  # type: ignore[call-overload]  # a psycopg2 cursor
