"""What a lying homeserver cannot do to people's keys."""

import asyncio

import pytest

from agent_bridge.matrix import (
    CrossSignedDevices,
    DecryptedEvent,
    DeviceTrust,
    KeysRefused,
    MatrixClient,
    NoRecipients,
    UndecryptableEvent,
    verify_device_chain,
)
from agent_bridge.matrix.json_fields import object_in
from agent_bridge.matrix.transport import Request
from homeserver.core.identifiers import DeviceID
from homeserver.core.json_types import JsonObject
from homeserver.core.signing import verify_signature
from tests.agent_bridge.matrix.conftest import Stage
from tests.agent_bridge.matrix.people import master_key_of, meet, receive

PHONE = DeviceID("PHONE")


async def test_an_unsigned_new_device_is_reported_and_gets_no_key_under_the_cross_signed_policy(
    stage: Stage,
) -> None:
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
    assert report.left_out == {(bob.user_id, "SPARE"): "no chain to the expected key (unsigned)"}
    assert isinstance(unread, UndecryptableEvent)
    assert isinstance(read, DecryptedEvent)
    assert read.device.trust is DeviceTrust.UNSIGNED
    assert read.device.master_key is None


async def test_an_extra_member_gets_no_key_under_the_cross_signed_policy(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    eve = await stage.enter("eve", cross_signed=True)
    await eve.join(room_id)
    await stage.sync(alice)

    await alice.send_message(
        room_id, "secret", encrypt=True, policy=CrossSignedDevices({bob.user_id: None})
    )
    (event,) = await receive(eve, room_id)

    assert isinstance(event, UndecryptableEvent)


async def test_a_chain_to_another_key_than_the_policy_names_gets_no_room_key(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    policy = CrossSignedDevices({bob.user_id: master_key_of(alice)})

    with pytest.raises(NoRecipients, match="no chain to the expected key"):
        await alice.send_message(room_id, "x", encrypt=True, policy=policy)


async def test_a_policy_that_leaves_nobody_sends_nothing(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage, cross_signed=False)
    stage.server.requests.clear()

    with pytest.raises(NoRecipients):
        await alice.send_message(
            room_id, "x", encrypt=True, policy=CrossSignedDevices({bob.user_id: None})
        )

    assert not [r for r in stage.server.requests if r.method == "PUT"]


async def test_a_swapped_master_key_is_reported_and_gets_no_keys(stage: Stage) -> None:
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


async def test_a_master_key_swapped_at_first_contact_does_not_pass_a_pin(stage: Stage) -> None:
    alice = await stage.enter("alice", cross_signed=True)
    bob = await stage.enter("bob", cross_signed=True)
    alice.pin_master_key(bob.user_id, master_key_of(bob))
    evil = await stage.enter("bob", "EVIL")
    await evil.bootstrap_cross_signing("password", replace=True)

    problems = await alice.refresh_devices([bob.user_id])

    assert problems == []
    assert (await alice.sync_once(0)).identity_changes == (bob.user_id,)
    assert alice.trust_of(bob.user_id, DeviceID("EVIL")) is DeviceTrust.IDENTITY_CHANGED
    assert alice.find_pin(bob.user_id) == master_key_of(bob)


async def test_a_pinned_or_signed_identity_is_verified(stage: Stage) -> None:
    alice, bob, _ = await meet(stage)
    carol = await stage.enter("carol", cross_signed=True)
    await alice.refresh_devices([bob.user_id, carol.user_id])
    assert alice.trust_of(bob.user_id, PHONE) is DeviceTrust.CROSS_SIGNED

    alice.pin_master_key(bob.user_id, master_key_of(bob))
    await alice.sign_user(carol.user_id, master_key_of(carol))

    assert alice.trust_of(bob.user_id, PHONE) is DeviceTrust.VERIFIED
    assert alice.trust_of(carol.user_id, PHONE) is DeviceTrust.VERIFIED
    assert alice.trust_of(alice.user_id, PHONE) is DeviceTrust.VERIFIED


async def test_only_the_expected_key_bytes_are_signed(stage: Stage) -> None:
    alice, bob, _ = await meet(stage)
    spare = await stage.enter("alice", "SPARE")
    await alice.refresh_devices([alice.user_id, bob.user_id])

    with pytest.raises(KeysRefused):
        await alice.sign_user(bob.user_id, master_key_of(alice))
    with pytest.raises(KeysRefused):
        await alice.sign_own_device(DeviceID("SPARE"), alice.ed25519_key)
    await alice.sign_own_device(DeviceID("SPARE"), spare.ed25519_key)

    assert alice.trust_of(alice.user_id, DeviceID("SPARE")) is DeviceTrust.VERIFIED


async def test_a_second_device_does_not_replace_the_identity_by_itself(stage: Stage) -> None:
    alice = await stage.enter("alice", cross_signed=True)
    spare = await stage.enter("alice", "SPARE")

    with pytest.raises(KeysRefused, match="already has"):
        await spare.bootstrap_cross_signing("password")
    await alice.bootstrap_cross_signing("password")
    await spare.bootstrap_cross_signing("password", replace=True)
    with pytest.raises(KeysRefused, match="already has"):
        await alice.bootstrap_cross_signing("password")


async def test_a_device_whose_keys_the_server_replaces_keeps_its_first_keys(stage: Stage) -> None:
    alice, bob, _ = await meet(stage)
    await alice.refresh_devices([bob.user_id])
    evil = await stage.enter("bob", "EVIL")
    forged = evil._crypto.device
    forged.device_id = PHONE
    stage.server.device_keys[bob.user_id]["PHONE"] = forged._make_device_keys()

    problems = await alice.refresh_devices([bob.user_id])

    assert "device_changed" in [problem.kind for problem in problems]
    known = alice.key_objects(bob.user_id).devices[PHONE]
    assert object_in(known, "keys")["ed25519:PHONE"] == bob.ed25519_key


async def test_a_device_that_has_gone_does_not_come_back(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    await alice.refresh_devices([bob.user_id])
    gone = stage.server.device_keys[bob.user_id].pop("PHONE")
    await alice.refresh_devices([bob.user_id])
    stage.server.device_keys[bob.user_id]["PHONE"] = gone

    problems = await alice.refresh_devices([bob.user_id])
    await bob.send_message(room_id, "an old device speaks", encrypt=True)
    (event,) = await receive(alice, room_id)

    assert [problem.kind for problem in problems] == ["device_revoked"]
    assert alice.trust_of(bob.user_id, PHONE) is DeviceTrust.REVOKED
    assert alice.key_objects(bob.user_id).revoked == {PHONE}
    assert isinstance(event, DecryptedEvent)
    assert event.device.trust is DeviceTrust.REVOKED


async def test_forged_keys_in_an_answer_are_reported_and_change_nothing(stage: Stage) -> None:
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
    problems = await alice.refresh_devices([bob.user_id])

    assert [problem.kind for problem in problems] == ["keys_refused"] * 3
    assert alice.key_objects(bob.user_id) == before


async def test_a_forged_one_time_key_starts_no_session(stage: Stage) -> None:
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


async def test_a_user_the_server_says_nothing_about_is_not_fresh(stage: Stage) -> None:
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


async def test_only_one_key_query_is_under_way_at_a_time(stage: Stage) -> None:
    alice, bob, _ = await meet(stage)

    await asyncio.gather(*[alice.refresh_devices([bob.user_id]) for _ in range(5)])

    assert stage.server.most_queries_under_way == 1
    assert alice._crypto.lists.is_fresh(bob.user_id)


async def test_a_server_that_does_not_answer_for_a_user_is_asked_again_after_a_minute(
    stage: Stage,
) -> None:
    clock = [1_000_000_000_000]
    alice, bob, room_id = await meet(stage)
    patient = MatrixClient(alice._store, alice._transport, now=lambda: clock[0])
    stage.server.rewrite_answers.append(
        lambda _request, answer: object_in(answer, "device_keys").clear()
    )

    async def count_queries() -> int:
        stage.server.requests.clear()
        await patient.send_message(room_id, "x", encrypt=True)
        return [r.path[3:] for r in stage.server.requests].count(("keys", "query"))

    stage.server.announce_keys(bob.user_id)
    assert [await count_queries(), await count_queries()] == [1, 0]
    clock[0] += 60 * 1000
    assert [await count_queries(), await count_queries()] == [1, 0]
    await patient.refresh_devices([bob.user_id])
    assert await count_queries() == 0


async def test_a_chain_handed_out_proves_the_device_without_a_server(stage: Stage) -> None:
    alice, bob, _ = await meet(stage)
    await alice.refresh_devices([bob.user_id])

    chain = alice.find_device_chain(bob.user_id, PHONE)

    assert chain is not None
    device = verify_device_chain(chain, bob.user_id, master_key_of(bob))
    assert device.ed25519 == bob.ed25519_key


async def test_the_device_key_signs_bytes_but_no_json_object(stage: Stage) -> None:
    alice = await stage.enter("alice")

    signature = alice.sign_bytes(b"DSSEv1 4 test 2 {}")

    verify_signature(b"DSSEv1 4 test 2 {}", signature, alice.ed25519_key)
    with pytest.raises(ValueError, match="JSON object"):
        alice.sign_bytes(b' {"user_id":"@alice:hostile.test"}')


async def test_a_user_changed_while_we_asked_stays_outdated(stage: Stage) -> None:
    alice, bob, _ = await meet(stage)
    lists = alice._crypto.lists
    lists.track([bob.user_id])
    lists.mark_outdated([bob.user_id])
    asked = lists.list_outdated()
    answer = await alice.api.query_keys([bob.user_id])
    lists.mark_outdated([bob.user_id])

    lists.apply_answer(answer, asked)

    assert not lists.is_fresh(bob.user_id)
    lists.apply_answer(answer, lists.list_outdated())
    assert lists.is_fresh(bob.user_id)


async def test_an_identity_of_ours_that_only_the_server_states_verifies_nobody(
    stage: Stage,
) -> None:
    alice, bob, _ = await meet(stage)
    await alice.refresh_devices([bob.user_id])
    await alice.sign_user(bob.user_id, master_key_of(bob))
    spare = await stage.enter("alice", "SPARE")

    await spare.refresh_devices([alice.user_id, bob.user_id])

    assert spare.trust_of(bob.user_id, PHONE) is DeviceTrust.CROSS_SIGNED
    spare.pin_master_key(alice.user_id, master_key_of(alice))
    assert spare.trust_of(bob.user_id, PHONE) is DeviceTrust.VERIFIED


async def test_a_message_of_a_device_that_nobody_lists_is_of_an_unknown_device(
    stage: Stage,
) -> None:
    _, bob, room_id = await meet(stage)
    evil = await stage.enter("alice", "EVIL")
    del stage.server.device_keys[evil.user_id]["EVIL"]

    await evil.send_message(room_id, "approve", encrypt=True)
    (event,) = await receive(bob, room_id)

    assert isinstance(event, DecryptedEvent)
    assert event.device.trust is DeviceTrust.UNKNOWN
    assert (event.device.device_id, event.device.master_key) == (None, None)


async def test_an_application_message_by_olm_names_its_device(stage: Stage) -> None:
    alice, bob, room_id = await meet(stage)
    await alice.send_message(room_id, "starts a session", encrypt=True)
    target = alice._crypto.lists.find_device(bob.user_id, PHONE)
    assert target is not None

    await alice._crypto._send_encrypted([target.keys], "org.example.hello", {"a": 1})
    first = await bob.sync_once(0)
    again = await bob.sync_once(0)

    (event,) = first.to_device
    assert (event.type, event.content) == ("org.example.hello", {"a": 1})
    assert event.device.device_id == "PHONE"
    assert again.to_device == first.to_device


async def test_a_session_of_other_keys_than_the_devices_is_of_no_known_device(stage: Stage) -> None:
    alice, bob, _ = await meet(stage)
    await alice.refresh_devices([bob.user_id])

    sender = alice._crypto.lists.describe_sender(bob.user_id, bob.curve25519_key, alice.ed25519_key)

    assert (sender.device_id, sender.trust) == (None, DeviceTrust.UNKNOWN)
