"""What a lying homeserver cannot do to an encrypted conversation."""

import pytest

from agent_bridge.matrix import (
    DecryptedEvent,
    DeviceTrust,
    MatrixClient,
    PlaintextEvent,
    UndecryptableEvent,
    UndecryptableReason,
)
from agent_bridge.matrix.json_fields import object_in
from homeserver.core.identifiers import DeviceID, RoomID
from homeserver.core.json_types import JsonObject
from tests.agent_bridge.matrix.conftest import Stage
from tests.agent_bridge.matrix.people import master_key_of, meet, news, receive

PHONE = DeviceID("PHONE")


async def test_a_message_says_who_sent_it_from_which_proven_device(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)

    event_id = await alice.send_message(room_id, "hello", encrypt=True)
    (event,) = await receive(bob, room_id)

    assert isinstance(event, DecryptedEvent)
    assert (event.event_id, event.room_id, event.sender) == (event_id, room_id, alice.user_id)
    assert event.content == {"msgtype": "m.text", "body": "hello"}
    assert event.device.device_id == "PHONE"
    assert event.device.ed25519 == alice.ed25519_key
    assert event.device.trust is DeviceTrust.CROSS_SIGNED
    assert event.device.master_key == master_key_of(alice)
    assert event.device.device_list_fresh


async def test_nothing_readable_reaches_the_server(stage: Stage) -> None:
    alice, _, room_id = await meet(stage)

    await alice.send_message(room_id, "a very secret word", encrypt=True)

    sent = repr(stage.server.requests)
    assert "m.room.encrypted" in sent
    assert "a very secret word" not in sent


async def test_a_client_keeps_reading_after_a_restart(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    await alice.send_message(room_id, "one", encrypt=True)
    await receive(bob, room_id)

    bob = await stage.restart(bob)
    alice = await stage.restart(alice)
    await alice.send_message(room_id, "two", encrypt=True)
    (event,) = await receive(bob, room_id)

    assert isinstance(event, DecryptedEvent)
    assert event.content["body"] == "two"
    assert event.message_index == 1


async def test_an_unacknowledged_batch_comes_again_even_after_a_restart(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    await alice.send_message(room_id, "decision", encrypt=True)

    first = news(await bob.sync_once(0), room_id)
    bob = await stage.restart(bob)
    batch = await bob.sync_once(0)

    assert news(batch, room_id) == first
    assert isinstance(first[0], DecryptedEvent)
    assert batch.problems == ()


async def test_plaintext_in_an_encrypted_room_is_said_to_be_plaintext(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    forged: JsonObject = {
        "type": "m.room.message",
        "sender": alice.user_id,
        "content": {"msgtype": "m.text", "body": "approve"},
    }

    stage.server.place(room_id, forged)
    (event,) = await receive(bob, room_id)

    assert isinstance(event, PlaintextEvent)
    assert event.encrypted is False


@pytest.mark.parametrize("restart", [False, True])
async def test_a_replayed_ciphertext_is_refused(stage: Stage, *, restart: bool) -> None:
    alice, bob, room_id = await meet(stage)
    event_id = await alice.send_message(room_id, "approve", encrypt=True)
    await receive(bob, room_id)
    if restart:
        bob = await stage.restart(bob)

    stage.server.place(room_id, {**stage.server.find(event_id), "event_id": "$replay"})
    (event,) = await receive(bob, room_id)

    assert isinstance(event, UndecryptableEvent)
    assert event.reason is UndecryptableReason.REPLAYED


async def test_the_first_of_two_copies_in_one_batch_is_the_event(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    event_id = await alice.send_message(room_id, "approve", encrypt=True)

    stage.server.place(room_id, {**stage.server.find(event_id), "event_id": "$replay"})
    first, second = await receive(bob, room_id)

    assert isinstance(first, DecryptedEvent)
    assert isinstance(second, UndecryptableEvent)


async def test_a_ciphertext_moved_to_another_room_is_refused(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    other = await alice.create_room(invite=[bob.user_id])
    await bob.join(other)
    event_id = await alice.send_message(room_id, "approve", encrypt=True)

    moved = stage.server.find(event_id)
    stage.server.place(other, {**moved, "event_id": "$moved"})
    batch = await bob.sync_once(0)

    (event,) = news(batch, other)
    assert isinstance(event, UndecryptableEvent)
    assert event.reason is UndecryptableReason.WRONG_ROOM


async def test_a_payload_that_names_another_room_is_refused(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    await alice.send_message(room_id, "first", encrypt=True)
    await receive(bob, room_id)
    outbound = alice._crypto.outbound
    session = outbound._get(room_id)
    session.encrypt(b"used")
    ciphertext = session.encrypt(
        b'{"type":"m.room.message","content":{"body":"approve"},"room_id":"!other:x"}'
    )
    forged: JsonObject = {
        "type": "m.room.encrypted",
        "sender": alice.user_id,
        "content": {
            "algorithm": "m.megolm.v1.aes-sha2",
            "session_id": session.session_id,
            "ciphertext": ciphertext.to_base64(),
        },
    }

    stage.server.place(room_id, forged)
    (event,) = await receive(bob, room_id)

    assert isinstance(event, UndecryptableEvent)
    assert event.reason is UndecryptableReason.WRONG_ROOM
    assert event.detail == "the payload names another room"


async def test_a_message_shown_under_another_sender_is_refused(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    eve = await stage.enter("eve")
    event_id = await alice.send_message(room_id, "approve", encrypt=True)

    stage.server.find(event_id)["sender"] = eve.user_id
    (event,) = await receive(bob, room_id)

    assert isinstance(event, UndecryptableEvent)
    assert event.reason is UndecryptableReason.SENDER_MISMATCH


async def test_cleartext_sender_key_and_device_id_play_no_part(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    event_id = await alice.send_message(room_id, "hello", encrypt=True)
    content = object_in(stage.server.find(event_id), "content")

    content["sender_key"], content["device_id"] = bob.curve25519_key, "EVIL"
    (event,) = await receive(bob, room_id)

    assert isinstance(event, DecryptedEvent)
    assert event.device.device_id == "PHONE"
    assert event.device.curve25519 == alice.curve25519_key


async def test_a_rewritten_relation_is_apart_from_what_was_said(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    relation: JsonObject = {"rel_type": "m.reference", "event_id": "$draft-a"}
    event_id = await alice.send_event(
        room_id, "vote", {"m.relates_to": relation, "answer": "yes"}, encrypt=True
    )
    content = object_in(stage.server.find(event_id), "content")
    assert content["m.relates_to"] == relation

    content["m.relates_to"] = {"rel_type": "m.reference", "event_id": "$draft-b"}
    (event,) = await receive(bob, room_id)

    assert isinstance(event, DecryptedEvent)
    assert event.content["m.relates_to"] == relation
    assert event.cleartext_relation == {"rel_type": "m.reference", "event_id": "$draft-b"}


async def test_a_damaged_ciphertext_is_reported(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    event_id = await alice.send_message(room_id, "hello", encrypt=True)
    content = object_in(stage.server.find(event_id), "content")
    ciphertext = str(content["ciphertext"])

    content["ciphertext"] = (
        ciphertext[:60] + ("A" if ciphertext[60] != "A" else "B") + ciphertext[61:]
    )
    (event,) = await receive(bob, room_id)

    assert isinstance(event, UndecryptableEvent)
    assert event.reason is UndecryptableReason.BAD_CIPHERTEXT


async def test_an_emptied_event_is_reported_as_redacted(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    event_id = await alice.send_message(room_id, "hello", encrypt=True)

    stage.server.find(event_id)["content"] = {}
    (event,) = await receive(bob, room_id)

    assert isinstance(event, UndecryptableEvent)
    assert event.reason is UndecryptableReason.REDACTED


async def test_an_event_whose_key_is_late_is_reported_and_delivered_when_the_key_comes(
    stage: Stage,
) -> None:
    alice, bob, room_id = await meet(stage)
    event_id = await alice.send_message(room_id, "hello", encrypt=True)
    queue = stage.server.to_device[bob.user_id, "PHONE"]
    held_back = queue.pop()

    (event,) = await receive(bob, room_id)
    bob = await stage.restart(bob)
    stage.server.deliver(bob.user_id, "PHONE", held_back.event)
    unacknowledged = await bob.sync_once(0)
    batch = await bob.sync_once(0)
    await bob.acknowledge(batch)
    after = await bob.sync_once(0)

    assert isinstance(event, UndecryptableEvent)
    assert event.reason is UndecryptableReason.MISSING_SESSION
    assert [late.event_id for late in batch.late] == [event_id]
    assert unacknowledged.late == batch.late
    assert after.late == ()


async def make_room_key_bob_lacks(
    stage: Stage, alice: MatrixClient, bob: MatrixClient, room_id: RoomID
) -> JsonObject:
    """Use a room key that the server withholds from Bob, and return it for the next message."""
    await alice.send_message(room_id, "hello", encrypt=True)
    stage.server.to_device[bob.user_id, "PHONE"].clear()
    return alice._crypto.outbound.room_key(room_id)[1]


async def test_a_forwarded_room_key_is_not_accepted(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    room_key = await make_room_key_bob_lacks(stage, alice, bob, room_id)
    target = alice._crypto.lists.find_device(bob.user_id, PHONE)
    assert target is not None

    await alice._crypto._send_encrypted([target.keys], "m.forwarded_room_key", room_key)
    await alice.send_message(room_id, "readable with that key", encrypt=True)
    batch = await bob.sync_once(0)

    assert [type(event) for event in news(batch, room_id)] == [UndecryptableEvent] * 2
    assert batch.to_device == ()
    assert [problem.detail for problem in batch.problems] == ["a forwarded room key"]


async def test_a_room_key_sent_in_plaintext_is_not_accepted(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    room_key = await make_room_key_bob_lacks(stage, alice, bob, room_id)

    stage.server.deliver(
        bob.user_id,
        "PHONE",
        {"type": "m.room_key", "sender": alice.user_id, "content": room_key},
    )
    await alice.send_message(room_id, "readable with that key", encrypt=True)

    batch = await bob.sync_once(0)

    assert [type(event) for event in news(batch, room_id)] == [UndecryptableEvent] * 2
    assert [problem.detail for problem in batch.problems] == ["a plaintext room key"]


async def test_an_olm_message_relabelled_with_another_sender_is_refused(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    await alice.send_message(room_id, "hello", encrypt=True)

    queue = stage.server.to_device[bob.user_id, "PHONE"]
    queue[-1].event["sender"] = "@eve:hostile.test"
    batch = await bob.sync_once(0)

    assert [problem.kind for problem in batch.problems] == ["to_device_refused"]
    assert "another sender" in batch.problems[0].detail
    (event,) = news(batch, room_id)
    assert isinstance(event, UndecryptableEvent)


async def test_the_same_transaction_id_is_the_same_event(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)

    first = await alice.send_message(room_id, "x", encrypt=True, txn_id="decision-1")
    second = await alice.send_message(room_id, "x", encrypt=True, txn_id="decision-1")

    assert first == second
    assert len(await receive(bob, room_id)) == 1
