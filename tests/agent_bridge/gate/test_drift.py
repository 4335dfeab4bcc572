"""Attacks 46 to 60: what changes between approval and launch is noticed, or does not matter."""

import asyncio
import dataclasses
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.states import Event, State
from agent_bridge.gate.executor_commit import Approved, Drift
from agent_bridge.gate.executor_run import Ending
from agent_bridge.gate.freezing import ExecRequest, ScriptRequest
from agent_bridge.gate.output import OutputChunk
from agent_bridge.gate.sandbox_profiles import PROFILES
from tests.agent_bridge.gate.drafts import NOW, Gate

GOOD = "echo approved\n"
EVIL = "echo EVIL\n"


@pytest.fixture
def script(gate: Gate) -> Path:
    path = gate.root / "bin" / "deploy.sh"
    path.parent.mkdir()
    path.write_text(GOOD)
    return path


def approve(gate: Gate, profile: str = "read", **wishes: object) -> Approved:
    request = ExecRequest((b"sh", b"bin/deploy.sh"), **wishes)  # type: ignore[arg-type]  # test shorthand
    return gate.approve(request, profile)


def drift_of(gate: Gate, approved: Approved) -> Drift:
    """Execute, expect a drift, and check that the draft's one use was not taken."""
    with pytest.raises(Drift) as drift:
        gate.run(approved)
    draft = gate.store.find_draft(approved.frozen.draft_id)
    assert draft is not None
    assert draft.state is State.APPROVED
    assert gate.chunks == []
    return drift.value


def run_with(gate: Gate, approved: Approved, swap: Callable[[], None]) -> str:
    """Execute; the swap happens after everything was hashed and before anything is mounted."""
    gate.stop = asyncio.Event()
    execution = asyncio.run(gate.execute(approved, recheck=swap))
    assert "EVIL" not in gate.output
    return f"{execution.ending}: {gate.output}"


def test_an_unchanged_action_runs(gate: Gate, script: Path) -> None:
    execution = gate.run(approve(gate))

    assert (execution.ending, execution.exit_code) == (Ending.EXITED, 0)
    assert execution.event is Event.SUCCEEDED
    assert gate.output == "approved\n"
    assert execution.executed is not None
    assert execution.executed.inputs[0].path == bytes(script)


def test_attack_46_a_script_rewritten_while_pending_is_drift(gate: Gate, script: Path) -> None:
    approved = approve(gate)
    script.write_text(EVIL)

    assert drift_of(gate, approved).path == bytes(script)


def test_attack_46_a_script_rewritten_with_its_times_put_back_is_drift(
    gate: Gate, script: Path
) -> None:
    approved = approve(gate)
    status = script.stat()
    script.write_text("echo approvEd\n")
    os.utime(script, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert drift_of(gate, approved).path == bytes(script)


@pytest.mark.parametrize("profile", ["read", "sealed", "build"])
def test_attack_46_a_script_rewritten_after_the_check_does_not_matter(
    gate: Gate, script: Path, profile: str
) -> None:
    approved = approve(gate, profile)

    assert run_with(gate, approved, lambda: _write(script, EVIL)) == "exited: approved\n"


@pytest.mark.parametrize("profile", ["read", "sealed", "build"])
def test_attack_46_a_script_replaced_after_the_check_does_not_matter(
    gate: Gate, script: Path, profile: str
) -> None:
    approved = approve(gate, profile)
    evil = gate.root / "evil"
    evil.write_text(EVIL)

    assert run_with(gate, approved, lambda: _rename(evil, script)) == "exited: approved\n"


def test_attack_47_an_input_swapped_for_a_symbolic_link_is_drift(gate: Gate, script: Path) -> None:
    approved = approve(gate)
    (gate.root / "other").write_text(GOOD)
    script.unlink()
    script.symlink_to("../other")

    assert "symbolic link" in drift_of(gate, approved).detail


def test_attack_47_a_parent_directory_swapped_for_a_symbolic_link_is_drift(
    gate: Gate, script: Path
) -> None:
    approved = approve(gate)
    script.parent.rename(gate.root / "moved")
    script.parent.symlink_to("moved")

    assert "symbolic link" in drift_of(gate, approved).detail


def test_attack_47_a_cwd_swapped_for_another_directory_is_drift(gate: Gate, script: Path) -> None:
    (gate.root / "sub").mkdir()
    approved = approve(gate, cwd=bytes(gate.root / "sub"))
    (gate.root / "sub").rename(gate.root / "old")
    (gate.root / "sub").mkdir()

    assert "another directory" in drift_of(gate, approved).detail


def test_attack_47_a_cwd_swapped_for_a_symbolic_link_is_drift(gate: Gate) -> None:
    (gate.root / "sub").mkdir()
    approved = gate.approve(ExecRequest((b"pwd",), cwd=bytes(gate.root / "sub")))
    (gate.root / "sub").rename(gate.root / "old")
    (gate.root / "sub").symlink_to("old")

    assert "symbolic link" in drift_of(gate, approved).detail


def test_attack_47_an_executable_swapped_for_a_symbolic_link_is_drift(gate: Gate) -> None:
    program = gate.root / "tool"
    shutil.copy("/usr/bin/id", program)
    approved = gate.approve(ExecRequest((b"./tool",)))
    program.rename(gate.root / "tool2")
    program.symlink_to("tool2")

    assert drift_of(gate, approved).path == bytes(program)


@pytest.mark.parametrize("profile", ["read", "sealed", "build"])
def test_attack_47_a_parent_directory_swapped_after_the_check_runs_nothing_else(
    gate: Gate, script: Path, profile: str
) -> None:
    approved = approve(gate, profile)
    elsewhere = gate.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "deploy.sh").write_text(EVIL)

    def swap() -> None:
        script.parent.rename(gate.root / "old")
        script.parent.symlink_to("elsewhere")

    outcome = run_with(gate, approved, swap)
    if profile == "build":
        assert outcome == "input_replaced: "
    else:
        assert outcome == "exited: approved\n"


def test_attack_47_a_cwd_swapped_after_the_check_in_a_writable_workspace_is_noticed(
    gate: Gate,
) -> None:
    sub = gate.root / "sub"
    sub.mkdir()
    request = ScriptRequest(b"sh", b"echo EVIL\n", cwd=bytes(sub))
    approved = gate.approve(request, "build")

    def swap() -> None:
        sub.rename(gate.root / "old")
        sub.mkdir()

    assert run_with(gate, approved, swap) == "input_replaced: "


@pytest.mark.parametrize("profile", ["read", "build"])
def test_attack_46_an_input_renamed_away_during_the_run_changes_nothing_or_ends_it(
    gate: Gate, profile: str
) -> None:
    """Renaming pulls a mount away. A read view is built so that it cannot happen there."""
    flags = gate.root / "flags"
    flags.mkdir()
    data = gate.root / "data.txt"
    data.write_text("approved")
    script = b"echo ready\nuntil [ -e flags/go ]; do :; done\ncat data.txt\n"
    approved = gate.approve(ScriptRequest(b"sh", script, inputs=(b"data.txt",)), profile)

    async def swap_when_ready(chunk: OutputChunk) -> None:
        gate.chunks.append(chunk)
        if not (flags / "go").exists():
            data.rename(gate.root / "old.txt")
            data.write_text("swapped")
            (flags / "go").touch()

    async def run() -> Ending:
        execution = await gate.executor.execute(
            approved,
            recheck=lambda: None,
            sink=swap_when_ready,
            stop=asyncio.Event(),
            chunk_interval=0,
        )
        return execution.ending

    ending = asyncio.run(run())

    if profile == "read":
        assert (ending, gate.output) == (Ending.EXITED, "ready\napproved")
    else:
        assert ending is Ending.INPUT_REPLACED


def test_attack_48_an_input_swapped_for_a_hard_link_is_drift(gate: Gate, script: Path) -> None:
    approved = approve(gate)
    (gate.root / "evil").write_text(EVIL)
    script.unlink()
    os.link(gate.root / "evil", script)

    assert drift_of(gate, approved).path == bytes(script)


@pytest.mark.skipif(os.geteuid() != 0, reason="bind mounts on the host need root")
@pytest.mark.parametrize("target", ["bin/deploy.sh", "bin"])
def test_attack_48_a_bind_mount_over_an_input_or_its_directory_is_drift(
    gate: Gate, script: Path, target: str
) -> None:
    approved = approve(gate)
    source = gate.root.parent / "evil"
    source.mkdir()
    (source / "deploy.sh").write_text(GOOD)  # even with equal bytes
    if target.endswith(".sh"):
        source = source / "deploy.sh"
    if subprocess.run(["mount", "--bind", source, gate.root / target], check=False).returncode:
        pytest.skip("this container may not mount")
    try:
        assert "mount" in drift_of(gate, approved).detail
    finally:
        subprocess.run(["umount", gate.root / target], check=True)


def test_attack_51_piped_stdin_differs(gate: Gate) -> None:
    approved = gate.approve(ExecRequest((b"cat",), stdin=b"good"))
    other = dataclasses.replace(approved.action, stdin=b"EVIL")

    assert "standard input" in str(drift_of(gate, dataclasses.replace(approved, action=other)))
    assert run_with(gate, approved, lambda: None) == "exited: good"


def test_the_action_kept_in_memory_must_be_the_drafts(gate: Gate, script: Path) -> None:
    approved = approve(gate)
    other = gate.approve(ExecRequest((b"id",)))

    drift_of(gate, dataclasses.replace(approved, action=other.action))


def test_limits_may_be_narrowed_but_not_widened(gate: Gate, script: Path) -> None:
    approved = approve(gate)
    wider = dataclasses.replace(approved.limits, wall_ms=approved.limits.wall_ms + 1)

    assert "limits" in str(drift_of(gate, dataclasses.replace(approved, limits=wider)))


@pytest.mark.parametrize("startup", [".bashrc", ".bash_profile", ".profile", ".zshenv"])
def test_attack_54_startup_files_of_the_workspace_are_not_read(gate: Gate, startup: str) -> None:
    (gate.root / startup).write_text(EVIL)

    gate.script("echo $HOME\n", interpreter=b"bash")

    assert gate.output == "/tmp/home\n"


def test_attack_54_the_hosts_startup_files_do_not_exist_inside(gate: Gate) -> None:
    gate.script(
        "ls -d /etc/profile /etc/bash.bashrc /etc/environment /etc/zsh 2>/dev/null; echo end"
    )

    assert gate.output == "end\n"


def test_attack_55_a_listed_module_that_mutates_is_a_drift(gate: Gate) -> None:
    module = gate.root / "lib" / "helper.py"
    module.parent.mkdir()
    module.write_text("print('approved')\n")
    (gate.root / "main.py").write_text("import sys; sys.path[0] += '/lib'; import helper\n")
    request = ExecRequest((b"python3", b"main.py"), inputs=(b"lib",))
    approved = gate.approve(request, "sealed")

    module.write_text("print('EVIL')\n")

    assert drift_of(gate, approved).path == bytes(module)


def test_attack_55_a_module_added_to_a_listed_directory_is_a_drift(gate: Gate) -> None:
    (gate.root / "lib").mkdir()
    (gate.root / "lib" / "a.py").write_text("")
    approved = gate.approve(ExecRequest((b"id",), inputs=(b"lib",)))

    (gate.root / "lib" / "json.py").write_text("print('EVIL')")

    assert "appeared" in drift_of(gate, approved).detail


def test_attack_55_a_module_that_was_not_frozen_does_not_exist_in_a_sealed_view(gate: Gate) -> None:
    (gate.root / "main.py").write_text("import json; print('approved', json.dumps({}))\n")
    (gate.root / "json.py").write_text("print('EVIL')\n")
    approved = gate.approve(ExecRequest((b"python3", b"main.py")), "sealed")

    assert run_with(gate, approved, lambda: None) == "exited: approved {}\n"


@pytest.mark.parametrize("when", ["pending", "checked"])
def test_attack_56_an_executable_upgraded_before_the_launch_does_not_run(
    gate: Gate, when: str
) -> None:
    program = gate.root / "tool"
    shutil.copy("/usr/bin/echo", program)
    approved = gate.approve(ExecRequest((b"./tool", b"approved")))

    def upgrade() -> None:
        program.unlink()
        shutil.copy("/usr/bin/false", program)

    if when == "pending":
        upgrade()
        assert drift_of(gate, approved).path == bytes(program)
    else:
        assert run_with(gate, approved, upgrade) == "exited: approved\n"


def test_attack_57_an_input_that_is_gone_is_drift(gate: Gate, script: Path) -> None:
    approved = approve(gate)
    script.unlink()

    assert "is gone" in drift_of(gate, approved).detail


def test_attack_57_a_file_that_appears_under_a_named_path_is_drift(gate: Gate) -> None:
    approved = gate.approve(ExecRequest((b"cat", b"later.txt")))
    (gate.root / "later.txt").write_text("EVIL")

    assert "appeared" in drift_of(gate, approved).detail


def test_attack_59_what_the_recheck_raises_stops_everything(gate: Gate, script: Path) -> None:
    approved = approve(gate)

    def policy_changed() -> None:
        raise Refused(Reason.POLICY_CHANGED)

    with pytest.raises(Refused):
        asyncio.run(gate.execute(approved, recheck=policy_changed))

    draft = gate.store.find_draft(approved.frozen.draft_id)
    assert draft is not None
    assert draft.state is State.APPROVED


def test_attack_59_a_changed_sandbox_profile_is_a_drift(gate: Gate, script: Path) -> None:
    approved = approve(gate)
    gate.profiles["read"] = dataclasses.replace(PROFILES["read"], network=True)
    gate.rebuild()

    assert "profile" in str(drift_of(gate, approved))


def test_attack_60_what_is_revoked_after_the_quorum_does_not_run(gate: Gate, script: Path) -> None:
    approved = approve(gate)
    gate.store.move_draft(approved.frozen.draft_id, Event.DENIAL, NOW)

    with pytest.raises(Refused, match="state"):
        gate.run(approved)

    assert gate.chunks == []


def test_attack_60_what_is_revoked_while_the_sandbox_is_set_up_does_not_run(
    gate: Gate, script: Path
) -> None:
    approved = approve(gate)
    gate.stop = asyncio.Event()

    execution = asyncio.run(gate.execute(approved, recheck=gate.stop.set))

    assert (execution.ending, execution.event) == (Ending.STOPPED, Event.DENIAL)
    assert gate.output == ""


def test_attack_60_what_is_revoked_while_it_runs_is_stopped(gate: Gate) -> None:
    request = ScriptRequest(b"sh", b"echo started\nwhile :; do :; done\n")
    approved = gate.approve(request)

    async def revoke(chunk: OutputChunk) -> None:
        gate.stop.set()

    async def run() -> Ending:
        gate.stop = asyncio.Event()
        execution = await gate.executor.execute(
            approved, recheck=lambda: None, sink=revoke, stop=gate.stop, chunk_interval=0
        )
        return execution.ending

    assert asyncio.run(run()) is Ending.STOPPED


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _rename(old: Path, new: Path) -> None:
    old.replace(new)
