"""From request to receipt, and the ends a draft can have."""

from agent_bridge.core.bundle import verify_bundle
from agent_bridge.core.decision import Restrict, Verdict
from agent_bridge.core.pins import parse_pins
from agent_bridge.core.states import State
from agent_bridge.signer.bundles import make_bundle
from tests.agent_bridge.gate_daemon.stage import Stage


async def test_an_approved_action_runs_and_leaves_a_bundle_that_verifies(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft("sh", "-c", "echo hello; touch made")
    assert stage.status["state"] == "pending"
    assert not stage.has_run()

    await stage.decide(stage.approver, frozen)

    assert stage.has_run()
    states = [status["state"] for status in stage.statuses()]
    assert states == ["pending", "approved", "running", "running", "done"]
    assert stage.status["exit_code"] == 0
    assert stage.status["output_tail"] == "hello\n"
    (receipt,) = stage.approver.receipts
    assert stage.status["receipt_digest"] == receipt.receipt_id
    bundle, pins = make_bundle(stage.approver.record, frozen.draft_id)
    checks = verify_bundle(bundle, parse_pins(pins))
    assert [check for check in checks if not check.passed] == []


async def test_a_denial_ends_a_draft_for_good(stage: Stage) -> None:
    await stage.open("alice", "bob")
    frozen = await stage.draft()

    await stage.decide(stage.people["bob"], frozen, Verdict.DENY)
    await stage.decide(stage.approver, frozen)

    assert stage.status["state"] == "denied"
    assert stage.approver.refusals == ["denied"]
    assert not stage.has_run()


async def test_t0_runs_by_itself_and_only_leaves_a_receipt(stage: Stage) -> None:
    await stage.open("alice")
    (stage.workspace / "seen").touch()

    await stage.ask("ls")

    assert stage.status["state"] == "done"
    assert stage.status["tier"] == "T0"
    assert stage.status["output_tail"] == "seen\n"
    assert stage.approver.receipts[0].receipt.decisions == ()


async def test_t3_needs_two_people(stage: Stage) -> None:
    await stage.open("alice", "bob")
    target = stage.workspace / "target"
    target.mkdir()
    frozen = await stage.draft("rm", "-r", "target")

    await stage.decide(stage.approver, frozen)
    assert stage.status["state"] == "pending"
    assert (stage.status["have"], stage.status["needed"]) == (1, 2)
    assert target.exists()
    await stage.decide(stage.people["bob"], frozen)

    assert stage.status["state"] == "done"
    assert not target.exists()


async def test_two_devices_of_one_person_are_one_person(stage: Stage) -> None:
    """Attack case 36."""

    await stage.open("alice", "bob")
    tablet = await stage.add_device("alice", "TABLET")
    await stage.tick()
    frozen = await stage.draft("rm", "-f", "target")

    await stage.decide(stage.approver, frozen)
    await stage.decide(tablet, frozen)

    assert stage.status["state"] == "pending"
    assert stage.status["have"] == 1


async def test_a_hold_time_is_waited_for(stage: Stage) -> None:
    await stage.open("alice", "bob")
    stage.write_policy(hold=30)
    frozen = await stage.draft("rm", "-f", "target")

    await stage.decide(stage.approver, frozen)
    await stage.decide(stage.people["bob"], frozen)
    assert stage.status["state"] == "pending"
    stage.clock.advance(29)
    await stage.tick()
    assert stage.status["state"] == "pending"
    stage.clock.advance(1)
    await stage.tick()

    assert stage.status["state"] == "done"


async def test_a_draft_nobody_answers_expires(stage: Stage) -> None:
    """Attack cases 23 and 24: a delayed yes and a suppressed no change nothing."""

    await stage.open("alice")
    frozen = await stage.draft(ttl_ms=60_000)

    stage.clock.advance(60)
    await stage.tick()
    assert stage.status["state"] == "expired"
    await stage.decide(stage.approver, frozen)

    assert stage.approver.refusals == ["expired"]
    assert stage.approver.receipts[0].receipt.outcome.state is State.EXPIRED
    assert not stage.has_run()


async def test_a_wall_clock_set_back_does_not_lengthen_a_draft(stage: Stage) -> None:
    """Attack case 23, by the monotonic clock."""

    await stage.open("alice")
    frozen = await stage.draft(ttl_ms=60_000)

    stage.clock.monotonic_ms += 60_000
    stage.clock.wall_ms += 1
    await stage.decide(stage.approver, frozen)

    assert stage.approver.refusals == ["expired"]
    assert not stage.has_run()


async def test_an_approval_may_narrow_the_limits(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft("sh", "-c", "sleep 30")

    await stage.decide(stage.approver, frozen, restrict=Restrict(wall_ms=200))

    assert stage.status["state"] == "failed"
    assert stage.status["reason_code"] == "timeout"


async def test_output_goes_into_the_thread_of_the_draft(stage: Stage) -> None:
    await stage.open("alice")
    frozen = await stage.draft("echo", "hello")

    await stage.decide(stage.approver, frozen)

    relations = [
        placed.event["content"].get("m.relates_to")
        for placed in stage.server.rooms[stage.rooms.approvals]
        if isinstance(placed.event["content"], dict)
    ]
    root = stage.draft_event_id(frozen)
    assert {"rel_type": "m.thread", "event_id": root} in relations
