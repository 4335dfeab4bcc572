"""Messages from device to device.

spec: client-server-api/#send-to-device-messaging, v1.19.
"""

from typing import Any

import pytest

from tests.homeserver import Homeserver, Reply, User


@pytest.fixture
def alice(homeserver: Homeserver) -> User:
    return homeserver.register("alice")


@pytest.fixture
def bob(homeserver: Homeserver) -> User:
    return homeserver.register("bob")


def send(
    sender: User,
    target: User | str,
    body: object,
    txn_id: str,
    *,
    device_id: str | None = None,
    event_type: str = "m.test",
) -> Reply:
    user_id = target if isinstance(target, str) else target.user_id
    if isinstance(target, User):
        device_id = device_id or target.device_id
    return sender.put(
        f"/sendToDevice/{event_type}/{txn_id}",
        {"messages": {user_id: {device_id: {"body": body}}}},
    )


def bodies(sync: Any) -> list[Any]:
    return [event["content"]["body"] for event in sync.get("to_device", {}).get("events", [])]


def test_message_arrives_with_sender_and_type(alice: User, bob: User) -> None:
    assert send(alice, bob, "hello", "t1", event_type="m.room.encrypted").json == {}

    events = bob.sync()["to_device"]["events"]

    assert events == [
        {"type": "m.room.encrypted", "sender": alice.user_id, "content": {"body": "hello"}}
    ]


def test_attack_12_messages_arrive_in_order_and_only_once(alice: User, bob: User) -> None:
    start = bob.sync()["next_batch"]
    for n in range(3):
        send(alice, bob, n, f"t{n}")

    first = bob.sync(start)
    repeated = bob.sync(start)
    second = bob.sync(first["next_batch"])
    old_token = bob.sync(start)

    assert bodies(first) == bodies(repeated) == [0, 1, 2]
    assert bodies(second) == []
    assert bodies(old_token) == []


def test_message_waits_for_a_client_that_begins_anew(alice: User, bob: User) -> None:
    send(alice, bob, "hello", "t1")

    assert bodies(bob.sync()) == bodies(bob.sync()) == ["hello"]


def test_waiting_sync_is_woken(alice: User, bob: User) -> None:
    since = bob.sync()["next_batch"]
    waiting = bob.start_request("GET", "/sync", query={"since": since, "timeout": 30_000})
    assert not waiting.answered

    send(alice, bob, "hello", "t1")

    assert bodies(waiting.reply().json) == ["hello"]


def test_star_reaches_every_device_of_the_user_and_nobody_else(alice: User, bob: User) -> None:
    other = bob.login_again()

    send(alice, bob.user_id, "all", "t1", device_id="*")

    assert bodies(bob.sync()) == bodies(other.sync()) == ["all"]
    assert bodies(alice.sync()) == []


def test_message_to_one_device_goes_before_one_to_all(alice: User, bob: User) -> None:
    other = bob.login_again()
    messages = {bob.user_id: {"*": {"body": "all"}, other.device_id: {"body": "one"}}}

    alice.put("/sendToDevice/m.test/t1", {"messages": messages})

    assert (bodies(bob.sync()), bodies(other.sync())) == (["all"], ["one"])


def test_unknown_users_and_devices_are_no_error(alice: User, bob: User) -> None:
    assert send(alice, "@nobody:hs.test", "x", "t1", device_id="*").status == 200
    assert send(alice, bob, "x", "t2", device_id="NONE").status == 200
    assert send(alice, bob, "x", "t3", device_id="\0").status == 200
    assert bodies(bob.sync()) == []


def test_attack_12_repeated_transaction_sends_nothing_more(alice: User, bob: User) -> None:
    start = bob.sync()["next_batch"]
    send(alice, bob, "once", "t1")
    assert send(alice, bob, "once", "t1").status == 200

    first = bob.sync(start)
    assert send(alice, bob, "once", "t1").status == 200

    assert bodies(first) == ["once"]
    assert bodies(bob.sync(first["next_batch"])) == []


def test_transaction_id_counts_for_its_device_and_event_type(alice: User, bob: User) -> None:
    other = alice.login_again()

    send(alice, bob, 1, "t1")
    send(other, bob, 2, "t1")
    send(alice, bob, 3, "t1", event_type="m.other")

    assert bodies(bob.sync()) == [1, 2, 3]


def test_attack_12_exactly_once_across_a_restart(
    homeserver: Homeserver, alice: User, bob: User
) -> None:
    start = bob.sync()["next_batch"]
    send(alice, bob, "before", "t1")
    seen = bob.sync(start)

    homeserver = homeserver.restart()
    alice, bob = alice.at(homeserver), bob.at(homeserver)
    send(alice, bob, "before", "t1")
    send(alice, bob, "after", "t2")

    unacknowledged = bob.sync(start)
    acknowledged = bob.sync(seen["next_batch"])
    assert bodies(unacknowledged) == ["before", "after"]
    assert bodies(acknowledged) == ["after"]
    assert bodies(bob.sync(acknowledged["next_batch"])) == []


def test_attack_12_positions_never_come_a_second_time_after_a_restart(
    homeserver: Homeserver, alice: User, bob: User
) -> None:
    for n in range(3):
        send(alice, bob, n, f"t{n}")
    token = bob.sync(bob.sync()["next_batch"])["next_batch"]  # nothing is stored any more

    homeserver = homeserver.restart()
    alice, bob = alice.at(homeserver), bob.at(homeserver)
    send(alice, bob, "after", "t9")

    assert bodies(bob.sync(token)) == ["after"]


def test_large_queue_comes_in_parts_without_a_gap(alice: User, bob: User) -> None:
    start = bob.sync()["next_batch"]
    for n in range(250):
        send(alice, bob, n, f"t{n}")

    parts: list[list[Any]] = []
    since = start
    for _ in range(4):
        part = bob.sync(since)
        parts.append(bodies(part))
        since = part["next_batch"]

    assert [len(part) for part in parts] == [100, 100, 50, 0]
    assert [body for part in parts for body in part] == list(range(250))


def test_other_device_does_not_delete_what_waits_for_this_one(alice: User, bob: User) -> None:
    other = bob.login_again()
    send(alice, bob.user_id, "all", "t1", device_id="*")

    token = other.sync()["next_batch"]
    other.sync(token)

    assert bodies(bob.sync()) == ["all"]


def test_messages_go_with_their_device(alice: User, bob: User) -> None:
    other = bob.login_again()
    send(alice, other, "old", "t1")
    send(other, alice, "from the old device", "t1")
    other.post("/logout", {})
    reborn = bob.login_again(device_id=other.device_id)

    assert bodies(reborn.sync()) == []
    send(reborn, alice, "from the new device", "t1")
    assert bodies(alice.sync()) == ["from the old device", "from the new device"]


def test_message_of_the_largest_size_passes_and_one_more_byte_does_not(
    alice: User, bob: User
) -> None:
    frame = len('{"type":"m.test","sender":"@alice:hs.test","content":{"body":""}}')

    fits = send(alice, bob, "x" * (65_536 - frame), "t1")
    too_large = send(alice, bob, "x" * (65_537 - frame), "t2")

    assert fits.status == 200
    assert (too_large.status, too_large.errcode) == (413, "M_TOO_LARGE")
    assert len(bodies(bob.sync())) == 1


def test_attack_13_too_many_messages_at_once_are_refused(alice: User, bob: User) -> None:
    messages: dict[str, object] = {bob.user_id: {f"D{n}": {} for n in range(5_001)}}

    reply = alice.put("/sendToDevice/m.test/t1", {"messages": messages})

    assert (reply.status, reply.errcode) == (413, "M_TOO_LARGE")


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        {"bob": {}},
        {"@bob:hs.test": []},
        {"@bob:hs.test": {"D": "text"}},
        {"@bob:hs.test": {"D": None}},
        {"@bob:hs.test": {"D": [{}]}},
    ],
)
def test_attack_12_malformed_messages_are_refused(alice: User, messages: object) -> None:
    reply = alice.put("/sendToDevice/m.test/t1", {"messages": messages})

    assert (reply.status, reply.errcode) == (400, "M_BAD_JSON")


def test_messages_must_be_there(alice: User) -> None:
    reply = alice.put("/sendToDevice/m.test/t1", {})

    assert (reply.status, reply.errcode) == (400, "M_MISSING_PARAM")


def test_failed_send_can_be_repeated(homeserver: Homeserver, alice: User, bob: User) -> None:
    start = bob.sync()["next_batch"]
    alice.sync()
    homeserver.database.fail_at = 3
    assert send(alice, bob, "hello", "t1").status == 503

    assert send(alice, bob, "hello", "t1").status == 200

    assert bodies(bob.sync(start)) == ["hello"]


def test_usual_sync_reads_no_messages_from_the_database(
    homeserver: Homeserver, alice: User, bob: User
) -> None:
    send(alice, bob, "hello", "t1")
    token = bob.sync(bob.sync()["next_batch"])["next_batch"]
    homeserver.database.statements.clear()

    bob.sync(token)

    assert not [sql for sql in homeserver.database.statements if "to_device" in sql]


def test_old_transactions_are_forgotten_after_a_day(
    homeserver: Homeserver, alice: User, bob: User
) -> None:
    send(alice, bob, "yesterday", "t1")
    for _ in range(26):
        homeserver.advance(3600)

    send(alice, bob, "today", "t1")

    assert bodies(bob.sync()) == ["yesterday", "today"]
