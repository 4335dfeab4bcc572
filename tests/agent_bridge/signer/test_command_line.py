"""The commands on a real homeserver, with a real gate in its own process."""

from pathlib import Path

import pytest

from agent_bridge.gate.exit_codes import ExitCode
from tests.agent_bridge.signer.console import Console, Said


def enroll_and_trust(console: Console, name: str, account: Said, gate: Said) -> None:
    enrolled = console.gate(
        "enroll", account.line("user"), "--master-key", account.line("master key")
    )
    assert enrolled.code == 0, enrolled.err
    assert enrolled.line("fingerprint") == account.line("fingerprint")
    trusted = console.signer(
        name, "trust-gate", gate.line("gate user"), gate.line("gate fingerprint")
    )
    assert trusted.code == 0, trusted.err


@pytest.fixture
def console(tmp_path: Path, matrix_server: str) -> Console:
    return Console(tmp_path, matrix_server)


def test_a_person_approves_and_verifies_what_happened(console: Console) -> None:
    alice = console.register("alice")
    assert alice.code == 0, alice.err
    gate = console.set_up_gate(alice.line("user").partition(":")[2])
    assert gate.code == 0, gate.err
    enroll_and_trust(console, "alice", alice, gate)

    with console.running_gate():
        assert console.signer("alice", "sync").code == 0
        console.ask(gate.line("requests room"), "sh", "-c", "echo hello; touch made")
        (draft,) = console.pending("alice")
        assert "echo hello; touch made" in draft["rendering"]
        approved = console.signer("alice", "approve", draft["draft_id"], "--wait", "60")

    assert approved.code == 0, approved.err + approved.out
    assert "| hello" in approved.out.splitlines()
    assert (console.directory / "work" / "made").exists()
    again = console.signer("alice", "approve", draft["draft_id"])
    assert again.code == ExitCode.NO_DRAFT
    assert console.signer("alice", "export", draft["draft_id"], "bundle").code == 0
    verified = console.signer("alice", "verify", "bundle")
    assert (verified.code, verified.out.splitlines()[-1]) == (0, "verified")
    elsewhere = console.signer("elsewhere", "verify", "bundle", "--pins", "bundle.pins")
    assert elsewhere.code == 0
    bundle = (console.directory / "bundle").read_text()
    (console.directory / "tampered").write_text(bundle.replace('"output":["', '"output":["A', 1))
    tampered = console.run_process("verify", "tampered", "--dir", "alice")
    assert tampered.code == ExitCode.REFUSED
    assert "FAIL" in tampered.out


def test_two_people_are_needed_for_t3_and_one_can_deny(console: Console) -> None:
    alice, bob = console.register("alice"), console.register("bob")
    gate = console.set_up_gate(alice.line("user").partition(":")[2])
    enroll_and_trust(console, "alice", alice, gate)
    enroll_and_trust(console, "bob", bob, gate)
    (console.directory / "work" / "target").mkdir()

    with console.running_gate():
        for name in ("alice", "bob"):
            assert console.signer(name, "sync").code == 0
        console.ask(gate.line("requests room"), "rm", "-r", "target")
        (draft,) = console.pending("alice")
        assert console.signer("alice", "approve", draft["draft_id"]).code == 0
        console.pending("bob")
        second = console.signer("bob", "approve", draft["draft_id"], "--wait", "60")
        assert second.code == 0, second.err + second.out
        assert not (console.directory / "work" / "target").exists()
        console.ask(gate.line("requests room"), "touch", "made")
        (draft,) = console.pending("alice")
        denied = console.signer("alice", "deny", draft["draft_id"], "--wait", "60")
        listed = console.signer("bob", "pending")

    assert f"denied (denied) {draft['draft_id']}" in listed.out
    assert denied.code == 0, denied.err + denied.out
    assert not (console.directory / "work" / "made").exists()


def test_a_second_device_signs_only_after_the_first_vouches_for_it(console: Console) -> None:
    alice = console.register("alice")
    gate = console.set_up_gate(alice.line("user").partition(":")[2])
    enroll_and_trust(console, "alice", alice, gate)
    tablet = console.log_in("tablet", alice.line("user"))
    assert tablet.code == 0, tablet.err
    assert tablet.line("master key") == alice.line("master key")
    assert "countersign verify-device" in tablet.line("next")
    gate_user, fingerprint = gate.line("gate user"), gate.line("gate fingerprint")
    assert console.signer("tablet", "trust-gate", gate_user, fingerprint).code == 0

    with console.running_gate():
        assert console.signer("alice", "sync").code == 0
        console.ask(gate.line("requests room"), "touch", "first")
        assert console.pending("tablet") == []  # no key is shared with an unsigned device
        vouched = console.signer(
            "alice", "verify-device", tablet.line("device"), tablet.line("device key")
        )
        assert vouched.code == 0, vouched.err
        (draft,) = console.pending("alice")
        assert console.signer("alice", "deny", draft["draft_id"], "--wait", "60").code == 0
        console.ask(gate.line("requests room"), "touch", "made")
        (draft,) = console.pending("tablet")
        approved = console.signer("tablet", "approve", draft["draft_id"], "--wait", "60")

    assert approved.code == 0, approved.err + approved.out
    assert (console.directory / "work" / "made").exists()


def test_each_failure_is_one_line_with_its_own_exit_code(console: Console) -> None:
    alice = console.register("alice")
    gate = console.set_up_gate(alice.line("user").partition(":")[2])

    cases = [
        (console.signer("nobody", "pending"), ExitCode.NOT_SET_UP),
        (console.signer("nobody", "verify", "missing"), ExitCode.USAGE),
        (console.signer("alice", "approve", "d1:unknown"), ExitCode.NO_DRAFT),
        (
            console.signer("alice", "trust-gate", gate.line("gate user"), "AAAA-BBBB"),
            ExitCode.UNTRUSTED,
        ),
        (
            console.signer("alice", "approve", "d1:x", "--restrict", "wall=1"),
            ExitCode.USAGE,
        ),
        (console.gate("enroll", "alice", "--master-key", "x"), ExitCode.USAGE),
        (
            console.gate("enroll", alice.line("user"), "--master-key", "short"),
            ExitCode.USAGE,
        ),
        (console.run_process("gate", "run", "--config", "missing.toml"), ExitCode.USAGE),
        (
            console.signer(
                "new",
                *("login", "--homeserver", "http://127.0.0.1:9", "--user", "@a:b"),
                *("--password-file", "password"),
            ),
            ExitCode.SERVER,
        ),
    ]

    for said, code in cases:
        assert said.code == code, said
        assert said.err.startswith("countersign: "), said
        assert len(said.err.splitlines()) == 1, said


def test_a_gate_whose_store_is_gone_stays_closed_until_the_console_says_otherwise(
    console: Console,
) -> None:
    alice = console.register("alice")
    console.set_up_gate(alice.line("user").partition(":")[2])
    (console.directory / "state" / "gate.sqlite3").unlink()

    assert console.run_process("gate", "run").code == ExitCode.CLOSED
    assert console.gate("init").code == ExitCode.CLOSED
    assert console.gate("init", "--new-store").code == 0
    with console.running_gate():
        assert "running: True" in console.gate("status").out
