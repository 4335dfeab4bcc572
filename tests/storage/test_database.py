"""The pool in front of PostgreSQL: what is slow, away or full keeps nobody else waiting."""

import queue
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as FakeReactor
from twisted.python.failure import Failure

from homeserver.errors import DatabaseUnavailable
from homeserver.storage import database as module
from homeserver.storage.database import CommitInDoubt, ThreadedDatabase, run_transaction
from homeserver.storage.ownership import DatabaseOwnership
from homeserver.storage.query import Txn, execute, fetch_value, list_values

PATIENCE_SECONDS = 20


class Loop:
    """The reactor's part: calls from threads are made when the test waits for an answer."""

    def __init__(self) -> None:
        self.clock = FakeReactor()
        self._calls: queue.Queue[tuple[Callable[..., Any], tuple[Any, ...]]] = queue.Queue()

    def callFromThread(self, call: Callable[..., Any], *args: Any) -> None:  # noqa: N802 - Twisted's name
        self._calls.put((call, args))

    def callLater(self, delay: float, call: Callable[..., Any]) -> Any:  # noqa: N802 - Twisted's name
        return self.clock.callLater(delay, call)

    def result(self, deferred: "Deferred[Any]") -> Any:
        """Wait for an answer; an error is returned."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        while not results:
            call, args = self._calls.get(timeout=PATIENCE_SECONDS)
            call(*args)
        return results[0].value if isinstance(results[0], Failure) else results[0]


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def pool(loop: Loop, postgres_url: str) -> Iterator[ThreadedDatabase]:
    """Three threads, of which one is for what is urgent."""
    pool = ThreadedDatabase(loop, postgres_url, threads=3, urgent=[ask_urgently])
    yield pool
    pool.close()


@pytest.fixture
def admin(postgres_url: str) -> Iterator[Connection]:
    connection = psycopg2.connect(postgres_url)
    connection.autocommit = True
    yield connection
    connection.close()


def ask(txn: Txn) -> int:
    return fetch_value(txn, int, "SELECT 1")


def ask_urgently(txn: Txn) -> int:
    return fetch_value(txn, int, "SELECT 2")


def repeat(txn: Txn, text: str) -> str:
    return fetch_value(txn, str, "SELECT %s::text", (text,))


def wait_for_lock(txn: Txn) -> int:
    execute(txn, "SELECT pg_advisory_xact_lock(77)")
    return 3


def pid(txn: Txn) -> int:
    return fetch_value(txn, int, "SELECT pg_backend_pid()")


def kill_own_connection(txn: Txn) -> int:
    own = pid(txn)
    killed.append(own)
    if len(killed) == 1:
        execute(txn, "SELECT pg_terminate_backend(%s)", (own,))
    return own


killed: list[int] = []


def test_slow_reads_starve_neither_transactions_nor_urgent_reads(
    loop: Loop, pool: ThreadedDatabase, admin: Connection
) -> None:
    with admin.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(77)")
        slow = [pool.read(wait_for_lock) for _ in range(5)]
        ordinary = pool.read(ask)

        assert loop.result(pool.read(ask_urgently)) == 2
        assert loop.result(pool.run(ask)) == 1
        assert not ordinary.called

        cursor.execute("SELECT pg_advisory_unlock(77)")
    assert [loop.result(read) for read in slow] == [3] * 5
    assert loop.result(ordinary) == 1


def test_what_waits_too_long_for_a_thread_is_given_up(
    loop: Loop, pool: ThreadedDatabase, admin: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with admin.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(77)")
        slow = [pool.read(wait_for_lock) for _ in range(2)]
        loop.result(pool.read(ask_urgently))  # by now both are in the hands of threads
        waiting = pool.read(ask)
        monkeypatch.setattr(module, "_MAX_WAIT_SECONDS", -1.0)

        loop.clock.advance(1)

        error = loop.result(waiting)
        cursor.execute("SELECT pg_advisory_unlock(77)")
    assert isinstance(error, DatabaseUnavailable)
    assert error.told == "The server is overloaded; try again soon"
    assert [loop.result(read) for read in slow] == [3, 3]


def test_a_full_queue_refuses_reads_and_still_takes_transactions(
    loop: Loop, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_QUEUE", 3)
    pool = ThreadedDatabase(loop, postgres_url, threads=0)
    waiting = [pool.read(ask) for _ in range(3)]

    refused = pool.read(ask)
    transaction = pool.run(ask)

    assert isinstance(loop.result(refused), DatabaseUnavailable)
    assert not transaction.called
    assert not any(read.called for read in waiting)


def test_a_read_that_takes_too_long_is_cut_and_its_connection_goes_on(
    loop: Loop, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_READ_TIMEOUT", "SET statement_timeout = '100ms'")
    pool = ThreadedDatabase(loop, postgres_url, threads=1)

    def sleep(txn: Txn) -> None:
        execute(txn, "SELECT pg_sleep(20)")

    before = loop.result(pool.read(pid))
    error = loop.result(pool.read(sleep))
    in_transaction = loop.result(pool.run(lambda txn: execute(txn, "SELECT pg_sleep(0.2)")))
    after = loop.result(pool.read(pid))
    pool.close()

    assert isinstance(error, DatabaseUnavailable)
    assert error.told == "The server is overloaded; try again soon"
    assert in_transaction == 1, "transactions may take longer"
    assert before == after


def test_a_connection_that_died_in_the_meantime_is_not_noticed(
    loop: Loop, postgres_url: str, admin: Connection
) -> None:
    pool = ThreadedDatabase(loop, postgres_url, threads=1)
    dead = loop.result(pool.read(pid))
    with admin.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (dead,))

    read = loop.result(pool.read(pid))
    with admin.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (read,))
    written = loop.result(pool.run(pid))
    pool.close()

    assert len({dead, read, written}) == 3


def test_a_transaction_whose_connection_dies_in_it_is_done_once_more(
    loop: Loop, postgres_url: str
) -> None:
    pool = ThreadedDatabase(loop, postgres_url, threads=1)
    loop.result(pool.read(ask))
    killed.clear()

    last = loop.result(pool.run(kill_own_connection))
    pool.close()

    assert len(set(killed)) == 2
    assert last == killed[-1]


def test_only_a_lost_answer_to_commit_leaves_a_doubt(postgres_url: str, admin: Connection) -> None:
    connection = psycopg2.connect(postgres_url)
    connection.autocommit = True

    def die_at_commit(txn: Txn) -> None:
        with admin.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (pid(txn),))

    with pytest.raises(CommitInDoubt):
        run_transaction(connection, die_at_commit)


def test_a_database_that_does_not_answer_is_unavailable(loop: Loop) -> None:
    pool = ThreadedDatabase(loop, "postgresql://127.0.0.1:1/nothing", threads=1)

    error = loop.result(pool.read(ask))
    pool.close()

    assert isinstance(error, DatabaseUnavailable)
    assert error.told == "The database does not answer; try again soon"


def test_attack_15_only_the_owners_connections_are_let_in(
    loop: Loop, postgres_url: str, admin: Connection
) -> None:
    owner = DatabaseOwnership(postgres_url)
    pool = ThreadedDatabase(loop, postgres_url, threads=1, ownership=owner)
    first = loop.result(pool.read(pid))
    with admin.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks"
            " WHERE locktype = 'advisory' AND pid != pg_backend_pid()"
        )
    usurper = DatabaseOwnership(postgres_url)
    told: list[Exception] = []
    pool._taken = told.append

    error = loop.result(pool.run(ask))
    pool.close()
    usurper.release()

    assert isinstance(first, int)
    assert isinstance(error, DatabaseUnavailable)
    assert "Another server process uses this database" in str(told[0])


def test_a_lost_lock_is_taken_again_while_nobody_else_has_it(
    loop: Loop, postgres_url: str, admin: Connection
) -> None:
    owner = DatabaseOwnership(postgres_url)
    checks: list[list[int]] = []
    owner.check_unchanged_by(lambda txn: checks.append(list_values(txn, int, "SELECT 1")))
    with admin.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks"
            " WHERE locktype = 'advisory' AND pid != pg_backend_pid()"
        )

    owner.keep()
    owner.keep()

    assert checks == [[1]], "once, when it was taken again"
    with pytest.raises(module.DatabaseTaken):
        DatabaseOwnership(postgres_url)
    owner.release()


def test_texts_are_what_they_were_whatever_encoding_the_surroundings_ask_for(
    monkeypatch: pytest.MonkeyPatch, loop: Loop, postgres_url: str
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    pool = ThreadedDatabase(loop, postgres_url, threads=3, urgent=[])

    found = loop.result(pool.run(repeat, "\U0001f600 ü"))

    pool.close()
    assert found == "\U0001f600 ü"
