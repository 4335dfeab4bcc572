"""Attack 58: an approved draft runs once, whatever races, crashes or retries."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent_bridge.core.pae import DraftID
from agent_bridge.core.refusals import Refused
from agent_bridge.core.states import Event, State
from agent_bridge.gate.executor_commit import Approved
from agent_bridge.gate.executor_run import Ending
from agent_bridge.gate.freezing import ScriptRequest
from agent_bridge.gate.sandbox_profiles import PROFILES
from agent_bridge.gate.store import AlreadyConsumed, open_store
from tests.agent_bridge.gate.drafts import NOW, Gate, make_receipt

COUNT = b"echo ran >> runs.txt\n"
PATIENCE_SECONDS = 20

GATE_PROCESS = """
import asyncio, os, signal, sys
from pathlib import Path
from agent_bridge.gate.freezing import ScriptRequest
from agent_bridge.gate.store import Store
from tests.agent_bridge.gate.drafts import make_gate

gate = make_gate(Path(sys.argv[1]))
approved = gate.approve(ScriptRequest(b"sh", sys.argv[3].encode()), "build")
print(approved.frozen.draft_id, flush=True)
if sys.argv[2] == "die-after-consume":
    consume = gate.store.consume
    def consume_and_die(draft_id, now_ms):
        consume(draft_id, now_ms)
        os.kill(os.getpid(), signal.SIGKILL)
    gate.store.consume = consume_and_die
gate.run(approved)
"""


def start_gate(directory: Path, mode: str, script: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", GATE_PROCESS, str(directory), mode, script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def runs(root: Path) -> int:
    log = root / "runs.txt"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_attack_58_two_executions_race_and_one_runs(gate: Gate) -> None:
    approved = gate.approve(ScriptRequest(b"sh", COUNT), "build")

    async def race() -> list[object]:
        gate.stop = asyncio.Event()
        both = (gate.execute(approved), gate.execute(approved))
        return list(await asyncio.gather(*both, return_exceptions=True))

    results = asyncio.run(race())

    assert sum(isinstance(result, AlreadyConsumed) for result in results) == 1
    assert runs(gate.root) == 1


def test_attack_58_a_storm_of_retries_runs_nothing_again(gate: Gate) -> None:
    approved = gate.approve(ScriptRequest(b"sh", COUNT), "build")
    gate.run(approved)

    for _ in range(10):
        with pytest.raises(AlreadyConsumed):
            gate.run(approved)

    assert runs(gate.root) == 1


def test_a_draft_without_its_quorum_is_not_consumed(gate: Gate) -> None:
    first = gate.approve(ScriptRequest(b"sh", COUNT), "build")
    gate.store.move_draft(first.frozen.draft_id, Event.EXPIRY, NOW)

    with pytest.raises(Refused):
        gate.run(first)

    assert runs(gate.root) == 0
    draft = gate.store.find_draft(first.frozen.draft_id)
    assert draft is not None
    assert draft.state is State.EXPIRED


def test_attack_58_killed_between_consume_and_launch_is_ambiguous(tmp_path: Path) -> None:
    process = start_gate(tmp_path, "die-after-consume", COUNT.decode())
    told, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == -signal.SIGKILL
    draft_id = DraftID(told.strip())

    with open_store(tmp_path / "state" / "gate.sqlite3") as store:
        recovery = store.recover(NOW)
        draft = store.find_draft(draft_id)
        assert draft is not None
        assert (draft.state, recovery.ambiguous) == (State.AMBIGUOUS, (draft_id,))
        with pytest.raises(AlreadyConsumed):
            store.consume(draft_id, NOW)

    assert runs(tmp_path / "workspace") == 0


def test_attack_62_a_killed_gate_takes_its_action_with_it(tmp_path: Path) -> None:
    """The action holds a pipe open; the pipe ends when its last process is dead."""
    script = "exec 3>alive; echo up >&3; (setsid sh -c 'while :; do sleep 1; done' &) ; sleep 1000"
    (tmp_path / "workspace").mkdir()
    os.mkfifo(tmp_path / "workspace" / "alive")
    (tmp_path / "workspace").rename(tmp_path / "later")
    process = start_gate_over(tmp_path, script)
    assert process.stdout is not None
    draft_id = DraftID(process.stdout.readline().strip())

    with (tmp_path / "workspace" / "alive").open("rb", buffering=0) as alive:
        assert alive.read(3) == b"up\n"
        process.kill()
        process.wait()
        process.stdout.close()
        readable, _, _ = select.select([alive], [], [], PATIENCE_SECONDS)
        assert readable
        assert alive.read(1) == b""

    with open_store(tmp_path / "state" / "gate.sqlite3") as store:
        assert store.recover(NOW).ambiguous == (draft_id,)


def start_gate_over(directory: Path, script: str) -> "subprocess.Popen[str]":
    """Start a gate whose workspace holds a pipe from the beginning."""
    code = GATE_PROCESS.replace(
        "gate = make_gate(Path(sys.argv[1]))",
        "gate = make_gate(Path(sys.argv[1])); "
        "Path(sys.argv[1], 'later', 'alive').rename(gate.root / 'alive')",
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(directory), "run", script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def test_a_sandbox_that_cannot_be_set_up_fails_the_draft(gate: Gate) -> None:
    """Consumed, never run, and said so: not ambiguous, because nothing was released."""
    approved: Approved = gate.approve(ScriptRequest(b"sh", COUNT), "build")
    gate.sandbox = type(gate.sandbox)("/bin/false", "broken")
    gate.rebuild()

    execution = gate.run(approved)

    assert (execution.ending, execution.event) == (Ending.LAUNCH_FAILED, Event.FAILED)
    assert (execution.started_at, execution.executed) == (None, None)
    assert runs(gate.root) == 0


@pytest.mark.parametrize(
    ("script", "state"),
    [("exit 0", State.DONE), ("exit 3", State.FAILED), ("kill -9 $$", State.FAILED)],
)
def test_an_execution_becomes_a_receipt_the_store_accepts(
    gate: Gate, script: str, state: State
) -> None:
    approved = gate.approve(ScriptRequest(b"sh", script.encode()))
    execution = gate.run(approved)

    receipt = make_receipt(approved.frozen, execution)
    gate.store.append_receipt(receipt, execution.event, NOW)

    draft = gate.store.find_draft(approved.frozen.draft_id)
    assert draft is not None
    assert draft.state is state


def test_a_run_that_was_never_let_go_becomes_a_receipt_too(gate: Gate) -> None:
    approved = gate.approve(ScriptRequest(b"sh", COUNT))
    gate.stop = asyncio.Event()
    execution = asyncio.run(gate.execute(approved, recheck=gate.stop.set))

    gate.store.append_receipt(make_receipt(approved.frozen, execution), execution.event, NOW)

    draft = gate.store.find_draft(approved.frozen.draft_id)
    assert draft is not None
    assert draft.state is State.REVOKED


def test_a_writable_run_reports_which_files_it_changed(gate: Gate) -> None:
    (gate.root / "old").write_text("1")
    (gate.root / "gone").write_text("1")
    (gate.root / "same").write_text("1")

    execution = gate.script("echo 2 > old; rm gone; mkdir d; echo 3 > d/new", "build")

    assert execution.changed_files is not None
    changes = {
        os.fsdecode(file.path).removeprefix(f"{gate.root}/"): (bool(file.pre), bool(file.post))
        for file in execution.changed_files
    }
    assert changes == {"old": (True, True), "gone": (True, False), "d/new": (False, True)}


def test_profiles_have_different_stable_digests() -> None:
    digests = {name: profile.digest for name, profile in PROFILES.items()}

    assert len(set(digests.values())) == len(digests)
    assert digests["read"] == PROFILES["read"].digest
