"""The door to PostgreSQL: transactions on a small pool of threads.

`run(f, …)` gives `f` a transaction and commits it; `read(f, …)` is for functions that only read,
and saves the two round trips of BEGIN and COMMIT. The function's name is its metric label.
`run` repeats a function that lost a serialization race (at most 5 times), so such functions have
no side effects outside the database.
"""

import contextvars
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import psycopg2
from psycopg2 import errorcodes
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads

from homeserver.errors import ConstraintViolated, DatabaseUnavailable
from homeserver.metrics import TRANSACTION_RETRIES, TRANSACTION_SECONDS
from homeserver.storage.query import Txn

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

_MAX_TRIES = 5
_LIMIT_EXCEEDED = "54"
"""Class of the errors that blame the values, not the connection: too large for an index, say."""
_RETRIED = (errorcodes.SERIALIZATION_FAILURE, errorcodes.DEADLOCK_DETECTED)
_CONNECT_TIMEOUT_SECONDS = 5
_MAX_QUEUE = 10_000


class Database(Protocol):
    """`ThreadedDatabase` in the server; tests have one that runs inline."""

    def run(
        self, function: Callable[Concatenate[Txn, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]: ...

    def read(
        self, function: Callable[Concatenate[Txn, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]: ...

    def close(self) -> None: ...


def run_transaction(connection: Connection, function: Callable[[Txn], T]) -> T:
    """Run `function` in one transaction, repeated when it lost a race."""
    for attempt in range(1, _MAX_TRIES + 1):
        try:
            with connection.cursor() as cursor:
                cursor.execute("BEGIN")
                try:
                    result = function(Txn(cursor))
                    cursor.execute("COMMIT")
                except BaseException:
                    if not connection.closed:
                        cursor.execute("ROLLBACK")
                    raise
                return result
        except psycopg2.IntegrityError as error:
            raise ConstraintViolated(error.diag.constraint_name or "unknown") from error
        except psycopg2.Error as error:
            if error.pgcode in _RETRIED and attempt < _MAX_TRIES:
                TRANSACTION_RETRIES.labels(_label(function)).inc()
                time.sleep(0.005 * 2**attempt)
                continue
            raise
    raise AssertionError("unreachable")


def _label(function: Callable[..., object]) -> str:
    return getattr(function, "__name__", "unknown")


class ThreadedDatabase:
    def __init__(self, reactor: IReactorFromThreads, url: str, *, threads: int) -> None:
        self._reactor = reactor
        self._url = url
        self._jobs: queue.Queue[Callable[[Connection | None], Connection | None] | None] = (
            queue.Queue(_MAX_QUEUE)
        )
        self._threads = [
            threading.Thread(target=self._serve, name=f"database-{n}", daemon=True)
            for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(
        self, function: Callable[Concatenate[Txn, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        def transaction(connection: Connection) -> T:
            def call(txn: Txn) -> T:
                return function(txn, *args, **kwargs)

            call.__name__ = _label(function)
            return run_transaction(connection, call)

        return self._submit(_label(function), transaction)

    def read(
        self, function: Callable[Concatenate[Txn, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        def reading(connection: Connection) -> T:
            with connection.cursor() as cursor:
                return function(Txn(cursor), *args, **kwargs)

        return self._submit(_label(function), reading)

    def _submit(self, label: str, job: Callable[[Connection], T]) -> Deferred[T]:
        answer: Deferred[T] = Deferred(lambda _deferred: None)
        context = contextvars.copy_context()  # pool threads do not inherit the request's

        def perform(connection: Connection | None) -> Connection | None:
            started = time.perf_counter()
            outcome: T
            try:
                if connection is None or connection.closed:
                    connection = self._connect()
                outcome = context.run(job, connection)
            except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
                if (error.pgcode or "").startswith(_LIMIT_EXCEEDED):
                    self._reactor.callFromThread(_fail, answer, error)
                    return connection
                _drop(connection)
                connection = None
                unavailable = DatabaseUnavailable(str(error).strip())
                unavailable.__cause__ = error
                self._reactor.callFromThread(_fail, answer, unavailable)
            except BaseException as error:  # noqa: BLE001 - carried to whoever awaits it
                self._reactor.callFromThread(_fail, answer, error)
            else:
                self._reactor.callFromThread(_succeed, answer, outcome)
            TRANSACTION_SECONDS.labels(label).observe(time.perf_counter() - started)
            return connection

        try:
            self._jobs.put_nowait(perform)
        except queue.Full:
            answer.errback(DatabaseUnavailable("too many database operations are waiting"))
        return answer

    def _connect(self) -> Connection:
        connection = psycopg2.connect(self._url, connect_timeout=_CONNECT_TIMEOUT_SECONDS)
        connection.autocommit = True
        return connection

    def _serve(self) -> None:
        connection: Connection | None = None
        while (job := self._jobs.get()) is not None:
            connection = job(connection)
        _drop(connection)

    def close(self) -> None:
        """Finish what is queued, then end the threads."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(timeout=10)


def _succeed(answer: "Deferred[T]", outcome: T) -> None:
    if not answer.called:
        answer.callback(outcome)


def _fail(answer: "Deferred[T]", error: BaseException) -> None:
    if not answer.called:
        answer.errback(error)


def _drop(connection: Connection | None) -> None:
    if connection is not None and not connection.closed:
        connection.close()
