"""Typing, receipts and presence across servers."""

from typing import Any
from urllib.parse import quote

from synapse_compat_tests.client import User
from synapse_compat_tests.conftest import Pair


def see_ephemeral(user: User, room_id: str, event_type: str, found: Any) -> None:
    def look(answer: Any) -> bool:
        room = answer.get("rooms", {}).get("join", {}).get(room_id, {})
        events = room.get("ephemeral", {}).get("events", [])
        return any(e["type"] == event_type and found(e["content"]) for e in events)

    user.sync_until(look)


def type_in(user: User, room_id: str, *, typing: bool) -> None:
    body = {"typing": True, "timeout": 30_000} if typing else {"typing": False}
    user.put(f"/rooms/{quote(room_id)}/typing/{quote(user.user_id)}", body)


def test_typing_is_seen_on_the_other_server_and_ends(pair: Pair) -> None:
    alice, bob, room_id = pair.users_in_one_room()
    since = str(bob.sync()["next_batch"])

    type_in(alice, room_id, typing=True)
    see_ephemeral(bob, room_id, "m.typing", lambda c: c["user_ids"] == [alice.user_id])
    type_in(alice, room_id, typing=False)

    def has_ended(answer: Any) -> bool:
        room = answer.get("rooms", {}).get("join", {}).get(room_id, {})
        events = room.get("ephemeral", {}).get("events", [])
        return any(e["type"] == "m.typing" and not e["content"]["user_ids"] for e in events)

    bob.sync_until(has_ended, since)


def test_a_receipt_is_seen_on_the_other_server(pair: Pair) -> None:
    alice, bob, room_id = pair.users_in_one_room()
    event_id = alice.send(room_id, "read me")
    bob.see_text(room_id, "read me")

    bob.post(f"/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}", {})

    see_ephemeral(
        alice,
        room_id,
        "m.receipt",
        lambda c: bob.user_id in c.get(event_id, {}).get("m.read", {}),
    )


def test_a_threaded_receipt_keeps_its_thread(pair: Pair) -> None:
    alice, bob, room_id = pair.users_in_one_room()
    root = alice.send(room_id, "root")
    relation = {"rel_type": "m.thread", "event_id": root}
    content = {"msgtype": "m.text", "body": "in it", "m.relates_to": relation}
    event_id = alice.send_event(room_id, "m.room.message", content)
    bob.see_text(room_id, "in it")

    path = f"/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}"
    bob.post(path, {"thread_id": root})

    def has_thread(receipts: Any) -> bool:
        receipt = receipts.get(event_id, {}).get("m.read", {}).get(bob.user_id, {})
        return bool(receipt.get("thread_id") == root)

    see_ephemeral(alice, room_id, "m.receipt", has_thread)


def test_presence_is_seen_on_the_other_server(pair: Pair) -> None:
    alice, bob, _ = pair.users_in_one_room()

    alice.put(
        f"/presence/{quote(alice.user_id)}/status", {"presence": "online", "status_msg": "here"}
    )

    def is_told(answer: Any) -> bool:
        return any(
            event["sender"] == alice.user_id and event["content"].get("status_msg") == "here"
            for event in answer.get("presence", {}).get("events", [])
        )

    bob.sync_until(is_told)
