"""A fault at each SQL statement of each write: all or nothing, and everything works afterwards."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from tests.database import InlineDatabase
from tests.faults import each_fault
from tests.homeserver import Homeserver, Reply, User

Action = Callable[[User, User, str, str], Reply]
"""(alice, bob, a public room of alice's, an event of hers in it)"""

ACTIONS: dict[str, Action] = {
    "create room": lambda alice, bob, _room, _event: alice.post(
        "/createRoom",
        {"name": "New", "room_alias_name": "new", "visibility": "public", "invite": [bob.user_id]},
    ),
    "send": lambda alice, _bob, room, _event: alice.put(
        f"/rooms/{room}/send/m.room.message/t1", {"body": "hello"}
    ),
    "join": lambda _alice, bob, room, _event: bob.post(f"/rooms/{room}/join", {}),
    "set state": lambda alice, _bob, room, _event: alice.put(
        f"/rooms/{room}/state/org.example.new/key", {"x": 1}
    ),
    "redact": lambda alice, _bob, room, event: alice.put(f"/rooms/{room}/redact/{event}/t2", {}),
    "invite": lambda alice, bob, room, _event: alice.post(
        f"/rooms/{room}/invite", {"user_id": bob.user_id}
    ),
    "ban": lambda alice, bob, room, _event: alice.post(
        f"/rooms/{room}/ban", {"user_id": bob.user_id, "reason": "spam"}
    ),
    "leave": lambda alice, _bob, room, _event: alice.post(f"/rooms/{room}/leave", {}),
    "receipt": lambda alice, _bob, room, event: alice.post(
        f"/rooms/{room}/receipt/m.read/{event}", {}
    ),
    "account data": lambda alice, _bob, _room, _event: alice.put(
        f"/user/{quote(alice.user_id)}/account_data/org.example.x", {"x": 1}
    ),
    "room account data": lambda alice, _bob, room, _event: alice.put(
        f"/user/{quote(alice.user_id)}/rooms/{room}/account_data/org.example.x", {"x": 1}
    ),
    "to-device": lambda alice, bob, _room, _event: alice.put(
        "/sendToDevice/org.example.x/t3",
        {"messages": {bob.user_id: {"*": {"x": 1}}, alice.user_id: {"*": {"x": 2}}}},
    ),
    "device keys": lambda alice, _bob, _room, _event: alice.post(
        "/keys/upload",
        {"one_time_keys": {"curve25519:K1": "one"}, "fallback_keys": {"curve25519:K2": "two"}},
    ),
}


ANSWERED_BY_READING = {"device keys"}
"""What may be done whole though its answer fails: to repeat it changes nothing."""


def snapshot(user: User) -> Any:
    """All that a user can see, after reading it anew from the database."""
    user.homeserver = user.homeserver.restart()
    response = user.sync(filter='{"room":{"timeline":{"limit":100}}}')
    rooms = response.get("rooms", {})
    return {
        "join": {
            room_id: [
                (event["event_id"], event["content"])
                for event in room["state"]["events"] + room["timeline"]["events"]
            ]
            for room_id, room in rooms.get("join", {}).items()
        },
        "extras": {
            room_id: (room["account_data"]["events"], without_time(room["ephemeral"]["events"]))
            for room_id, room in rooms.get("join", {}).items()
        },
        "invite": rooms.get("invite", {}),
        "account_data": response["account_data"]["events"],
        "to_device": response.get("to_device", {}),
        "keys": (
            response["device_one_time_keys_count"],
            response["device_unused_fallback_key_types"],
        ),
        "alias": user.get(f"/directory/room/{quote('#new:hs.test')}").json,
    }


def without_time(ephemeral: Any) -> Any:
    """Who has read what, but not when."""
    return [
        {event_id: {kind: sorted(readers) for kind, readers in kinds.items()}}
        for event in ephemeral
        for event_id, kinds in event["content"].items()
    ]


@pytest.mark.parametrize("name", ACTIONS)
def test_a_fault_at_any_statement_leaves_all_or_nothing(
    database: InlineDatabase, name: str
) -> None:
    homeserver = Homeserver(database)
    alice, bob = homeserver.register("alice"), homeserver.register("bob")
    room_id = alice.create_room(preset="public_chat", name="Old")
    event_id = alice.send(room_id, "first")
    before = (snapshot(alice), snapshot_of_same_server(alice, bob))
    faults = 0
    for fault in each_fault(database):
        for user in (alice, bob):
            assert user.get("/account/whoami").status == 200  # "last seen" is written now, not then

        with fault:
            reply = ACTIONS[name](alice, bob, quote(room_id), quote(event_id))

        after = (snapshot(alice), snapshot_of_same_server(alice, bob))
        assert reply.status == (503 if fault.was_reached else 200), f"statement {fault.number}"
        if not fault.was_reached:
            assert after != before
        elif name in ANSWERED_BY_READING and after != before:
            assert ACTIONS[name](alice, bob, quote(room_id), quote(event_id)).status == 200
            assert (snapshot(alice), snapshot_of_same_server(alice, bob)) == after
            break
        else:
            assert after == before, f"half done by the fault at statement {fault.number}"
            faults += 1

    assert faults >= 2
    if name != "leave":
        assert alice.send(room_id, "the room works")
    alice.homeserver.stop()


def snapshot_of_same_server(alice: User, bob: User) -> Any:
    bob.homeserver = alice.homeserver
    found = snapshot(bob)
    alice.homeserver = bob.homeserver
    return found
