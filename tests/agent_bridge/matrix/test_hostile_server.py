"""What a lying homeserver cannot do to an encrypted conversation."""

import asyncio
import copy

import pytest

from agent_bridge.matrix import (
    CrossSignedDevices,
    DecryptedEvent,
    DeviceTrust,
    KeysRefused,
    NoRecipients,
    PlaintextEvent,
    UndecryptableEvent,
    UndecryptableReason,
    verify_device_chain,
)
from agent_bridge.matrix.json_fields import object_in
from agent_bridge.matrix.transport import Request
from homeserver.core.identifiers import DeviceID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.signing import verify_signature
from tests.agent_bridge.matrix.conftest import Stage
from tests.agent_bridge.matrix.people import master_key_of, meet, news, receive

PHONE = DeviceID("PHONE")


def test_a_message_says_who_sent_it_from_which_proven_device(stage: Stage) -> None:
    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_nothing_readable_reaches_the_server(stage: Stage) -> None:
    async def scenario() -> None:
        alice, _, room_id = await meet(stage)

        await alice.send_message(room_id, "a very secret word", encrypt=True)

        sent = repr(stage.server.requests)
        assert "a very secret word" not in sent

    asyncio.run(scenario())


def test_a_client_keeps_reading_after_a_restart(stage: Stage) -> None:
    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_an_unacknowledged_batch_comes_again_even_after_a_restart(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(stage)
        await alice.send_message(room_id, "decision", encrypt=True)

        first = news(await bob.sync_once(0), room_id)
        bob = await stage.restart(bob)
        batch = await bob.sync_once(0)

        assert news(batch, room_id) == first
        assert isinstance(first[0], DecryptedEvent)
        assert batch.problems == ()

    asyncio.run(scenario())


def test_plaintext_in_an_encrypted_room_is_said_to_be_plaintext(stage: Stage) -> None:
    async def scenario() -> None:
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

    asyncio.run(scenario())


@pytest.mark.parametrize("restart", [False, True])
def test_a_replayed_ciphertext_is_refused(stage: Stage, *, restart: bool) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(stage)
        event_id = await alice.send_message(room_id, "approve", encrypt=True)
        await receive(bob, room_id)
        if restart:
            bob = await stage.restart(bob)

        stage.server.place(room_id, {**stage.server.find(event_id), "event_id": "$replay"})
        (event,) = await receive(bob, room_id)

        assert isinstance(event, UndecryptableEvent)
        assert event.reason is UndecryptableReason.REPLAYED

    asyncio.run(scenario())


def test_the_first_of_two_copies_in_one_batch_is_the_event(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(stage)
        event_id = await alice.send_message(room_id, "approve", encrypt=True)

        stage.server.place(room_id, {**stage.server.find(event_id), "event_id": "$replay"})
        first, second = await receive(bob, room_id)

        assert isinstance(first, DecryptedEvent)
        assert isinstance(second, UndecryptableEvent)

    asyncio.run(scenario())


def test_a_ciphertext_moved_to_another_room_is_refused(stage: Stage) -> None:
    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_a_payload_that_names_another_room_is_refused(stage: Stage) -> None:
    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_a_message_shown_under_another_sender_is_refused(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(stage)
        eve = await stage.enter("eve")
        event_id = await alice.send_message(room_id, "approve", encrypt=True)

        stage.server.find(event_id)["sender"] = eve.user_id
        (event,) = await receive(bob, room_id)

        assert isinstance(event, UndecryptableEvent)
        assert event.reason is UndecryptableReason.SENDER_MISMATCH

    asyncio.run(scenario())


def test_cleartext_sender_key_and_device_id_play_no_part(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(stage)
        event_id = await alice.send_message(room_id, "hello", encrypt=True)
        content = object_in(stage.server.find(event_id), "content")

        content["sender_key"], content["device_id"] = bob.curve25519_key, "EVIL"
        (event,) = await receive(bob, room_id)

        assert isinstance(event, DecryptedEvent)
        assert event.device.device_id == "PHONE"
        assert event.device.curve25519 == alice.curve25519_key

    asyncio.run(scenario())


def test_a_rewritten_relation_is_apart_from_what_was_said(stage: Stage) -> None:
    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_a_damaged_ciphertext_is_reported(stage: Stage) -> None:
    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_an_emptied_event_is_reported_as_redacted(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(stage)
        event_id = await alice.send_message(room_id, "hello", encrypt=True)

        stage.server.find(event_id)["content"] = {}
        (event,) = await receive(bob, room_id)

        assert isinstance(event, UndecryptableEvent)
        assert event.reason is UndecryptableReason.REDACTED

    asyncio.run(scenario())


def test_an_event_whose_key_is_late_is_reported_and_delivered_when_the_key_comes(
    stage: Stage,
) -> None:
    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_a_forwarded_room_key_is_not_accepted(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(stage)
        await alice.send_message(room_id, "hello", encrypt=True)
        stage.server.to_device[bob.user_id, "PHONE"].clear()
        await bob.refresh_devices([alice.user_id])
        device = bob._crypto.lists.find_device(alice.user_id, PHONE)
        assert device is not None
        await alice.refresh_devices([bob.user_id])
        target = alice._crypto.lists.find_device(bob.user_id, PHONE)
        assert target is not None
        _, room_key = alice._crypto.outbound.room_key(room_id)

        await alice._crypto._send_encrypted([target.keys], "m.forwarded_room_key", room_key)
        batch = await bob.sync_once(0)

        (event,) = news(batch, room_id)
        assert isinstance(event, UndecryptableEvent)
        assert [received.type for received in batch.to_device] == ["m.forwarded_room_key"]

    asyncio.run(scenario())


def test_a_room_key_sent_in_plaintext_is_not_accepted(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(stage)
        await alice.send_message(room_id, "hello", encrypt=True)
        stage.server.to_device[bob.user_id, "PHONE"].clear()
        _, room_key = alice._crypto.outbound.room_key(room_id)

        stage.server.deliver(
            bob.user_id,
            "PHONE",
            {"type": "m.room_key", "sender": alice.user_id, "content": room_key},
        )
        (event,) = await receive(bob, room_id)

        assert isinstance(event, UndecryptableEvent)

    asyncio.run(scenario())


def test_an_olm_message_relabelled_with_another_sender_is_refused(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(stage)
        await alice.send_message(room_id, "hello", encrypt=True)

        queue = stage.server.to_device[bob.user_id, "PHONE"]
        queue[-1].event["sender"] = "@eve:hostile.test"
        batch = await bob.sync_once(0)

        assert [problem.kind for problem in batch.problems] == ["to_device_refused"]
        assert "another sender" in batch.problems[0].detail
        (event,) = news(batch, room_id)
        assert isinstance(event, UndecryptableEvent)

    asyncio.run(scenario())


def test_an_olm_message_for_another_recipient_is_refused(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, _ = await meet(stage)
        await alice.refresh_devices([bob.user_id])
        target = alice._crypto.lists.find_device(bob.user_id, PHONE)
        assert target is not None
        crypto = alice._crypto
        await crypto._start_sessions([target.keys])
        misaddressed = copy.copy(target.keys)
        object.__setattr__(misaddressed, "user_id", UserID("@carol:hostile.test"))
        content = crypto.device.encrypt(misaddressed, "m.room_key", {})

        stage.server.deliver(
            bob.user_id,
            "PHONE",
            {"type": "m.room.encrypted", "sender": alice.user_id, "content": content},
        )
        batch = await bob.sync_once(0)

        assert "another recipient" in batch.problems[0].detail

    asyncio.run(scenario())


def test_an_unsigned_new_device_is_reported_and_gets_no_key_under_the_cross_signed_policy(
    stage: Stage,
) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(stage)
        policy = CrossSignedDevices({bob.user_id: master_key_of(bob), alice.user_id: None})
        spare = await stage.enter("bob", "SPARE")
        await stage.sync(alice)

        await alice.send_message(room_id, "for proven devices", encrypt=True, policy=policy)
        await spare.send_message(room_id, "from the spare", encrypt=True)
        (unread,) = [e for e in await receive(spare, room_id) if e.sender == alice.user_id]
        (read,) = [e for e in await receive(alice, room_id) if e.sender == bob.user_id]

        report = alice.last_share(room_id)
        assert report is not None
        assert report.shared == ((bob.user_id, "PHONE"),)
        assert report.left_out == {
            (bob.user_id, "SPARE"): "no chain to the expected key (unsigned)"
        }
        assert isinstance(unread, UndecryptableEvent)
        assert isinstance(read, DecryptedEvent)
        assert read.device.trust is DeviceTrust.UNSIGNED
        assert read.device.master_key is None

    asyncio.run(scenario())


def test_an_extra_member_gets_no_key_under_the_cross_signed_policy(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(stage)
        eve = await stage.enter("eve", cross_signed=True)
        await eve.join(room_id)
        await stage.sync(alice)

        await alice.send_message(
            room_id, "secret", encrypt=True, policy=CrossSignedDevices({bob.user_id: None})
        )
        (event,) = await receive(eve, room_id)

        assert isinstance(event, UndecryptableEvent)

    asyncio.run(scenario())


def test_a_policy_that_leaves_nobody_sends_nothing(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(stage, cross_signed=False)
        stage.server.requests.clear()

        with pytest.raises(NoRecipients):
            await alice.send_message(
                room_id, "x", encrypt=True, policy=CrossSignedDevices({bob.user_id: None})
            )

        assert not [r for r in stage.server.requests if r.method == "PUT"]

    asyncio.run(scenario())


def test_a_swapped_master_key_is_reported_and_gets_no_keys(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(stage)
        await alice.refresh_devices([bob.user_id])
        evil = await stage.enter("bob", "EVIL")
        await evil.bootstrap_cross_signing("password", replace=True)

        batch = await alice.sync_once(0)

        assert batch.identity_changes == (bob.user_id,)
        assert alice.trust_of(bob.user_id, DeviceID("EVIL")) is DeviceTrust.IDENTITY_CHANGED
        assert alice.trust_of(bob.user_id, PHONE) is DeviceTrust.UNSIGNED
        with pytest.raises(NoRecipients):
            await alice.send_message(
                room_id, "x", encrypt=True, policy=CrossSignedDevices({bob.user_id: None})
            )

    asyncio.run(scenario())


def test_a_master_key_swapped_at_first_contact_does_not_pass_a_pin(stage: Stage) -> None:
    async def scenario() -> None:
        alice = await stage.enter("alice", cross_signed=True)
        bob = await stage.enter("bob", cross_signed=True)
        alice.pin_master_key(bob.user_id, master_key_of(bob))
        evil = await stage.enter("bob", "EVIL")
        await evil.bootstrap_cross_signing("password", replace=True)

        changes = await alice.refresh_devices([bob.user_id])

        assert changes.identity_changes == [bob.user_id]
        assert alice.trust_of(bob.user_id, DeviceID("EVIL")) is DeviceTrust.IDENTITY_CHANGED
        assert alice.find_pin(bob.user_id) == master_key_of(bob)

    asyncio.run(scenario())


def test_a_pinned_or_signed_identity_is_verified(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, _ = await meet(stage)
        carol = await stage.enter("carol", cross_signed=True)
        await alice.refresh_devices([bob.user_id, carol.user_id])
        assert alice.trust_of(bob.user_id, PHONE) is DeviceTrust.CROSS_SIGNED

        alice.pin_master_key(bob.user_id, master_key_of(bob))
        await alice.sign_user(carol.user_id, master_key_of(carol))

        assert alice.trust_of(bob.user_id, PHONE) is DeviceTrust.VERIFIED
        assert alice.trust_of(carol.user_id, PHONE) is DeviceTrust.VERIFIED
        assert alice.trust_of(alice.user_id, PHONE) is DeviceTrust.VERIFIED

    asyncio.run(scenario())


def test_only_the_expected_key_bytes_are_signed(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, _ = await meet(stage)
        spare = await stage.enter("alice", "SPARE")
        await alice.refresh_devices([alice.user_id, bob.user_id])

        with pytest.raises(KeysRefused):
            await alice.sign_user(bob.user_id, master_key_of(alice))
        with pytest.raises(KeysRefused):
            await alice.sign_own_device(DeviceID("SPARE"), alice.ed25519_key)
        await alice.sign_own_device(DeviceID("SPARE"), spare.ed25519_key)

        assert alice.trust_of(alice.user_id, DeviceID("SPARE")) is DeviceTrust.VERIFIED

    asyncio.run(scenario())


def test_a_second_device_does_not_replace_the_identity_by_itself(stage: Stage) -> None:
    async def scenario() -> None:
        await stage.enter("alice", cross_signed=True)
        spare = await stage.enter("alice", "SPARE")

        with pytest.raises(KeysRefused, match="already has"):
            await spare.bootstrap_cross_signing("password")

    asyncio.run(scenario())


def test_a_device_whose_keys_the_server_replaces_keeps_its_first_keys(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, _ = await meet(stage)
        await alice.refresh_devices([bob.user_id])
        evil = await stage.enter("bob", "EVIL")
        forged = evil._crypto.device
        forged.device_id = PHONE
        stage.server.device_keys[bob.user_id]["PHONE"] = forged._make_device_keys()

        changes = await alice.refresh_devices([bob.user_id])

        assert "device_changed" in [problem.kind for problem in changes.problems]
        known = alice.key_objects(bob.user_id).devices[PHONE]
        assert object_in(known, "keys")["ed25519:PHONE"] == bob.ed25519_key

    asyncio.run(scenario())


def test_a_device_that_has_gone_does_not_come_back(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(stage)
        await alice.refresh_devices([bob.user_id])
        gone = stage.server.device_keys[bob.user_id].pop("PHONE")
        await alice.refresh_devices([bob.user_id])
        stage.server.device_keys[bob.user_id]["PHONE"] = gone

        changes = await alice.refresh_devices([bob.user_id])
        await bob.send_message(room_id, "an old device speaks", encrypt=True)
        (event,) = await receive(alice, room_id)

        assert [problem.kind for problem in changes.problems] == ["device_revoked"]
        assert alice.trust_of(bob.user_id, PHONE) is DeviceTrust.REVOKED
        assert alice.key_objects(bob.user_id).revoked == {PHONE}
        assert isinstance(event, DecryptedEvent)
        assert event.device.trust is DeviceTrust.REVOKED

    asyncio.run(scenario())


def test_forged_keys_in_an_answer_are_reported_and_change_nothing(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, _ = await meet(stage)
        await alice.refresh_devices([bob.user_id])
        before = alice.key_objects(bob.user_id)

        def forge(request: Request, answer: JsonObject) -> None:
            if request.path[3:] == ("keys", "query"):
                devices = object_in(object_in(answer, "device_keys"), bob.user_id)
                object_in(devices["PHONE"], "keys")["curve25519:PHONE"] = alice.curve25519_key
                devices["EVIL"] = {"user_id": bob.user_id, "device_id": "EVIL"}
                signing = object_in(object_in(answer, "self_signing_keys"), bob.user_id)
                signing["usage"] = ["user_signing"]

        stage.server.rewrite_answers.append(forge)
        changes = await alice.refresh_devices([bob.user_id])

        assert [problem.kind for problem in changes.problems] == ["keys_refused"] * 3
        assert alice.key_objects(bob.user_id) == before

    asyncio.run(scenario())


def test_a_forged_one_time_key_starts_no_session(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(stage)

        def forge(request: Request, answer: JsonObject) -> None:
            if request.path[3:] == ("keys", "claim"):
                keys = object_in(object_in(answer, "one_time_keys"), bob.user_id)
                for key_id in object_in(keys, "PHONE"):
                    object_in(object_in(keys, "PHONE"), key_id)["key"] = alice.curve25519_key

        stage.server.rewrite_answers.append(forge)
        await alice.send_message(room_id, "x", encrypt=True)

        report = alice.last_share(room_id)
        assert report is not None
        assert report.shared == ()
        assert "no valid signature" in report.left_out[bob.user_id, PHONE]

    asyncio.run(scenario())


def test_a_user_the_server_says_nothing_about_is_not_fresh(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(stage)
        await alice.send_message(room_id, "one", encrypt=True)
        await receive(bob, room_id)
        stage.server.rewrite_answers.append(
            lambda request, answer: object_in(answer, "device_keys").clear()
        )
        stage.server.announce_keys(alice.user_id)

        await alice.send_message(room_id, "two", encrypt=True)
        (event,) = await receive(bob, room_id)

        assert isinstance(event, DecryptedEvent)
        assert not event.device.device_list_fresh
        assert event.device.trust is DeviceTrust.CROSS_SIGNED

    asyncio.run(scenario())


def test_a_chain_handed_out_proves_the_device_without_a_server(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, _ = await meet(stage)
        await alice.refresh_devices([bob.user_id])

        chain = alice.find_device_chain(bob.user_id, PHONE)

        assert chain is not None
        device = verify_device_chain(chain, bob.user_id, master_key_of(bob))
        assert device.ed25519 == bob.ed25519_key

    asyncio.run(scenario())


def test_the_device_key_signs_bytes_but_no_json_object(stage: Stage) -> None:
    async def scenario() -> None:
        alice = await stage.enter("alice")

        signature = alice.sign_bytes(b"DSSEv1 4 test 2 {}")

        verify_signature(b"DSSEv1 4 test 2 {}", signature, alice.ed25519_key)
        with pytest.raises(ValueError, match="JSON object"):
            alice.sign_bytes(b' {"user_id":"@alice:hostile.test"}')

    asyncio.run(scenario())


def test_the_same_transaction_id_is_the_same_event(stage: Stage) -> None:
    async def scenario() -> None:
        alice, bob, room_id = await meet(stage)

        first = await alice.send_message(room_id, "x", encrypt=True, txn_id="decision-1")
        second = await alice.send_message(room_id, "x", encrypt=True, txn_id="decision-1")

        assert first == second
        assert len(await receive(bob, room_id)) == 1

    asyncio.run(scenario())
