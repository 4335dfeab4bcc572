"""The gate's side of the request contract."""

from dataclasses import replace
from pathlib import Path

import pytest

from agent_bridge.core.states import State
from agent_bridge.gate.enrollment import remove_enrollment
from agent_bridge.gate.sandbox_probe import SandboxMissing
from agent_bridge.gate.state_directory import StateDirectory
from homeserver.core.json_types import JsonObject
from tests.agent_bridge.gate_daemon.stage import Stage


def request(stage: Stage, **more: object) -> JsonObject:
    content: JsonObject = {
        "request_id": "one",
        "requester": "@someone:hostile.test",
        "chat_room": "!chat:hostile.test",
        "chat_event": "$chat",
        "issued_ms": stage.clock.wall_ms,
        "kind": "exec",
        "argv": ["touch", "made"],
    }
    content.update(more)  # type: ignore[arg-type]  # tests send what the contract forbids
    return content


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"kind": "mcp"}, "unknown_kind"),
        ({"argv": []}, "malformed"),
        ({"argv": ["a\0b"]}, "malformed"),
        ({"argv": ["touch", 1]}, "malformed"),
        ({"argv": ["touch", "x" * 9000]}, "too_large"),
        ({"argv": ["no-such-program"]}, "executable_not_found"),
        ({"cwd": "work"}, "malformed"),
        ({"cwd": "/etc"}, "cwd_not_allowed"),
        ({"kind": "script", "interpreter": "bash", "script": "true"}, "malformed"),
        ({"kind": "script", "interpreter": "ba sh", "script": "true\n"}, "malformed"),
        ({"reason": "x" * 501}, "too_large"),
        ({"ttl_ms": 1}, "malformed"),
        ({"issued_ms": 0}, "stale_request"),
        ({"argv": ["dd", "if=/dev/zero"]}, "policy_denied"),
        ({"argv": ["sh", "-c", "true", "more"]}, "cannot_be_frozen"),
    ],
)
async def test_a_request_that_cannot_be_is_refused_with_its_reason(
    stage: Stage, more: dict[str, object], code: str
) -> None:
    await stage.open("alice")
    await stage.send_request("org.countersign.request", request(stage, **more))

    assert stage.status["state"] == "refused"
    assert stage.status["reason_code"] == code
    assert stage.approver.drafts == []


async def test_case_65_what_cannot_be_shown_whole_is_refused(stage: Stage) -> None:
    await stage.open("alice")
    await stage.ask("echo", "\u202e" * 2000)

    assert stage.status["reason_code"] == "cannot_be_shown"


async def test_the_gates_own_files_are_denied(stage: Stage, tmp_path: Path) -> None:
    """Attack case 71."""

    await stage.open("alice")
    await stage.ask("cat", str(tmp_path / "policy.toml"))

    assert stage.status["reason_code"] == "policy_denied"


async def test_case_70_taint_raises_the_tier(stage: Stage) -> None:
    await stage.open("alice")
    await stage.ask("ls", taint=["web:example.org"])

    assert stage.status["state"] == "pending"
    assert stage.status["tier"] == "T1"


async def test_a_repeated_request_gets_its_status_again_and_no_second_draft(stage: Stage) -> None:
    await stage.open("alice")
    content = request(stage)
    await stage.send_request("org.countersign.request", content)
    await stage.send_request("org.countersign.request", content)

    assert len(stage.approver.drafts) == 1
    first, second = stage.statuses()
    assert first == second


async def test_another_request_under_a_known_id_is_ignored(stage: Stage) -> None:
    await stage.open("alice")
    await stage.send_request("org.countersign.request", request(stage))
    await stage.send_request("org.countersign.request", request(stage, argv=["touch", "other"]))

    assert len(stage.approver.drafts) == 1
    assert len(stage.statuses()) == 1


async def test_a_request_of_anybody_else_is_not_heard(stage: Stage) -> None:
    await stage.open("alice")
    await stage.approver.client.join(stage.rooms.requests)
    await stage.approver.client.send_event(
        stage.rooms.requests, "org.countersign.request", request(stage), encrypt=False
    )
    await stage.let_gate_work()

    assert stage.statuses() == []


async def test_the_requester_can_withdraw_what_waits(stage: Stage) -> None:
    await stage.open("alice")
    request_id = await stage.ask("touch", "made")
    other: JsonObject = {"request_id": request_id, "requester": "@other:hostile.test"}
    own: JsonObject = {"request_id": request_id, "requester": "@someone:hostile.test"}

    await stage.send_request("org.countersign.request.cancel", other)
    assert stage.status["state"] == "pending"
    await stage.send_request("org.countersign.request.cancel", own)

    assert stage.status["state"] == "revoked"
    assert stage.status["reason_code"] == "cancelled_by_requester"
    assert stage.approver.receipts[-1].receipt.outcome.state is State.REVOKED
    await stage.decide(stage.approver, stage.approver.drafts[0])
    assert not stage.has_run()


async def test_case_80_a_flood_of_requests_is_stopped(stage: Stage) -> None:
    await stage.open("alice")
    for _ in range(6):
        await stage.ask("touch", "made")

    assert len(stage.approver.drafts) == 5
    assert stage.status["reason_code"] == "too_many_pending"


@pytest.mark.parametrize("over_a_restart", [False, True])
async def test_case_80_three_denials_in_a_row_pause_the_asking(
    stage: Stage, over_a_restart: bool
) -> None:
    """Also case 84: denied, then proposed again at once; a restart forgets none of it."""

    await stage.open("alice")
    for _ in range(3):
        frozen = await stage.draft()
        await stage.forge("alice", "m.room.message", {"body": f"deny {frozen.draft_id}"})
        stage.clock.advance(1)
    if over_a_restart:
        await stage.restart_gate()

    await stage.ask("touch", "made")
    assert stage.status["reason_code"] == "paused"
    stage.clock.advance(900)
    await stage.ask("touch", "made")

    assert stage.status["state"] == "pending"


async def test_automatic_runs_are_limited_by_the_hour(stage: Stage) -> None:
    await stage.open("alice")
    drafting = stage.gate.requests._drafting
    drafting._settings = replace(stage.settings, automatic_per_hour=1)

    await stage.ask("ls")
    assert stage.status["state"] == "done"
    await stage.ask("ls")

    assert stage.status["reason_code"] == "rate_limited"


async def test_without_a_sandbox_nothing_is_drafted_and_the_gate_says_so(stage: Stage) -> None:
    stage.sandbox = SandboxMissing("bubblewrap is not installed")
    await stage.open("alice")

    await stage.ask("ls")

    assert stage.status["reason_code"] == "sandbox_unavailable"
    assert "bubblewrap" in str(stage.gate.premises.list_problems())


async def test_case_41_without_approvers_everything_is_refused(stage: Stage) -> None:
    await stage.open("alice")
    state = StateDirectory(stage.settings.state_directory)
    remove_enrollment(state.approvers, stage.approver.client.user_id)
    await stage.approver.client.leave(stage.rooms.approvals)
    stage.is_nobody_to_tell = True

    await stage.ask("ls")

    assert stage.status["reason_code"] == "approvers_empty"
