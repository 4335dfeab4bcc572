"""A database taken back to yesterday: clients know more than the server, and go on all the same."""

from collections.abc import Callable
from urllib.parse import quote

import pytest

from homeserver.services.sync.token import current_token
from tests.database import InlineDatabase
from tests.homeserver import START_MS, Homeserver, User

DAY_SECONDS = 86_400

Start = Callable[[int], Homeserver]


class Backup:
    """Of a test's database: a savepoint that can be gone back to."""

    def __init__(self, database: InlineDatabase) -> None:
        self._connection = database._connection
        with self._connection.cursor() as cursor:
            # The outer transaction cannot take sequences back: a restored backup would.
            cursor.execute("SELECT last_value FROM stream_epochs")
            row = cursor.fetchone()
            assert row is not None
            self._epoch = row[0]
            cursor.execute("SAVEPOINT backup")

    def restore(self) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute("ROLLBACK TO SAVEPOINT backup")
            cursor.execute("SELECT setval('stream_epochs', %s)", (self._epoch,))


@pytest.fixture
def start(database: InlineDatabase, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start a process so many seconds after the first."""

    def start(seconds: int) -> Homeserver:
        monkeypatch.setattr("tests.homeserver.START_MS", START_MS + seconds * 1000)
        return Homeserver(database)

    return start


def moved_to(user: User, homeserver: Homeserver) -> User:
    user.homeserver = homeserver
    return user


@pytest.fixture
def alice(start: Start) -> User:
    return start(0).register("alice")


def test_attack_15_a_token_of_after_the_backup_gets_the_rooms_as_they_are(
    database: InlineDatabase, start: Start, alice: User
) -> None:
    bob = alice.homeserver.register("bob")
    room_id = alice.create_room(name="As it was", preset="public_chat")
    bob.join(room_id)
    alice.homeserver.stop()
    backup = Backup(database)
    moved_to(alice, start(60))
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.name", {"name": "Lost"})
    lost = alice.sync()["next_batch"]
    alice.homeserver.stop()
    backup.restore()
    moved_to(alice, start(DAY_SECONDS))

    told = alice.sync(lost)

    room = told["rooms"]["join"][room_id]
    events = room["state"]["events"] + room["timeline"]["events"]
    assert [e["content"] for e in events if e["type"] == "m.room.name"] == [{"name": "As it was"}]
    assert told["device_lists"]["changed"] == [bob.user_id]
    assert "rooms" not in alice.sync(told["next_batch"])


def test_attack_15_what_is_sent_after_a_restore_reaches_who_was_ahead(
    database: InlineDatabase, start: Start, alice: User
) -> None:
    room_id = alice.create_room()
    alice.homeserver.stop()
    backup = Backup(database)
    moved_to(alice, start(60))
    for number in range(20):
        alice.send(room_id, f"lost {number}")
    lost = alice.sync()["next_batch"]
    alice.homeserver.stop()
    backup.restore()
    moved_to(alice, start(DAY_SECONDS))
    sent = [alice.send(room_id, f"after {number}") for number in range(30)]
    moved_to(alice, alice.homeserver.restart())

    told = alice.sync(lost, filter='{"room":{"timeline":{"limit":100}}}')

    timeline = told["rooms"]["join"][room_id]["timeline"]["events"]
    assert [e["event_id"] for e in timeline][-30:] == sent


def test_attack_12_messages_sent_after_a_restore_are_not_taken_for_delivered(
    database: InlineDatabase, start: Start, alice: User
) -> None:
    alice.homeserver.stop()
    backup = Backup(database)
    moved_to(alice, start(60))
    for number in range(5):
        send_to_device(alice, f"lost {number}")
    lost = alice.sync(alice.sync()["next_batch"])["next_batch"]
    alice.homeserver.stop()
    backup.restore()
    moved_to(alice, start(DAY_SECONDS))
    send_to_device(alice, "after")

    told = alice.sync(lost)

    assert [e["content"]["name"] for e in told["to_device"]["events"]] == ["after"]


def test_every_token_of_this_history_goes_on_after_restarts(
    database: InlineDatabase, start: Start, alice: User
) -> None:
    room_id = alice.create_room()
    tokens = []
    for day in range(3):
        alice.homeserver.stop()
        moved_to(alice, start(day * DAY_SECONDS + 1))
        tokens.append(alice.sync()["next_batch"])  # where the process began: no event is there
        alice.send(room_id, f"day {day}")
        tokens.append(alice.sync()["next_batch"])
    streams = alice.homeserver.server.streams

    known = [streams.has_history_of(int(token[1:].split("_")[0])) for token in tokens]

    assert known == [True] * len(tokens)
    assert not streams.has_history_of(current_token(streams).events + 1)
    assert "rooms" not in alice.sync(tokens[-1])
    first = alice.sync(tokens[0])["rooms"]["join"][room_id]["timeline"]["events"]
    assert [e["content"]["body"] for e in first] == ["day 0", "day 1", "day 2"]


def test_a_clock_that_was_set_back_gives_no_position_twice(
    database: InlineDatabase, start: Start, alice: User
) -> None:
    room_id = alice.create_room()
    alice.send(room_id, "before")
    before = current_token(alice.homeserver.server.streams)
    alice.homeserver.stop()

    moved_to(alice, start(-3600))
    after = current_token(alice.homeserver.server.streams)
    since = alice.sync(str(before))["next_batch"]
    sent = alice.send(room_id, "after")

    assert after.events == before.events
    assert after.to_device > before.to_device
    (event,) = alice.sync(since)["rooms"]["join"][room_id]["timeline"]["events"]
    assert event["event_id"] == sent


def send_to_device(user: User, name: str) -> None:
    reply = user.put(
        f"/sendToDevice/m.test/{quote(name)}",
        {"messages": {user.user_id: {user.device_id: {"name": name}}}},
    )
    assert reply.status == 200
