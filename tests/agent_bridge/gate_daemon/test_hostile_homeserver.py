"""What a homeserver can forge, replay, move and rewrite; attack cases by number."""

from dataclasses import replace

import pytest

from agent_bridge.core.decision import DECISION_EVENT, Verdict, decision_content
from agent_bridge.matrix import DecryptedEvent
from agent_bridge.matrix.json_fields import object_in
from agent_bridge.matrix.transport import Request
from homeserver.core.identifiers import EventID
from homeserver.core.json_types import JsonObject
from tests.agent_bridge.gate_daemon.stage import Stage


def _withhold_alice(request: Request, answer: JsonObject) -> None:
    if request.path[-2:] == ("keys", "query"):
        object_in(answer, "device_keys").pop("@alice:hostile.test", None)


@pytest.mark.parametrize("key", ["\u2705", "\U0001f44d", "approve"])
async def test_case_1_a_reaction_cannot_approve(stage: Stage, key: str) -> None:
    await stage.open("alice")
    frozen = await stage.draft()
    relation: JsonObject = {
        "rel_type": "m.annotation",
        "event_id": stage.draft_event_id(frozen),
        "key": key,
    }

    await stage.forge("alice", "m.reaction", {"m.relates_to": relation})

    stage.assert_refused("reaction")


async def test_a_reaction_can_deny(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft()
    relation: JsonObject = {
        "rel_type": "m.annotation",
        "event_id": stage.draft_event_id(frozen),
        "key": "\u274c",
    }

    await stage.forge("alice", "m.reaction", {"m.relates_to": relation})

    assert stage.status["state"] == "denied"
    (ref,) = stage.approver.receipts[0].receipt.decisions
    assert (ref.decision_id, ref.user_id) == (None, "@alice:hostile.test")


async def test_nobody_but_an_approver_can_deny(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft()

    await stage.forge("bot", "m.room.message", {"body": f"deny {frozen.draft_id}"})

    assert stage.status["state"] == "pending"


async def test_case_2_plaintext_approve_is_refused(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft()

    await stage.forge(
        "alice",
        "m.room.message",
        {"msgtype": "m.text", "body": f"approve {frozen.draft_id}"},
    )

    stage.assert_refused("not_encrypted")


async def test_case_3_a_genuine_signature_in_plaintext_is_refused(stage: Stage) -> None:
    """Forged event with the sender's name, holding a decision that really is theirs."""

    await stage.open("alice")
    frozen = await stage.draft()
    signed = stage.sign(stage.approver, frozen)

    await stage.forge("alice", DECISION_EVENT, decision_content(signed))

    stage.assert_refused("not_encrypted")


async def test_case_4_a_replayed_ciphertext_is_refused_also_after_a_restart(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft()
    event_id = await stage.decide(stage.approver, frozen)
    assert stage.has_run()
    (stage.workspace / "made").unlink()
    original = stage.server.find(event_id)

    await stage.place(original)
    await stage.restart_gate()
    await stage.place(original)

    assert stage.approver.refusals == ["replayed", "replayed"]
    assert not stage.has_run()


async def test_case_4_the_gate_itself_remembers_what_it_decrypted(stage: Stage) -> None:
    """Were the client's own replay guard lost, the gate's store still tells."""

    await stage.open("alice")
    frozen = await stage.draft()
    await stage.decide(stage.approver, frozen, Verdict.DENY, work=False)
    batch = await stage.gate.client.sync_once(0)
    event = batch.rooms[stage.rooms.approvals].events[-1]
    assert isinstance(event, DecryptedEvent)
    await stage.let_gate_work()

    again = replace(event, event_id=EventID("$again"))
    stage.gate.countersigning.hear(again, stage.clock())
    await stage.let_gate_work()
    await stage.read_all()

    assert stage.approver.refusals == ["replayed"]


async def test_a_signed_decision_sent_twice_counts_once(stage: Stage) -> None:
    """Attack case 25, and 35: the same key counts once."""

    await stage.open("alice", "bob")
    frozen = await stage.draft("rm", "-f", "target")
    signed = stage.sign(stage.approver, frozen)

    await stage.send(stage.approver, frozen, signed)
    await stage.send(stage.approver, frozen, signed)

    assert stage.approver.refusals == ["decision_repeated"]
    assert stage.status["have"] == 1


async def test_case_5_a_cleartext_relation_moves_no_approval(stage: Stage) -> None:
    await stage.open("alice")
    first = await stage.draft("touch", "other")
    second = await stage.draft("touch", "made")
    event_id = await stage.decide(stage.approver, first, work=False)
    content = object_in(stage.server.find(event_id), "content")
    target: JsonObject = {
        "rel_type": "m.reference",
        "event_id": stage.draft_event_id(second),
    }
    content["m.relates_to"] = target

    await stage.let_gate_work()

    assert (stage.workspace / "other").exists()
    assert not stage.has_run()


async def test_case_6_a_poll_vote_cannot_approve(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft()
    relation: JsonObject = {
        "rel_type": "m.reference",
        "event_id": stage.draft_event_id(frozen),
    }

    await stage.say(stage.approver, "m.poll.response", {"m.relates_to": relation})

    stage.assert_refused("reaction")


async def test_case_8_an_edit_cannot_turn_talk_into_approval(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft()
    talk = await stage.say(stage.approver, "m.room.message", {"body": "what is this?"})
    assert stage.approver.refusals == []

    await stage.say(
        stage.approver,
        "m.room.message",
        {
            "body": "* approve",
            "m.new_content": {"body": f"approve {frozen.draft_id}"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": talk},
        },
    )

    stage.assert_refused("edited")


async def test_case_9_withdrawing_an_approval_is_a_denial(stage: Stage) -> None:
    await stage.open("alice", "bob")
    frozen = await stage.draft("rm", "-f", "target")
    event_id = await stage.decide(stage.approver, frozen)

    await stage.forge("alice", "m.room.redaction", {"redacts": event_id})

    assert stage.status["state"] == "denied"
    assert stage.approver.refusals == ["redacted"]


async def test_case_10_a_ciphertext_of_another_room_is_refused(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft()
    alice = stage.approver.client
    room_id = await alice.create_room(invite=[stage.gate.client.user_id])
    await stage.gate.client.join(room_id)
    await stage.sync(alice)
    signed = stage.sign(stage.approver, frozen)
    event_id = await alice.send_event(
        room_id, DECISION_EVENT, decision_content(signed), encrypt=True
    )
    await stage.let_gate_work()

    await stage.place(stage.server.find(event_id))

    stage.assert_refused("wrong_room")


async def test_case_12_an_approval_under_another_name_is_refused(stage: Stage) -> None:
    await stage.open("alice", "bob")
    frozen = await stage.draft("rm", "-f", "target")
    event_id = await stage.decide(stage.approver, frozen, work=False)
    stage.server.find(event_id)["sender"] = "@bob:hostile.test"

    await stage.let_gate_work()
    await stage.read_all()

    stage.assert_refused("sender_mismatch")


async def test_case_13_an_unsigned_device_cannot_approve(stage: Stage) -> None:
    await stage.open("alice")
    intruder = await stage.add_device("alice", "INTRUDER", signed=False)
    frozen = await stage.draft()
    signed = stage.sign(stage.approver, frozen)

    await stage.send(intruder, frozen, signed)

    stage.assert_refused("device_unsigned")


async def test_an_unsigned_device_can_deny(stage: Stage) -> None:
    await stage.open("alice")
    intruder = await stage.add_device("alice", "INTRUDER", signed=False)
    frozen = await stage.draft()
    signed = stage.sign(stage.approver, frozen, Verdict.DENY)

    await stage.send(intruder, frozen, signed)

    assert stage.status["state"] == "denied"


async def test_case_37_a_decision_sent_by_another_device_than_signed_it_is_refused(
    stage: Stage,
) -> None:
    await stage.open("alice")
    tablet = await stage.add_device("alice", "TABLET")
    await stage.tick()
    frozen = await stage.draft()
    signed = stage.sign(stage.approver, frozen)

    await stage.send(tablet, frozen, signed)

    stage.assert_refused("decision_other_key")


async def test_case_22_an_extra_member_keeps_the_gate_silent(stage: Stage) -> None:
    await stage.open("alice")
    eve = await stage.enter("eve", "EVEPHONE")
    await eve.join(stage.rooms.approvals)

    await stage.ask("touch", "made")

    assert stage.status["state"] == "refused"
    assert stage.status["reason_code"] == "approvals_room_not_private"
    assert stage.approver.drafts == []
    assert any("eve" in str(problem) for problem in stage.gate.premises.list_problems())


async def test_case_16_another_master_key_freezes_the_approver_until_enrolled_again(
    stage: Stage,
) -> None:
    """Also case 17: the key is swapped later, by whoever controls the account on the server."""

    await stage.open("alice")
    frozen = await stage.draft()
    stage.is_nobody_to_tell = True
    thief = await stage.enter("alice", "THIEF", signed=False)
    await thief.bootstrap_cross_signing("password", replace=True)
    person = stage.make_person(thief, stage.gate.client)
    stage.people["thief"] = person
    await stage.let_gate_work()

    await stage.send(person, frozen, stage.sign(person, frozen))
    await stage.ask("touch", "made")

    assert stage.gate.approvers.is_frozen("@alice:hostile.test")
    assert stage.status["reason_code"] == "approvers_too_few"
    assert not stage.has_run()
    stage.clock.advance(1)
    stage.enroll(thief)
    await stage.tick()
    assert not stage.gate.approvers.is_frozen("@alice:hostile.test")


async def test_case_18_a_removed_device_that_is_listed_again_stays_removed(stage: Stage) -> None:
    """Also case 87: what it signed before counts no more."""

    await stage.open("alice")
    tablet = await stage.add_device("alice", "TABLET")
    await stage.tick()
    frozen = await stage.draft()
    listed = stage.server.device_keys["@alice:hostile.test"]
    keys = listed.pop("TABLET")
    stage.server.announce_keys("@alice:hostile.test")
    await stage.let_gate_work()
    listed["TABLET"] = keys
    stage.server.announce_keys("@alice:hostile.test")
    await stage.let_gate_work()

    await stage.send(tablet, frozen, stage.sign(tablet, frozen))

    stage.assert_refused("device_revoked")


async def test_case_19_an_approval_under_a_stale_device_list_is_refused(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft()
    await stage.decide(stage.approver, frozen, work=False)
    stage.server.announce_keys("@alice:hostile.test")
    stage.server.rewrite_answers.append(_withhold_alice)

    await stage.let_gate_work()
    stage.server.rewrite_answers.clear()
    await stage.read_all()

    stage.assert_refused("device_list_stale")


async def test_case_25_a_batch_delivered_twice_acts_once(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft("sh", "-c", "echo again >> made")
    await stage.decide(stage.approver, frozen, work=False)
    batch = await stage.gate.client.sync_once(0)

    await stage.gate.handle(batch)
    await stage.gate.handle(await stage.gate.client.sync_once(0))
    await stage.let_gate_work()
    await stage.read_all()

    assert (stage.workspace / "made").read_text() == "again\n"
    assert stage.approver.refusals == []


async def test_refusals_in_a_flood_are_bounded(stage: Stage) -> None:
    await stage.open("alice")
    await stage.draft()
    for number in range(40):
        stage.server.place(
            stage.rooms.approvals,
            {
                "type": "m.room.message",
                "sender": "@alice:hostile.test",
                "content": {"body": f"approve {number}"},
            },
        )

    await stage.let_gate_work()
    await stage.read_all()

    assert len(stage.approver.refusals) == 20


async def test_talk_of_approval_in_ciphertext_is_not_level_a(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft()

    await stage.say(stage.approver, "m.room.message", {"body": f"approve {frozen.draft_id}"})

    stage.assert_refused("assurance_unsupported")


async def test_an_unreadable_event_is_no_approval(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft()
    event_id = await stage.decide(stage.approver, frozen, work=False)
    content = object_in(stage.server.find(event_id), "content")
    content["session_id"] = "unknown"

    await stage.let_gate_work()
    await stage.read_all()

    stage.assert_refused("undecryptable")
