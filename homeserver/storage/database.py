"""The door to PostgreSQL: transactions on a small pool of threads.

`run(f, …)` gives `f` a transaction and commits it; `read(f, …)` is for functions that only read,
and saves the two round trips of BEGIN and COMMIT. The function's name is its metric label.
`run` repeats a function that lost a serialization race (at most 5 times), and both repeat one whose
connection turned out to be dead, so such functions have no side effects outside the database.

What the database cannot do now is DatabaseUnavailable: it is away, its disk is full, or the
operation waited or ran too long. Invariant: only a lost answer to COMMIT leaves a doubt.
"""

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import psycopg2
from psycopg2 import errorcodes
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class
from twisted.internet.defer import Deferred

from homeserver.errors import ConstraintViolated, DatabaseUnavailable
from homeserver.metrics import TRANSACTION_RETRIES, TRANSACTION_SECONDS
from homeserver.storage.job_queue import JobQueue
from homeserver.storage.query import Txn

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

_MAX_TRIES = 5
_LIMIT_EXCEEDED = "54"
"""Class of the errors that blame the values, not the connection: too large for an index, say."""
_ENDED = "57P"
"""Class of what PostgreSQL says when it ends connections: it was told to, or has crashed."""
_RETRIED = (errorcodes.SERIALIZATION_FAILURE, errorcodes.DEADLOCK_DETECTED)
_CONNECT_TIMEOUT_SECONDS = 5
_TCP: dict[str, Any] = {
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""A database host that is gone without a word is noticed within half a minute."""
_READ_TIMEOUT = "SET statement_timeout = '20s'"
_BEGIN = b"BEGIN; SET LOCAL statement_timeout = '5min'"
_MAX_QUEUE = 10_000
_MAX_WAIT_SECONDS = 10.0
_SWEEP_SECONDS = 1.0
_QUIET_SECONDS = 10.0
"""Trouble of one kind is logged this often, not for each request."""
_MAX_TOLD_KINDS = 100

_OVERLOADED = "The server is overloaded; try again soon"
_DISK_FULL = "The server has no disk space left; try again later"


class Database(Protocol):
    """`ThreadedDatabase` in the server; tests have one that runs inline."""

    def run(
        self, function: Callable[Concatenate[Txn, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]: ...

    def read(
        self, function: Callable[Concatenate[Txn, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]: ...

    def close(self) -> None: ...


class Ownership(Protocol):
    """That no other process uses the database; see `storage/ownership.py`."""

    def admit(self, connection: Connection) -> None:
        """Called in a pool thread with each new connection. Raises DatabaseTaken."""


class Loop(Protocol):
    """The part of the reactor that the pool needs."""

    def callFromThread(self, call: Callable[..., Any], *args: Any) -> None: ...  # noqa: N802 - Twisted's name

    def callLater(self, delay: float, call: Callable[..., Any]) -> Any: ...  # noqa: N802 - Twisted's name


class DatabaseTaken(Exception):
    """The message says what to do."""


class CommitInDoubt(Exception):
    """The connection was lost while COMMIT was under way."""


def run_transaction(connection: Connection, function: Callable[[Txn], T]) -> T:
    """Run `function` in one transaction, repeated when it lost a race. Raises CommitInDoubt."""
    for attempt in range(1, _MAX_TRIES + 1):
        try:
            with connection.cursor() as cursor:
                txn = Txn(cursor, keeps_back=True)
                try:
                    txn.run_later(_BEGIN)
                    result = function(txn)
                    txn.send_rest()
                except BaseException as error:
                    if not (isinstance(error, psycopg2.Error) and _is_lost(connection, error)):
                        cursor.execute("ROLLBACK")
                    raise
                _commit(connection, cursor)
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


def _commit(connection: Connection, cursor: Any) -> None:
    try:
        cursor.execute("COMMIT")
    except psycopg2.Error as error:
        if _is_lost(connection, error):
            connection.close()
            raise CommitInDoubt from error
        cursor.execute("ROLLBACK")
        raise


def _is_lost(connection: Connection, error: psycopg2.Error) -> bool:
    """Tell whether the error ended the connection; psycopg2 does not always notice."""
    code = error.pgcode
    if connection.closed or (code is not None and code.startswith(_ENDED)):
        return True
    kind = type(error)
    return code is None and kind in (
        psycopg2.OperationalError,
        psycopg2.InterfaceError,
        psycopg2.DatabaseError,
    )


def _label(function: Callable[..., object]) -> str:
    return getattr(function, "__name__", "unknown")


@dataclass(slots=True)
class _Job:
    label: str
    work: Callable[[Connection], Any]
    is_urgent: bool
    queued_at: float
    answer: Deferred[Any] = field(default_factory=lambda: Deferred(lambda _deferred: None))
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    """Pool threads do not inherit the request's."""

    def succeed(self, outcome: object) -> None:
        if not self.answer.called:
            self.answer.callback(outcome)

    def fail(self, error: BaseException) -> None:
        if not self.answer.called:
            self.answer.errback(error)


class ThreadedDatabase:
    def __init__(
        self,
        reactor: Loop,
        url: str,
        *,
        threads: int,
        urgent: Collection[Callable[..., object]] = (),
        ownership: Ownership | None = None,
        taken: Callable[[DatabaseTaken], object] = logger.error,
    ) -> None:
        """Transactions and the `urgent` reads go before other reads, in a third of the threads.

        taken  is told in the reactor's thread that the database has become another process's
        """
        self._reactor = reactor
        self._url = url
        self._urgent = frozenset(urgent)
        self._ownership = ownership
        self._taken = taken
        self._jobs: JobQueue[_Job] = JobQueue(_MAX_QUEUE)
        self._is_sweeping = False
        self._told_at: dict[str, float] = {}
        self._threads = [
            threading.Thread(
                target=self._serve, args=(n < threads // 3,), name=f"database-{n}", daemon=True
            )
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

        return self._submit(function, transaction, is_urgent=True)

    def read(
        self, function: Callable[Concatenate[Txn, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        def reading(connection: Connection) -> T:
            with connection.cursor() as cursor:
                return function(Txn(cursor), *args, **kwargs)

        return self._submit(function, reading, is_urgent=function in self._urgent)

    def _submit(
        self, function: Callable[..., T], work: Callable[[Connection], T], *, is_urgent: bool
    ) -> Deferred[T]:
        job = _Job(_label(function), work, is_urgent, time.monotonic())
        if not self._jobs.put(job):
            job.fail(DatabaseUnavailable("too many operations are waiting", told=_OVERLOADED))
        elif not self._is_sweeping:
            self._is_sweeping = True
            self._reactor.callLater(_SWEEP_SECONDS, self._sweep)
        return job.answer

    def _sweep(self) -> None:
        """Give up what has waited too long for a thread: nobody must wait for ever."""
        for job in self._jobs.drop_older(time.monotonic() - _MAX_WAIT_SECONDS):
            self._log_trouble("Database threads are all busy", f"function={job.label}")
            job.fail(DatabaseUnavailable("waited too long for a thread", told=_OVERLOADED))
        self._is_sweeping = len(self._jobs) > 0
        if self._is_sweeping:
            self._reactor.callLater(_SWEEP_SECONDS, self._sweep)

    def _serve(self, only_urgent: bool) -> None:  # noqa: FBT001 - an argument of a thread
        connection: Connection | None = None
        while (job := self._jobs.take(only_urgent=only_urgent)) is not None:
            started = time.perf_counter()
            connection = self._perform(job, connection)
            TRANSACTION_SECONDS.labels(job.label).observe(time.perf_counter() - started)
        _drop(connection)

    def _perform(self, job: _Job, connection: Connection | None) -> Connection | None:
        """Do the job, and return the connection if it is still good.

        A connection may have died since it was last used. Unless COMMIT was under way, nothing has
        happened then, and the job is done once more on a new one.
        """
        is_new = connection is None
        try:
            if connection is None:
                connection = self._connect()
            outcome = job.context.run(job.work, connection)
        except DatabaseTaken as error:
            self._reactor.callFromThread(self._taken, error)
            self._fail(job, DatabaseUnavailable("the database is another process's now"))
            return None
        except CommitInDoubt as error:
            self._fail(job, _unavailable("the connection was lost during a commit", error))
            return None
        except psycopg2.Error as error:
            is_lost = connection is None or _is_lost(connection, error)
            if is_lost and not is_new:
                _drop(connection)
                return self._perform(job, None)
            trouble, is_over = _trouble(error, is_lost=is_lost)
            self._fail(job, trouble)
            if is_over:
                _drop(connection)
                return None
        except BaseException as error:  # noqa: BLE001 - carried to whoever awaits it
            self._reactor.callFromThread(job.fail, error)
        else:
            self._reactor.callFromThread(job.succeed, outcome)
        return connection

    def _fail(self, job: _Job, trouble: Exception) -> None:
        if isinstance(trouble, DatabaseUnavailable):
            self._log_trouble(str(trouble), f"function={job.label}")
        self._reactor.callFromThread(job.fail, trouble)

    def _connect(self) -> Connection:
        connection: Connection = psycopg2.connect(
            self._url,
            connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            client_encoding="UTF8",  # PGCLIENTENCODING or the role may ask for another
            **_TCP,
        )
        connection.autocommit = True
        try:
            if self._ownership is not None:
                self._ownership.admit(connection)
            with connection.cursor() as cursor:
                cursor.execute(_READ_TIMEOUT)
        except BaseException:
            _drop(connection)
            raise
        return connection

    def _log_trouble(self, message: str, detail: str) -> None:
        now = time.monotonic()
        if now - self._told_at.get(message, -_QUIET_SECONDS) >= _QUIET_SECONDS:
            if len(self._told_at) > _MAX_TOLD_KINDS:
                self._told_at.clear()
            self._told_at[message] = now
            logger.error("%s %s", message, detail)

    def close(self) -> None:
        """Finish what is queued, then end the threads."""
        self._jobs.close()
        for thread in self._threads:
            thread.join(timeout=10)


def _trouble(error: psycopg2.Error, *, is_lost: bool) -> tuple[Exception, bool]:
    """Return what the caller is told, and whether the connection is to be given up."""
    code = error.pgcode or ""
    text = " ".join(str(error).split())
    if code == errorcodes.DISK_FULL:
        advice = "the disk of PostgreSQL is full, nothing can be written: free space or enlarge it"
        return _unavailable(f"{advice} ({text})", error, told=_DISK_FULL), False
    if code == errorcodes.QUERY_CANCELED:
        return _unavailable("a statement took too long", error, told=_OVERLOADED), False
    if code == errorcodes.READ_ONLY_SQL_TRANSACTION:
        return _unavailable(f"the database is a standby: {text}", error), True
    if is_lost or (
        isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError))
        and not code.startswith(_LIMIT_EXCEEDED)
    ):
        return _unavailable(text or "the connection was lost", error), True
    return error, False


def _unavailable(text: str, cause: Exception, told: str | None = None) -> DatabaseUnavailable:
    unavailable = DatabaseUnavailable(text, told=told)
    unavailable.__cause__ = cause
    return unavailable


def _drop(connection: Connection | None) -> None:
    if connection is not None and not connection.closed:
        connection.close()
