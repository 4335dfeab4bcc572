"""Between quorum and launch, and during a run: whatever is no longer as approved does not run."""

from agent_bridge.core.states import State
from agent_bridge.core.tiers import Tier
from agent_bridge.gate.enrollment import remove_enrollment
from agent_bridge.gate.state_directory import StateDirectory
from tests.agent_bridge.gate_daemon.stage import Stage


async def wait_for_run(stage: Stage) -> None:
    """Take in a decision and stop where the action has begun to run."""
    batch = await stage.gate.client.sync_once(0)
    await stage.gate.handle(batch)
    await stage.gate.client.acknowledge(batch)
    while not stage.has_run():
        await stage.gate.outbox.filled.wait()  # the action prints when it has begun
        stage.gate.outbox.filled.clear()


async def test_case_46_a_script_rewritten_while_pending_does_not_run(stage: Stage) -> None:
    await stage.open("alice")
    script = stage.workspace / "job.sh"
    script.write_text("echo harmless\n")
    frozen = await stage.draft("sh", "job.sh")
    script.write_text("touch made\n")

    await stage.decide(stage.approver, frozen)

    assert stage.status["state"] == "drift"
    receipt = stage.approver.receipts[0].receipt
    assert receipt.outcome.state is State.DRIFT
    name = f"\u2039{script.resolve()}\u203a"
    said = f"drift: {name} has other bytes than the ones approved"
    assert receipt.outcome.reason == said
    assert not stage.has_run()


async def test_case_59_a_policy_changed_while_pending_is_a_drift(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft()
    stage.write_policy(version=2)

    await stage.decide(stage.approver, frozen)

    assert stage.status["state"] == "drift"
    assert stage.status["reason_code"] == "policy_changed"
    assert not stage.has_run()


async def test_case_59_an_approver_removed_while_pending_is_a_drift(stage: Stage) -> None:
    await stage.open("alice", "bob")
    frozen = await stage.draft()
    state = StateDirectory(stage.settings.state_directory)
    remove_enrollment(state.approvers, stage.people["bob"].client.user_id)

    await stage.decide(stage.approver, frozen)

    assert stage.status["state"] == "drift"
    assert stage.status["reason_code"] == "pins_changed"
    assert not stage.has_run()


async def test_case_60_a_device_revoked_between_decision_and_launch_does_not_count(
    stage: Stage,
) -> None:
    await stage.open("alice")
    tablet = await stage.add_device("alice", "TABLET")
    await stage.tick()
    frozen = await stage.draft()
    await stage.decide(tablet, frozen, work=False)
    batch = await stage.gate.client.sync_once(0)
    stage.server.device_keys["@alice:hostile.test"].pop("TABLET")

    await stage.gate.handle(batch)  # the revocation is seen only at the last look
    await stage.let_gate_work()

    assert stage.status["state"] == "revoked"
    assert not stage.has_run()


async def test_case_60_a_denial_during_the_run_stops_it(stage: Stage) -> None:
    await stage.open("alice", "bob")
    frozen = await stage.draft("sh", "-c", "touch made; echo begun; sleep 60")
    await stage.decide(stage.approver, frozen, work=False)
    await wait_for_run(stage)

    await stage.forge("bob", "m.room.message", {"body": f"deny {frozen.draft_id}"})

    assert stage.status["state"] == "revoked"
    assert stage.status["reason_code"] == "denied"


async def test_case_58_two_approvals_run_an_action_once(stage: Stage) -> None:
    await stage.open("alice", "bob")
    frozen = await stage.draft("sh", "-c", "echo again >> made")
    await stage.decide(stage.approver, frozen, work=False)
    await stage.decide(stage.people["bob"], frozen, work=False)

    await stage.let_gate_work()
    await stage.read_all()

    assert (stage.workspace / "made").read_text() == "again\n"
    assert stage.approver.refusals == ["draft_closed"]


async def test_a_colocated_device_cannot_approve_above_t1(stage: Stage) -> None:
    """Attack case 72: an agent on the machine could drive it."""

    await stage.open("alice", "bob")
    stage.enroll(stage.people["bob"].client, colocated=True)
    await stage.tick()
    frozen = await stage.draft()

    await stage.decide(stage.people["bob"], frozen)

    stage.assert_refused("device_colocated")


async def test_an_approver_cannot_approve_above_their_tier(stage: Stage) -> None:
    await stage.open("alice", "bob")
    stage.enroll(stage.people["bob"].client, max_tier=Tier.T1)
    await stage.tick()
    frozen = await stage.draft()

    await stage.decide(stage.people["bob"], frozen)

    stage.assert_refused("tier_too_high")


async def test_case_86_a_new_device_cannot_approve_t3_inside_its_cool_down(stage: Stage) -> None:
    await stage.open("alice", "bob")
    stage.write_policy(cooldown=3600)
    frozen = await stage.draft("rm", "-f", "target")

    await stage.decide(stage.approver, frozen)

    stage.assert_refused("device_cooling_down")


async def test_a_device_added_while_a_draft_waits_joins_after_it(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft()
    tablet = await stage.add_device("alice", "TABLET")
    await stage.tick()

    await stage.send(tablet, frozen, stage.sign(tablet, frozen))
    assert stage.approver.refusals == ["device_not_enrolled"]
    await stage.decide(stage.approver, frozen)
    assert stage.has_run()
    (stage.workspace / "made").unlink()
    await stage.tick()
    await stage.decide(tablet, await stage.draft())

    assert stage.has_run()


async def test_case_42_the_asking_account_cannot_approve(stage: Stage) -> None:
    await stage.open("alice")
    bot = stage.bot
    await bot.bootstrap_cross_signing("password")
    await bot.join(stage.rooms.approvals)
    stage.enroll(bot)
    stage.people["bot"] = stage.make_person(bot, stage.gate.client)
    await stage.gate.approvers.follow()
    await stage.tick()
    frozen = await stage.draft()

    await stage.decide(stage.people["bot"], frozen)

    stage.assert_refused("approver_is_party")
