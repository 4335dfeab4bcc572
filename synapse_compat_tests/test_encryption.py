"""Devices, their keys and the messages between them across servers, in plain HTTP.

Keys have the form of keys; what is in them is for clients, and no client is here.
"""

import base64
import os
import uuid
from typing import Any

from synapse_compat_tests.client import User, eventually, login
from synapse_compat_tests.conftest import Pair
from synapse_compat_tests.servers import OURS

JSON = dict[str, Any]


def random_key(size: int = 32) -> str:
    return base64.b64encode(os.urandom(size)).decode().rstrip("=")


def signature(user: User) -> JSON:
    return {user.user_id: {f"ed25519:{user.device_id}": random_key(64)}}


def device_keys(user: User) -> JSON:
    return {
        "user_id": user.user_id,
        "device_id": user.device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {
            f"curve25519:{user.device_id}": random_key(),
            f"ed25519:{user.device_id}": random_key(),
        },
        "signatures": signature(user),
    }


def upload_keys(user: User, *one_time: str) -> JSON:
    keys = device_keys(user)
    named = {
        f"signed_curve25519:{name}": {"key": random_key(), "signatures": signature(user)}
        for name in one_time
    }
    user.post("/keys/upload", {"device_keys": keys, "one_time_keys": named})
    return keys


def query(reader: User, user: User) -> Any:
    return reader.post("/keys/query", {"device_keys": {user.user_id: []}})


def devices_of(reader: User, user: User) -> JSON:
    found: JSON = query(reader, user)["device_keys"].get(user.user_id, {})
    return {
        device_id: {name: value for name, value in keys.items() if name != "unsigned"}
        for device_id, keys in found.items()
    }


def send_to_device(sender: User, target: User, text: str, device_id: str | None = None) -> None:
    messages = {target.user_id: {device_id or target.device_id: {"body": text}}}
    sender.put(f"/sendToDevice/m.compat/{uuid.uuid4().hex}", {"messages": messages})


def receive(user: User, count: int) -> list[str]:
    """Sync until so many messages have come to the device; return them all, in order."""
    found: list[str] = []

    def look(answer: Any) -> bool:
        events = answer.get("to_device", {}).get("events", [])
        found.extend(e["content"]["body"] for e in events if e["type"] == "m.compat")
        return len(found) >= count

    _, since = user.sync_until(look)
    answer = user.sync(since)
    look(answer)
    return found


def in_order(pair: Pair, texts: list[str]) -> list[str]:
    """Return texts as they came; Synapse works through the EDUs of a transaction all at once."""
    return texts if pair.there.kind == OURS else sorted(texts)


def is_changed(user: User) -> Any:
    def look(answer: Any) -> bool:
        return user.user_id in answer.get("device_lists", {}).get("changed", [])

    return look


def test_keys_of_the_other_side_are_found_both_ways(pair: Pair) -> None:
    alice, bob, _ = pair.users_in_one_room()
    keys = {user.user_id: upload_keys(user) for user in (alice, bob)}

    for reader, user in ((alice, bob), (bob, alice)):
        eventually(
            lambda reader=reader, user=user: (  # type: ignore[misc]  # binds the loop's
                devices_of(reader, user) == {user.device_id: keys[user.user_id]}
            ),
            f"{reader.user_id} finds the keys of {user.user_id}",
        )


def test_one_time_keys_are_claimed_once(pair: Pair) -> None:
    alice, bob, _ = pair.users_in_one_room()
    upload_keys(bob, "A", "B")

    claimed = []
    for _ in range(3):
        wanted = {bob.user_id: {bob.device_id: "signed_curve25519"}}
        answer = alice.post("/keys/claim", {"one_time_keys": wanted})
        found = answer["one_time_keys"].get(bob.user_id, {}).get(bob.device_id, {})
        claimed += list(found)

    assert sorted(claimed) == ["signed_curve25519:A", "signed_curve25519:B"]


def test_a_new_renamed_and_deleted_device_is_told_of(pair: Pair) -> None:
    alice, bob, _ = pair.users_in_one_room()
    upload_keys(alice)
    eventually(lambda: alice.device_id in devices_of(bob, alice), "the first device")
    since = str(bob.sync()["next_batch"])

    other = login(alice)
    upload_keys(other)
    _, since = bob.sync_until(is_changed(alice), since)
    eventually(lambda: other.device_id in devices_of(bob, alice), "the new device")

    other.put(f"/devices/{other.device_id}", {"display_name": "A new name"})

    def is_renamed() -> bool:
        device = query(bob, alice)["device_keys"][alice.user_id][other.device_id]
        return bool(device.get("unsigned", {}).get("device_display_name") == "A new name")

    if pair.here.kind == OURS:  # Synapse keeps the names of devices to itself by default
        eventually(is_renamed, "the new name")

    other.post("/logout", {})
    eventually(lambda: list(devices_of(bob, alice)) == [alice.device_id], "the device is gone")


def test_cross_signing_keys_are_found_on_the_other_side(pair: Pair) -> None:
    alice, bob, _ = pair.users_in_one_room()
    upload_keys(alice)
    eventually(lambda: alice.device_id in devices_of(bob, alice), "the device")
    public = random_key()
    master = {
        "user_id": alice.user_id,
        "usage": ["master"],
        "keys": {f"ed25519:{public}": public},
    }

    alice.post("/keys/device_signing/upload", {"master_key": master})

    def look() -> bool:
        found = query(bob, alice)["master_keys"].get(alice.user_id, {})
        return bool(found.get("keys") == master["keys"])

    eventually(look, "the master key")


def test_a_message_reaches_one_device_and_all_devices(pair: Pair) -> None:
    alice, bob, _ = pair.users_in_one_room()
    other = login(bob)

    send_to_device(alice, bob, "to one")
    send_to_device(alice, bob, "to all", "*")

    assert receive(bob, 2) == ["to one", "to all"]
    assert receive(other, 1) == ["to all"]


def test_messages_to_devices_survive_an_outage_of_the_receiving_server(pair: Pair) -> None:
    alice, bob, room_id = pair.users_in_one_room()
    send_to_device(alice, bob, "before")
    assert receive(bob, 1) == ["before"]
    texts = [f"missed {number}" for number in range(5)]

    with pair.there.process.down():
        for text in texts:
            send_to_device(alice, bob, text)
    bob.send(room_id, "back again")

    found = [text for text in receive(bob, len(texts)) if text != "before"]
    assert in_order(pair, found) == texts


def test_messages_to_devices_survive_a_kill_of_the_sending_server(pair: Pair) -> None:
    alice, bob, room_id = pair.users_in_one_room()
    texts = [f"saved {number}" for number in range(5)]

    with pair.there.process.down():
        for text in texts:
            send_to_device(alice, bob, text)
        pair.here.process.kill()
        pair.here.process.start()
    bob.send(room_id, "back again")

    assert in_order(pair, receive(bob, len(texts))) == texts


def test_devices_that_came_during_an_outage_are_known_after_it(pair: Pair) -> None:
    alice, bob, room_id = pair.users_in_one_room()
    upload_keys(alice)
    eventually(lambda: alice.device_id in devices_of(bob, alice), "the first device")

    with pair.there.process.down():
        other = login(alice)
        upload_keys(other)
    bob.send(room_id, "back again")
    alice.see_text(room_id, "back again")

    eventually(
        lambda: set(devices_of(bob, alice)) == {alice.device_id, other.device_id},
        "both devices are known",
    )
