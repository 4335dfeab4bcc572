"""Numbers for texts, made by several transactions at once."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class

from homeserver.core.identifiers import UserID
from homeserver.storage.dictionaries import intern_slots, intern_types, intern_users
from homeserver.storage.query import Txn, fetch_value

_MANY = 20_000


@pytest.fixture
def open_connection(postgres_url: str) -> Iterator[Callable[[], Connection]]:
    """Opens connections that are rolled back."""
    opened: list[Connection] = []

    def make() -> Connection:
        opened.append(psycopg2.connect(postgres_url))
        return opened[-1]

    yield make
    for connection in opened:
        connection.close()


def make_users(txn: Txn, names: list[str]) -> None:
    intern_users(txn, [UserID(name) for name in names])


def make_slots(txn: Txn, names: list[str]) -> None:
    intern_slots(txn, [("t", name) for name in names], {"t": 1})


def make_types(txn: Txn, names: list[str]) -> None:
    intern_types(txn, names)


@pytest.mark.parametrize("make", [make_users, make_slots, make_types])
def test_two_who_number_the_same_texts_in_other_orders_do_not_lock_each_other_out(
    open_connection: Callable[[], Connection], make: Callable[[Txn, list[str]], None]
) -> None:
    """PostgreSQL would end one of them, after a second."""
    names = [f"at once {number}" for number in range(_MANY)]

    def work(some: list[str]) -> None:
        connection = open_connection()
        with connection.cursor() as cursor:
            make(Txn(cursor), some)
        connection.rollback()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, [names, names[::-1]]))


def test_a_type_that_is_known_uses_up_no_number(txn: Txn) -> None:
    """There are two thousand million, and one is asked for with each new state key."""
    (first,) = intern_types(txn, ["known"]).values()

    for _ in range(10):
        intern_types(txn, ["known"])

    assert intern_types(txn, ["another"])["another"] == first + 1
    assert fetch_value(txn, int, "SELECT count(*) FROM event_types WHERE type = 'known'") == 1
