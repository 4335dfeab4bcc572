"""What is added to an event for its reader: how he stood, and which of his transactions it was."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.api.relating import edited
from tests.api.sliding import slide, subscription
from tests.homeserver import Homeserver, User


def messages(user: User, room_id: str) -> dict[str, Any]:
    reply = user.get(f"/rooms/{quote(room_id)}/messages", dir="b", limit=100)
    assert reply.status == 200, reply.json
    return {event["event_id"]: event.get("unsigned", {}) for event in reply.json["chunk"]}


def everywhere(user: User, room_id: str, event_id: str) -> list[Any]:
    """`unsigned` of an event of the room's newest as each endpoint tells it."""
    room = f"/rooms/{quote(room_id)}"
    sliding = slide(user, subscription(room_id, timeline_limit=20))["rooms"][room_id]["timeline"]
    synced = user.sync()["rooms"]["join"][room_id]["timeline"]["events"]
    found = [
        user.get(f"{room}/event/{quote(event_id)}").json,
        user.get(f"{room}/context/{quote(event_id)}").json["event"],
        *(event for event in (*sliding, *synced) if event["event_id"] == event_id),
    ]
    assert len(found) == 4
    return [*(event.get("unsigned", {}) for event in found), messages(user, room_id)[event_id]]


@pytest.mark.parametrize("restarted", [False, True])
def test_the_device_that_sent_an_event_is_told_its_transaction_id(
    both_versions: Homeserver, alice: User, bob: User, room_id: str, restarted: bool
) -> None:
    other_device = alice.login_again()
    event_id = alice.send(room_id, "hello", txn_id="mine")
    if restarted:
        homeserver = both_versions.restart()
        alice.homeserver = bob.homeserver = other_device.homeserver = homeserver

    assert [u.get("transaction_id") for u in everywhere(alice, room_id, event_id)] == ["mine"] * 5
    for user in (bob, other_device):
        assert [u.get("transaction_id") for u in everywhere(user, room_id, event_id)] == [None] * 5


def test_the_transaction_id_of_an_event_that_has_left_memory_is_told(alice: User) -> None:
    room_id = alice.create_room()
    event_id = alice.send(room_id, "hello", txn_id="mine")
    path = f"/rooms/{quote(room_id)}/redact/{quote(event_id)}/mine"
    redaction_id = alice.put(path, {}).json["event_id"]
    for number in range(110):
        alice.send(room_id, str(number))

    for found in (event_id, redaction_id):
        event = alice.get(f"/rooms/{quote(room_id)}/event/{quote(found)}").json
        assert event["unsigned"]["transaction_id"] == "mine"


def test_an_edit_that_is_bundled_has_its_transaction_id_and_membership(alice: User) -> None:
    room_id = alice.create_room()
    event_id = alice.send(room_id, "hello")
    edited(alice, room_id, event_id, "hello!", txn_id="edit")

    bundle = messages(alice, room_id)[event_id]["m.relations"]["m.replace"]

    assert bundle["unsigned"] == {"membership": "join", "transaction_id": "edit"}


def test_each_reader_is_told_his_own_membership(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    before = alice.send(room_id, "before")
    alice.post(f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})
    invited = alice.send(room_id, "invited")
    bob.join(room_id)
    joined = alice.send(room_id, "joined")

    found = messages(bob, room_id)

    told = [found[event_id]["membership"] for event_id in (before, invited, joined)]
    assert told == ["leave", "invite", "join"]
    mine = messages(alice, room_id)
    assert {mine[event_id]["membership"] for event_id in (before, invited, joined)} == {"join"}


def test_attack_8_a_redacted_redaction_is_not_quoted_with_its_reason(
    both_versions: Homeserver, alice: User
) -> None:
    room_id = alice.create_room()
    room = f"/rooms/{quote(room_id)}"
    said = alice.send(room_id, "regretted")
    redaction = alice.put(f"{room}/redact/{quote(said)}/1", {"reason": "his address is X"}).json
    alice.put(f"{room}/redact/{quote(redaction['event_id'])}/2", {})

    for _ in range(2):
        event = alice.get(f"{room}/event/{quote(said)}").json
        assert event["content"] == {}
        assert event["unsigned"]["redacted_because"]["event_id"] == redaction["event_id"]
        assert "his address" not in str(alice.sync())
        assert "his address" not in str(event)
        alice.homeserver = both_versions.restart()
        both_versions = alice.homeserver
