"""Messages to devices across servers: once, in order, through outages and restarts.

spec: server-server-api/#send-to-device-messaging, v1.19.
"""

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from homeserver.storage import outgoing_edus
from tests.federation.meeting import say
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User


def send(
    sender: User, target: User, body: object, txn_id: str, *, device_id: str | None = None
) -> int:
    messages = {target.user_id: {device_id or target.device_id: {"body": body}}}
    reply = sender.put(f"/sendToDevice/m.test/{txn_id}", {"messages": messages})
    sender.homeserver.settle()
    return reply.status


def bodies(sync: Any) -> list[Any]:
    return [event["content"]["body"] for event in sync.get("to_device", {}).get("events", [])]


def direct(message_id: str, target: User, body: object) -> Any:
    return {
        "sender": "@alice:a.test",
        "type": "m.test",
        "message_id": message_id,
        "messages": {target.user_id: {target.device_id: {"body": body}}},
    }


def test_a_message_arrives_with_sender_and_type(alice: User, bob: User) -> None:
    assert send(alice, bob, "hello", "t1") == 200

    assert bob.sync()["to_device"]["events"] == [
        {"type": "m.test", "sender": alice.user_id, "content": {"body": "hello"}}
    ]


def test_a_message_to_all_devices_reaches_each(alice: User, bob: User) -> None:
    others = [bob.login_again(), bob.login_again()]

    send(alice, bob, "everybody", "t1", device_id="*")

    assert [bodies(device.sync()) for device in (bob, *others)] == [["everybody"]] * 3


def test_attack_12_a_repeated_transaction_is_sent_once(alice: User, bob: User) -> None:
    for _ in range(3):
        send(alice, bob, "once", "same")

    assert bodies(bob.sync()) == ["once"]


def test_attack_12_messages_of_an_hours_outage_arrive_in_order_and_once(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User
) -> None:
    send(alice, bob, 0, "t0")
    network.cut_off(b.name)
    for number in range(1, 151):
        send(alice, bob, number, f"t{number}")
        if number % 50 == 0:
            network.advance(1_200)

    network.heal()
    network.advance(3_700)

    assert bodies(bob.sync()) == list(range(100))
    synced = bob.sync(bob.sync()["next_batch"])
    assert bodies(synced) == list(range(100, 151))
    assert bodies(bob.sync(synced["next_batch"])) == []


def test_attack_12_a_restart_of_the_sender_loses_no_message(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, alice: User, bob: User
) -> None:
    network.cut_off(b.name)
    for number in range(3):
        send(alice, bob, number, f"t{number}")

    network.add(a.restart())
    network.heal()
    network.advance(60)

    assert bodies(bob.sync()) == [0, 1, 2]


def test_attack_12_a_message_whose_receipt_was_not_acknowledged_arrives_once(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, alice: User, bob: User
) -> None:
    send(alice, bob, "first", "t1")

    say(b, a.name, "m.direct_to_device", direct("m1", bob, "repeated"))
    restarted = network.add(b.restart())
    say(restarted, a.name, "m.direct_to_device", direct("m1", bob, "repeated"))
    say(restarted, a.name, "m.direct_to_device", direct("m2", bob, "another"))

    assert bodies(bob.at(restarted).sync()) == ["first", "repeated", "another"]


def test_many_large_messages_to_one_server_go_in_several_edus(
    a: Homeserver, alice: User, bob: User
) -> None:
    devices = [bob, *(bob.login_again() for _ in range(3))]
    large = "x" * 40_000
    messages = {bob.user_id: {device.device_id: {"body": large} for device in devices}}

    assert alice.put("/sendToDevice/m.test/t1", {"messages": messages}).status == 200
    a.settle()

    assert [bodies(device.sync()) for device in devices] == [[large]] * 4


def test_what_no_other_server_would_take_is_refused_at_once(alice: User, bob: User) -> None:
    assert send(alice, bob, 0.5, "t1") == 400
    assert send(alice, bob, "good", "t1") == 200

    assert bodies(bob.sync()) == ["good"]


def test_a_message_stored_while_those_before_it_are_read_is_sent_after_them(
    network: MemoryNetwork, a: Homeserver, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading: list[tuple[Deferred[None], list[Any]]] = []
    plain_read = a.database.read

    def read(function: Any, *args: Any, **kwargs: Any) -> Any:
        if function is not outgoing_edus.list_edus:
            return plain_read(function, *args, **kwargs)
        waiting: Deferred[None] = Deferred()
        found: list[Any] = []
        plain_read(function, *args, **kwargs).addCallback(found.append)
        reading.append((waiting, found))
        return waiting.addCallback(lambda _: found[0])

    monkeypatch.setattr(a.database, "read", read)
    send(alice, bob, "first", "t1")
    send(alice, bob, "second", "t2")
    monkeypatch.undo()

    ((waiting, found),) = reading
    assert len(found[0]) == 1
    waiting.callback(None)
    network.settle()

    assert bodies(bob.sync()) == ["first", "second"]
