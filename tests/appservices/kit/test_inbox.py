import sqlite3
from pathlib import Path

import pytest

from appservices.kit.errors import InboxFull
from appservices.kit.inbox import Inbox
from homeserver.core.json_types import JsonObject
from tests.appservices.conftest import OpenDatabase


def make_events(*names: str) -> list[JsonObject]:
    return [{"event_id": name, "type": "m.test"} for name in names]


def drain(box: Inbox) -> list[str]:
    names = []
    while (waiting := box.find_next()) is not None:
        names.append(str(waiting.event["event_id"]))
        box.finish(waiting.position)
    return names


def test_events_come_out_in_the_order_received(open_bot_database: OpenDatabase) -> None:
    box = Inbox(open_bot_database())
    box.accept("1", make_events("$c", "$a"))
    box.accept("2", make_events("$b"))

    assert drain(box) == ["$c", "$a", "$b"]


def test_repeated_transaction_adds_nothing_even_after_processing(
    open_bot_database: OpenDatabase,
) -> None:
    box = Inbox(open_bot_database())
    box.accept("1", make_events("$a"))
    drain(box)

    assert box.accept("1", make_events("$a")) == 0
    assert box.find_next() is None


def test_repeated_transaction_is_recognized_when_its_events_are_forgotten(
    open_bot_database: OpenDatabase,
) -> None:
    box = Inbox(open_bot_database(), kept_events=0)
    box.accept("1", make_events("$a"))
    drain(box)
    box.accept("2", make_events("$b"))

    assert box.accept("1", make_events("$a")) == 0


def test_event_in_two_transactions_enters_once(open_bot_database: OpenDatabase) -> None:
    box = Inbox(open_bot_database())
    box.accept("1", make_events("$a"))

    assert box.accept("2", make_events("$a", "$b")) == 1
    assert drain(box) == ["$a", "$b"]


def test_reused_transaction_id_with_other_events_is_a_new_transaction(
    open_bot_database: OpenDatabase,
) -> None:
    box = Inbox(open_bot_database())
    box.accept("1", make_events("$a"))

    assert box.accept("1", make_events("$b")) == 1
    assert box.accept("1", make_events("$b")) == 0
    assert drain(box) == ["$a", "$b"]


def test_accepted_and_unfinished_events_survive_a_restart(open_bot_database: OpenDatabase) -> None:
    first = open_bot_database()
    box = Inbox(first)
    box.accept("1", make_events("$a", "$b"))
    taken = box.find_next()
    assert taken is not None
    box.count_failure(taken.position)
    first.close()

    again = Inbox(open_bot_database())

    retaken = again.find_next()
    assert retaken is not None
    assert retaken.failures == 1
    assert drain(again) == ["$a", "$b"]
    assert again.accept("1", make_events("$a", "$b")) == 0


def test_full_inbox_refuses_and_stores_nothing(open_bot_database: OpenDatabase) -> None:
    box = Inbox(open_bot_database(), max_waiting=2)
    box.accept("1", make_events("$a"))

    with pytest.raises(InboxFull):
        box.accept("2", make_events("$b", "$c"))
    assert drain(box) == ["$a"]
    assert box.accept("2", make_events("$b", "$c")) == 2


@pytest.mark.parametrize("entry", [None, 7, "text", [], {}, {"event_id": 7}, {"event_id": ""}])
def test_entry_without_event_id_does_not_block_the_others(
    open_bot_database: OpenDatabase, entry: JsonObject | None
) -> None:
    box = Inbox(open_bot_database())

    assert box.accept("1", [entry, *make_events("$a")]) == 1
    assert drain(box) == ["$a"]


def test_old_transactions_and_processed_events_are_dropped(open_bot_database: OpenDatabase) -> None:
    database = open_bot_database()
    box = Inbox(database, kept_transactions=2, kept_events=3)
    for number in range(10):
        box.accept(str(number), make_events(f"${number}"))
        drain(box)

    assert count_rows(database, "transactions") == 2
    assert count_rows(database, "inbox") == 3


def test_waiting_events_are_never_dropped(open_bot_database: OpenDatabase) -> None:
    box = Inbox(open_bot_database(), kept_events=1)
    names = [f"${number}" for number in range(5)]
    for name in names:
        box.accept(name, make_events(name))

    assert drain(box) == names


def test_database_is_readable_by_its_owner_only(
    tmp_path: Path, open_bot_database: OpenDatabase
) -> None:
    database = open_bot_database()
    Inbox(database).accept("1", make_events("$a"))

    modes = {file.name: file.stat().st_mode & 0o077 for file in tmp_path.iterdir()}
    assert modes
    assert set(modes.values()) == {0}, modes


def count_rows(database: sqlite3.Connection, table: str) -> int:
    return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
