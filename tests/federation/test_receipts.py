"""Read receipts across servers. spec: server-server-api/#receipts, v1.19."""

from typing import Any
from urllib.parse import quote

from tests.federation.meeting import ephemeral, meet, say_all
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User


def read(user: User, room_id: str, event_id: str, kind: str = "m.read", **body: str) -> None:
    path = f"/rooms/{quote(room_id)}/receipt/{kind}/{quote(event_id)}"
    assert user.post(path, body).status == 200
    user.homeserver.settle()


def receipts(user: User, room_id: str) -> Any:
    return ephemeral(user, room_id, "m.receipt") or {}


def test_a_receipt_is_seen_on_the_other_server(a: Homeserver, alice: User, bob: User) -> None:
    room_id = meet(alice, bob)
    event_id = alice.send(room_id, "read me")
    a.settle()

    read(bob, room_id, event_id)

    found = receipts(alice, room_id)[event_id]["m.read"][bob.user_id]
    assert set(found) == {"ts"}
    assert receipts(bob, room_id)[event_id]["m.read"][bob.user_id] == found


def test_a_threaded_receipt_keeps_its_thread(a: Homeserver, alice: User, bob: User) -> None:
    room_id = meet(alice, bob)
    root = alice.send(room_id, "root")
    relation = {"rel_type": "m.thread", "event_id": root}
    content = {"msgtype": "m.text", "body": "in it", "m.relates_to": relation}
    event_id = alice.send_event(room_id, "m.room.message", content)
    a.settle()

    read(bob, room_id, event_id, thread_id=root)

    assert receipts(alice, room_id)[event_id]["m.read"][bob.user_id]["thread_id"] == root


def test_a_private_receipt_stays_on_its_server(
    network: MemoryNetwork, a: Homeserver, alice: User, bob: User
) -> None:
    room_id = meet(alice, bob)
    event_id = alice.send(room_id, "read me in secret")
    a.settle()
    network.requests.clear()

    read(bob, room_id, event_id, "m.read.private")

    assert network.requests == []
    assert receipts(alice, room_id) == {}


def test_a_receipt_that_comes_before_its_event_is_not_lost(
    network: MemoryNetwork, a: Homeserver, c: Homeserver, alice: User, bob: User, carol: User
) -> None:
    room_id = meet(alice, bob, carol)
    network.cut.add(frozenset({a.name, c.name}))
    event_id = alice.send(room_id, "late for carol")
    a.settle()
    read(bob, room_id, event_id)
    before = receipts(carol, room_id)

    network.heal()
    network.advance(60)

    assert event_id not in before
    assert bob.user_id in receipts(carol, room_id)[event_id]["m.read"]


def test_a_receipt_does_not_move_back(a: Homeserver, alice: User, bob: User) -> None:
    room_id = meet(alice, bob)
    events = [alice.send(room_id, text) for text in ("first", "second")]
    a.settle()
    read(bob, room_id, events[1])

    old = {"event_ids": [events[0]], "data": {"ts": 1}}
    content = {room_id: {"m.read": {bob.user_id: old}}}
    say_all(a, "b.test", [{"edu_type": "m.receipt", "content": content}])

    assert list(receipts(alice, room_id)) == [events[1]]
