"""What a signer believes of what comes in, on a homeserver that lies."""

from agent_bridge.core.base64_text import decode_matrix_base64, encode_base64url
from agent_bridge.core.frozen_draft import DRAFT_EVENT, draft_content
from agent_bridge.core.pae import PayloadType, encode_pae, parse_receipt_id
from agent_bridge.core.receipt import RECEIPT_EVENT
from agent_bridge.core.receipt_head import HEAD_EVENT, Head, encode_head
from agent_bridge.gate.outbox import Room
from agent_bridge.gate.state_directory import StateDirectory
from agent_bridge.signer.inbox import Alarm, NewOutput
from tests.agent_bridge.gate_daemon.stage import Stage


def alarms(stage: Stage) -> list[str]:
    return [item.sentence for item in stage.approver.news if isinstance(item, Alarm)]


async def test_case_67_a_look_alike_draft_of_anybody_else_is_not_shown(stage: Stage) -> None:
    await stage.open("alice", "bob")
    frozen = await stage.draft()
    alice, bob = stage.approver, stage.people["bob"]
    await bob.client.send_event(
        stage.rooms.approvals, DRAFT_EVENT, draft_content(frozen), encrypt=True
    )
    await stage.forge("gate", DRAFT_EVENT, draft_content(frozen))

    assert alice.drafts == [frozen]
    assert len(alice.record.list_open_drafts()) == 1


async def test_another_device_of_the_gate_raises_an_alarm(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft()
    thief = await stage.enter("gate", "THIEF", signed=False)

    await thief.send_event(stage.rooms.approvals, DRAFT_EVENT, draft_content(frozen), encrypt=True)
    await stage.read_all()

    assert "not the trusted gate" in alarms(stage)[-1]
    assert len(stage.approver.drafts) == 1


async def test_case_66_a_text_that_is_not_the_bytes_raises_an_alarm(stage: Stage) -> None:
    """The signer shows what it rendered itself, and says that other clients show something else."""

    await stage.open("alice")
    frozen = await stage.draft()
    lie = draft_content(frozen) | {"body": "Nothing to see. Approved by everybody."}
    stage.gate.outbox.put("lie", Room.APPROVALS, DRAFT_EVENT, lie)

    await stage.let_gate_work()
    await stage.read_all()

    assert "another text" in alarms(stage)[-1]
    assert stage.approver.drafts[-1].rendering == frozen.rendering


async def test_case_90_a_receipt_left_out_raises_an_alarm(stage: Stage) -> None:
    await stage.open("alice")
    await stage.ask("ls")
    key = f"receipt:{stage.approver.receipts[0].receipt_id}"
    assert stage.gate.outbox.find_event_id(key) is not None
    assert alarms(stage) == []
    stage.request_count += 1
    placed = stage.server.rooms[stage.rooms.approvals]
    await stage.bot.send_event(
        stage.rooms.requests,
        "org.countersign.request",
        {
            "request_id": "suppressed",
            "requester": "@someone:hostile.test",
            "chat_room": "!chat:hostile.test",
            "chat_event": "$chat",
            "issued_ms": stage.clock.wall_ms,
            "kind": "exec",
            "argv": ["ls"],
        },
        encrypt=False,
    )
    before = len(placed)
    await stage.let_gate_work()
    del placed[before:]  # the approver never sees any of it

    await stage.ask("ls")

    assert "receipt 3" in alarms(stage)[-1]


async def test_case_91_a_gate_rolled_back_is_noticed_by_both_sides(stage: Stage) -> None:
    await stage.open("alice")
    snapshot = StateDirectory(stage.settings.state_directory).store.read_bytes()
    await stage.decide(stage.approver, await stage.draft())
    seen = stage.approver.receipts[-1]
    (stage.workspace / "made").unlink()

    stage.clock.advance(1)
    await stage.restart_gate(store=snapshot)
    frozen = await stage.draft()
    signed = stage.sign(stage.approver, frozen, head=seen.receipt_id)
    await stage.send(stage.approver, frozen, signed)

    assert any("went back" in sentence for sentence in alarms(stage))
    stage.assert_refused("head_regressed")


async def test_case_92_two_heads_with_one_number_raise_an_alarm(stage: Stage) -> None:
    await stage.open("alice")
    await stage.ask("ls")
    gate = stage.gate
    gate.receipts.publish_head("laptop", stage.clock.wall_ms + 1)
    other = Head(
        stage.approver.gate.gate_key,
        "laptop",
        1,
        parse_receipt_id("r1:" + "a" * 52),
        stage.clock.wall_ms,
    )
    payload = encode_head(other)
    signature = gate.client.sign_bytes(encode_pae(PayloadType.HEAD, payload))
    gate.outbox.put(
        "other head",
        Room.APPROVALS,
        HEAD_EVENT,
        {
            "payload": encode_base64url(payload),
            "signature": encode_base64url(decode_matrix_base64(signature)),
        },
    )

    await stage.let_gate_work()
    await stage.read_all()

    assert "share one sequence number" in alarms(stage)[-1]


async def test_case_93_a_receipt_nobody_signed_is_not_taken(stage: Stage) -> None:
    await stage.open("alice")
    await stage.ask("ls")
    (signed,) = stage.gate.store.list_receipts()
    content = {
        "payload": encode_base64url(signed.payload.replace(b'"done"', b'"fail"')),
        "signature": encode_base64url(signed.signature),
    }
    stage.gate.outbox.put("forged", Room.APPROVALS, RECEIPT_EVENT, {**content})

    await stage.let_gate_work()
    await stage.read_all()

    assert len(stage.approver.receipts) == 1
    assert "unusable" in alarms(stage)[-1]


async def test_output_cannot_steer_the_terminal(stage: Stage) -> None:
    """Attack case 63, at the signer: it does not rely on the gate's cleaning."""

    await stage.open("alice")
    frozen = await stage.draft("printf", "a\\033[2Jb\\n")

    await stage.decide(stage.approver, frozen)

    shown = [item.text for item in stage.approver.news if isinstance(item, NewOutput)]
    assert shown
    assert "\x1b" not in "".join(shown)
