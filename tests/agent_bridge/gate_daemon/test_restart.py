"""What a crash interrupts is closed at the next start, never resumed."""

import pytest

from agent_bridge.core.receipt import check_receipt_chain
from agent_bridge.core.states import State
from agent_bridge.gate.state_directory import StateDirectory
from agent_bridge.gate.store import StoreDamaged, open_store
from tests.agent_bridge.gate_daemon.stage import Stage
from tests.agent_bridge.gate_daemon.test_commit import wait_for_run


async def test_pending_drafts_expire_over_a_restart(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft()

    await stage.restart_gate()
    assert stage.status["state"] == "expired"
    assert stage.status["reason_code"] == "gate_restarted"
    await stage.decide(stage.approver, frozen)

    assert stage.approver.refusals == ["expired"]
    assert not stage.has_run()


async def test_case_94_a_run_cut_off_is_ambiguous_and_not_run_again(stage: Stage) -> None:
    """Also case 58: a crash between consuming and the receipt."""

    await stage.open("alice")
    frozen = await stage.draft("sh", "-c", "echo again >> made; echo begun; sleep 60")
    await stage.decide(stage.approver, frozen, work=False)
    await wait_for_run(stage)

    await stage.restart_gate()
    await stage.restart_gate()
    await stage.decide(stage.approver, frozen)

    assert stage.status["state"] == "ambiguous"
    (receipt,) = stage.approver.receipts
    assert receipt.receipt.outcome.state is State.AMBIGUOUS
    assert len(receipt.receipt.decisions) == 1
    assert stage.approver.refusals == ["draft_closed"]
    assert (stage.workspace / "made").read_text() == "again\n"


async def test_what_was_sent_while_the_gate_was_away_is_taken_in_order(stage: Stage) -> None:
    """Attack case 25: more events than one sync shows."""

    await stage.open("alice")
    stage.server.timeline_limit = 2
    first = await stage.draft("touch", "first")
    second = await stage.draft("touch", "second")
    await stage.decide(stage.approver, first, work=False)
    await stage.decide(stage.approver, second, work=False)
    for number in range(5):
        await stage.bot.send_event(
            stage.rooms.requests, "m.room.message", {"body": f"{number}"}, encrypt=False
        )

    await stage.let_gate_work()

    assert (stage.workspace / "first").exists()
    assert (stage.workspace / "second").exists()


async def test_receipts_go_on_in_one_chain_over_restarts(stage: Stage) -> None:
    await stage.open("alice")
    await stage.draft()
    await stage.restart_gate()
    await stage.draft()
    await stage.restart_gate()
    await stage.read_all()

    receipts = stage.gate.store.list_receipts()
    assert len(receipts) == 2
    check_receipt_chain(receipts, stage.approver.gate.gate_key)
    assert [one.receipt.sequence for one in stage.approver.receipts] == [1, 2]


async def test_a_receipt_a_crash_kept_from_being_sent_is_sent_at_the_next_start(
    stage: Stage,
) -> None:
    await stage.open("alice")
    await stage.draft(ttl_ms=60_000)
    stage.clock.advance(60)
    stage.gate.tick()
    await stage.restart_gate(losing_words=True)
    await stage.read_all()

    assert len(stage.approver.receipts) == 1


async def test_a_clock_gone_back_keeps_the_gate_from_drafting_above_t1(stage: Stage) -> None:
    await stage.open("alice")
    await stage.draft()
    stage.clock.wall_ms -= 3_600_000
    await stage.restart_gate()

    await stage.ask("touch", "made")

    assert stage.status["state"] == "refused"
    assert stage.status["reason_code"] == "clock_regressed"


async def test_a_damaged_store_keeps_the_gate_closed(stage: Stage) -> None:
    await stage.open("alice")
    path = StateDirectory(stage.settings.state_directory).store
    stage.gate.store.close()
    data = bytearray(path.read_bytes())
    data[100:4096] = bytes(3996)
    path.write_bytes(data)

    with pytest.raises(StoreDamaged):
        open_store(path)
